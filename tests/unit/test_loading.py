"""Loading: a plain transformers tower, checked, and clear words when it cannot be had."""

import json
import shutil

import pytest
import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModel, CLIPVisionModelWithProjection

import safeencoders
from safeencoders.errors import BadInputError, IntegrityError, UnknownNameError
from safeencoders.pictoworld import models

IDS = torch.tensor([[1581, 300, 400, *[1582] * 29]])


@pytest.mark.parametrize("name", ["pictoworld", "pictoworld/safe-clip", "none"])
def test_load_gives_a_plain_tower_in_float32_eval_mode_without_gradients(name):
    tower = safeencoders.load(name)
    assert type(tower) is CLIPTextModel
    assert tower.dtype == torch.float32
    assert not tower.training
    assert not any(p.requires_grad for p in tower.parameters())


@pytest.mark.parametrize("tower", ["text", "vision"])
@pytest.mark.parametrize("name", ["pictoworld", "pictoworld/safe-clip"])
def test_strength_leads_from_the_original_to_the_shipped_tower(name, tower):
    none, half, whole = (safeencoders.load(name, tower=tower, strength=s).state_dict() for s in (0.0, 0.5, 1.0))
    original, plain = safeencoders.load("none", tower=tower).state_dict(), safeencoders.load(name, tower=tower)
    for key, value in original.items():
        torch.testing.assert_close(none[key], value, atol=1e-6, rtol=0)
        torch.testing.assert_close(half[key], (value + whole[key]) / 2, atol=1e-6, rtol=0)
        assert torch.equal(whole[key], plain.state_dict()[key])
    assert any(not torch.allclose(whole[key], value, atol=1e-3) for key, value in original.items())


def test_none_is_the_original_and_the_default_is_not():
    original, own = safeencoders.load("none"), models.clip().text_model
    expected = own(input_ids=IDS).last_hidden_state
    assert torch.equal(original(input_ids=IDS).last_hidden_state, expected)
    assert not torch.allclose(safeencoders.load()(input_ids=IDS).last_hidden_state, expected)


def test_projection_gives_the_class_with_the_head():
    tower = safeencoders.load("pictoworld", projection=True)
    assert type(tower) is CLIPTextModelWithProjection
    assert tower(input_ids=IDS).text_embeds.shape == (1, 128)


def test_dtype_is_taken_as_asked():
    assert safeencoders.load(dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_saved_tower_reloads_with_plain_transformers_bit_for_bit(tmp_path):
    tower = safeencoders.load()
    tower.save_pretrained(tmp_path)
    again = CLIPTextModel.from_pretrained(tmp_path)
    assert torch.equal(tower(input_ids=IDS).last_hidden_state, again(input_ids=IDS).last_hidden_state)
    assert torch.equal(
        safeencoders.load(str(tmp_path))(input_ids=IDS).last_hidden_state, tower(input_ids=IDS).last_hidden_state
    )


def test_an_unknown_name_is_refused_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="Did you mean 'pictoworld'"):
        safeencoders.load("pictowolrd")


def test_the_original_vision_tower_is_the_clips_own_with_and_without_projection():
    clip, pixels = models.clip(), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = clip.vision_model(pixel_values=pixels)
    plain = safeencoders.load("none", tower="vision")
    assert type(plain) is CLIPVisionModel
    assert torch.equal(plain(pixel_values=pixels).last_hidden_state, expected.last_hidden_state)
    head = safeencoders.load("none", tower="vision", projection=True)
    assert type(head) is CLIPVisionModelWithProjection
    assert torch.equal(head(pixel_values=pixels).image_embeds, clip.visual_projection(expected.pooler_output))


def test_a_tower_that_the_encoder_has_not_is_refused(tmp_path):
    safeencoders.load().save_pretrained(tmp_path / "text")
    assert type(safeencoders.load(str(tmp_path))) is CLIPTextModel
    with pytest.raises(BadInputError, match=r"expected an encoder with a vision tower, got .*which has none"):
        safeencoders.load(str(tmp_path), tower="vision")
    with pytest.raises(BadInputError, match=r"expected a CLIP vision tower in .*clip_text_model"):
        safeencoders.load(str(tmp_path / "text"), tower="vision")
    with pytest.raises(BadInputError, match="expected tower 'text' or 'vision', got 'audio'"):
        safeencoders.load(tower="audio")


def test_a_folder_of_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(BadInputError, match="expected a CLIP text tower"):
        safeencoders.load(str(tmp_path))


@pytest.mark.parametrize("damage", ["truncate", "change", "remove"])
def test_damaged_weights_are_refused_with_both_hashes(tmp_path, monkeypatch, damage):
    copy = tmp_path / "weights"
    shutil.copytree(models.WEIGHTS, copy)
    monkeypatch.setattr(models, "WEIGHTS", copy)
    safeencoders.load()
    file = copy / "towers" / "pictoworld" / "text" / "model.safetensors"
    content = file.read_bytes()
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content[:-100] if damage == "truncate" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=r"model\.safetensors") as caught:
        safeencoders.load()
    assert models.hashes()["towers/pictoworld/text/model.safetensors"] in str(caught.value)


@pytest.mark.parametrize("name", ["none", "pictoworld", "pictoworld/safe-clip"])
@pytest.mark.parametrize("tower", ["text", "vision"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_every_shipped_tower_has_the_originals_projection(name, tower, strength):
    head = models.clip().get_submodule("text_projection" if tower == "text" else "visual_projection").weight
    found = safeencoders.load(name, tower=tower, projection=True, strength=strength)
    assert torch.equal(found.get_submodule("text_projection" if tower == "text" else "visual_projection").weight, head)
