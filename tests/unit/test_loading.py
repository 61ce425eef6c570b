"""Loading: a plain transformers tower, checked, and clear words when it cannot be had."""

import json
import shutil

import pytest
import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection

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


def test_a_vision_tower_is_refused_for_none_is_shipped():
    with pytest.raises(BadInputError, match="text tower only"):
        safeencoders.load("pictoworld", tower="vision")


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
