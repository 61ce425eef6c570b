"""Loading: a plain transformers tower, checked, and clear words when it cannot be had."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModel, CLIPVisionModelWithProjection

import safeencoders
from safeencoders import catalog, trust
from safeencoders.errors import BadInputError, IntegrityError, MissingOnHubError, OfflineError, UnknownNameError
from safeencoders.fingerprint import fingerprint
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


# --- folders of every form ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(clip, tmp_path):
    """A whole CLIP as transformers saves it."""
    clip.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def tensors(folder, change=lambda state: state):
    """Read a folder's tensors, or change them in place."""
    changed = change(load_file(folder / "model.safetensors"))
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return changed


def assert_same(tower, expected):
    assert tower.state_dict().keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert torch.equal(tower.state_dict()[name], value), name


@pytest.fixture
def said():
    """What transformers logs; its own handler holds an older stderr than the one that pytest reads."""
    lines, logger = [], logging.getLogger("transformers")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def test_each_tower_of_a_whole_clip_loads_bit_for_bit_and_without_noise(folder, clip, said, capfd):
    capfd.readouterr()
    assert_same(safeencoders.load(str(folder)), clip.text_model)
    assert_same(safeencoders.load(str(folder), tower="vision"), clip.vision_model)
    text = safeencoders.load(str(folder), projection=True)
    assert torch.equal(text.text_projection.weight, clip.text_projection.weight)
    vision = safeencoders.load(str(folder), tower="vision", projection=True)
    assert torch.equal(vision.visual_projection.weight, clip.visual_projection.weight)
    assert (said, *capfd.readouterr()) == ([], "", "")


def test_the_same_folder_through_transformers_alone_is_noisy(folder, said):
    CLIPTextModel.from_pretrained(folder)
    assert "UNEXPECTED" in "".join(said)


@pytest.mark.parametrize("form", ["prefixed", "flat", "old"])
def test_keys_with_and_without_a_prefix_load_and_are_saved_with_it(tmp_path, clip, form):
    safeencoders_form = {f"text_model.{key}": value for key, value in clip.text_model.state_dict().items()}
    state = clip.text_model.state_dict() if form == "flat" else safeencoders_form
    if form == "old":
        state = state | {"text_model.embeddings.position_ids": torch.arange(32)[None]}
    clip.text_model.config.save_pretrained(tmp_path)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    tower = safeencoders.load(str(tmp_path))
    assert_same(tower, clip.text_model)
    tower.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == safeencoders_form.keys()


@pytest.mark.parametrize("places", [("text", "vision"), ("text_encoder", "image_encoder")])
def test_towers_side_by_side_and_in_a_pipelines_folders_are_found(tmp_path, clip, places):
    clip.text_model.save_pretrained(tmp_path / places[0])
    clip.vision_model.save_pretrained(tmp_path / places[1])
    assert_same(safeencoders.load(str(tmp_path)), clip.text_model)
    assert_same(safeencoders.load(str(tmp_path), tower="vision"), clip.vision_model)


def test_weights_in_parts_load(folder, clip):
    (folder / "model.safetensors").unlink()
    clip.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert_same(safeencoders.load(str(folder)), clip.text_model)
    min(folder.glob("model-*.safetensors")).unlink()
    with pytest.raises(BadInputError, match=r"expected weights in .*model-00001-of"):
        safeencoders.load(str(folder))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "text_encoder.pth"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_pickle_is_read_where_there_is_nothing_else_and_named_in_the_log(folder, clip, caplog, name, nested):
    state = load_file(folder / "model.safetensors")
    torch.save({"state_dict": state, "step": 3} if nested else state, folder / name)
    with caplog.at_level(logging.WARNING, "safeencoders"):
        safeencoders.load(str(folder))
        assert caplog.messages == []
        (folder / "model.safetensors").unlink()
        assert_same(safeencoders.load(str(folder)), clip.text_model)
    assert caplog.messages == [f"{name} is a pickle; only tensors are read from it (weights_only). Prefer safetensors."]


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_that_would_run_code_is_refused_and_not_run(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Evil(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(BadInputError, match=r"expected only tensors in .* it was not run"):
        safeencoders.load(str(folder))
    assert not (tmp_path / "ran").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)  # the twin: read naively, it does run
    assert (tmp_path / "ran").exists()


def without(key):
    return lambda state: {name: value for name, value in state.items() if name != key}


FC = "text_model.encoder.layers.1.mlp.fc1.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without(FC), rf"expected the 36 tensors of a CLIPTextModel in .*; 1 missing, such as '{FC}'"),
        (lambda state: state | {FC.replace("fc1", "fc3"): state[FC] + 1}, r"1 too many, such as '.*fc3\.weight'"),
        (lambda state: state | {FC.replace(".1.", ".2."): state[FC] + 1}, r"1 too many, such as '.*layers\.2\."),
        (lambda state: state | {FC: torch.zeros(32, 8)}, r"of shape \(32, 16\) as config.json says, got \(32, 8\)"),
    ],
    ids=["missing", "unknown", "another layer", "another shape"],
)
def test_weights_that_are_not_the_towers_own_are_refused_and_never_left_random(folder, change, words):
    safeencoders.load(str(folder))
    tensors(folder, change)
    with pytest.raises(BadInputError, match=words):
        safeencoders.load(str(folder))
    safeencoders.load(str(folder), tower="vision")  # the other tower is whole


def test_a_missing_projection_is_named(tmp_path, clip):
    clip.text_model.save_pretrained(tmp_path)
    with pytest.raises(BadInputError, match=r"expected text_projection\.weight in .*projection=False"):
        safeencoders.load(str(tmp_path), projection=True)


def test_damaged_files_of_a_folder_are_named(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BadInputError, match=r"expected weights in .*model\.safetensors"):
        safeencoders.load(str(folder))
    weights.unlink()
    with pytest.raises(BadInputError, match=r"expected model\.safetensors in .*, found none"):
        safeencoders.load(str(folder))
    for name in "ab":
        (folder / f"{name}.bin").write_bytes(b"")
    with pytest.raises(BadInputError, match=r"found a\.bin, b\.bin"):
        safeencoders.load(str(folder))
    (folder / "pytorch_model.bin").write_bytes(b"not a pickle")
    with pytest.raises(BadInputError, match="expected only tensors in"):
        safeencoders.load(str(folder))
    torch.save([1, 2], folder / "pytorch_model.bin")
    with pytest.raises(BadInputError, match="expected a mapping from names to tensors"):
        safeencoders.load(str(folder))


@pytest.mark.parametrize("config", ["[]", "{", '{"model_type": "clip_text_model", "hidden_size": "wide"}'])
def test_a_configuration_that_is_none_is_refused(folder, config):
    (folder / "config.json").write_text(config)
    with pytest.raises(BadInputError, match=r"config\.json"):
        safeencoders.load(str(folder))


def test_an_empty_folder_is_no_encoder(tmp_path):
    with pytest.raises(BadInputError, match=r"expected an encoder in .* found none; check the path"):
        safeencoders.load(str(tmp_path))


# --- the Hub and the catalog --------------------------------------------------------------------------------------

REPO = "some-lab/some-encoder"


@pytest.fixture
def record(monkeypatch):
    """Put a record for REPO into the catalog; it is of no commercial use."""
    found = replace(catalog.info("safe-clip-vit-l-14"), name="some-encoder", repo=REPO, base=None)

    def put(**changes):
        monkeypatch.setattr(catalog, "PUBLISHED", (replace(found, **changes),))
        monkeypatch.setattr(catalog, "_told", set())

    put()
    return put


def test_a_repository_loads_by_its_id_bit_for_bit_and_again_offline(fake_hub, clip_files, clip, monkeypatch):
    fake_hub.publish(REPO, clip_files | {"open_clip_pytorch_model.bin": b"of another library", "README.md": b"words"})
    assert_same(safeencoders.load(REPO), clip.text_model)
    assert_same(safeencoders.load(REPO, tower="vision"), clip.vision_model)
    assert not any("open_clip" in request for request in fake_hub.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    again = safeencoders.load(REPO)
    assert fingerprint(again) == fingerprint(clip.text_model)


def test_a_record_of_the_catalog_loads_and_names_its_licence_once(fake_hub, clip_files, clip, record):
    record()
    fake_hub.publish(REPO, clip_files)
    with pytest.warns(catalog.LicenceWarning, match=r"some-encoder are under CC-BY-NC-4\.0"):
        tower = safeencoders.load("some-encoder")
    assert_same(tower, clip.text_model)
    assert_same(safeencoders.load("some-encoder", tower="vision"), clip.vision_model)  # no second warning


def test_a_recorded_hash_is_compared(fake_hub, clip_files, record):
    import hashlib

    good = hashlib.sha256(clip_files["model.safetensors"]).hexdigest()
    fake_hub.publish(REPO, clip_files)
    record(sha256=good, licence="CC-BY-4.0")
    safeencoders.load("some-encoder")
    record(sha256="0" * 64, licence="CC-BY-4.0")
    with pytest.raises(IntegrityError, match=good):
        safeencoders.load("some-encoder")


def test_a_tower_that_a_record_has_not_is_refused_before_anything_is_asked(fake_hub, record):
    record(vision=None)
    with pytest.raises(BadInputError, match="expected an encoder with a vision tower, got 'some-encoder'"):
        safeencoders.load("some-encoder", tower="vision")
    assert fake_hub.requests == []


def test_a_subfolder_of_pickles_loads_as_the_published_ones_lie(fake_hub, clip, record, tmp_path, caplog):
    state = {f"text_model.{key}": value for key, value in clip.text_model.state_dict().items()}
    torch.save(state | {"text_model.embeddings.position_ids": torch.arange(32)[None]}, tmp_path / "weights")
    config = clip.text_model.config.to_json_string().encode()
    files = {"config.json": config, "pytorch_model.bin": (tmp_path / "weights").read_bytes()}
    fake_hub.publish(REPO, {f"{place}/{name}": file for place in ("a", "b") for name, file in files.items()})
    record(subfolder="b", vision=None, licence="CC-BY-4.0")
    assert_same(safeencoders.load("some-encoder"), clip.text_model)
    assert_same(safeencoders.load(f"{REPO}/a"), clip.text_model)
    assert set(trust.recall(REPO).files) == {"a/config.json", "a/pytorch_model.bin"} | {
        "b/config.json",
        "b/pytorch_model.bin",
    }
    assert "pytorch_model.bin is a pickle" in caplog.text
    with pytest.raises(BadInputError, match=rf"expected a text tower .* in {REPO}/c, found none; check the name"):
        safeencoders.load(f"{REPO}/c")
    with pytest.raises(BadInputError, match=rf"expected a text tower .* in {REPO}, found none"):
        safeencoders.load(REPO)


def test_a_strength_below_one_takes_the_published_original_as_its_zero(fake_hub, clip_files, clip, record, tmp_path):
    fake_hub.publish("some-lab/original", clip_files)
    with torch.no_grad():
        for parameter in clip.text_model.parameters():
            parameter.add_(0.25)
    clip.save_pretrained(tmp_path / "tuned")
    fake_hub.publish(REPO, {path.name: path.read_bytes() for path in (tmp_path / "tuned").iterdir()})
    record(base="some-lab/original", licence="CC-BY-4.0")
    original, half = safeencoders.load("some-lab/original"), safeencoders.load("some-encoder", strength=0.5)
    for name, value in original.state_dict().items():
        torch.testing.assert_close(half.state_dict()[name], value + 0.125, atol=1e-6, rtol=0)
    record(licence="CC-BY-4.0")
    with pytest.raises(BadInputError, match=r"expected delta\.safetensors .* load it at 1"):
        safeencoders.load("some-encoder", strength=0.5)


def test_a_revision_is_taken_and_is_refused_where_there_is_none(fake_hub, clip_files, clip, tmp_path):
    first = fake_hub.publish(REPO, clip_files)
    fake_hub.publish(REPO, clip_files | {"model.safetensors": b"broken"})
    assert_same(safeencoders.load(REPO, revision=first), clip.text_model)
    with pytest.raises(BadInputError, match="expected weights in"):
        safeencoders.load(REPO)
    for name in ("pictoworld", str(tmp_path)):
        with pytest.raises(BadInputError, match=r"expected no revision for .*, which is not on the Hub, got 'main'"):
            safeencoders.load(name, revision="main")


def test_an_existing_folder_comes_before_a_repository_of_its_name(fake_hub, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip.save_pretrained(REPO)
    assert_same(safeencoders.load(REPO), clip.text_model)
    assert fake_hub.requests == []


def test_a_path_that_is_no_folder_is_not_found_on_the_hub_either(fake_hub):
    with pytest.raises(MissingOnHubError, match=r"there is no runs/best on the Hub .* no folder of that name here"):
        safeencoders.load("runs/best")
    assert fake_hub.requests
    with pytest.raises(UnknownNameError):
        safeencoders.load("/runs/best")


def test_offline_a_published_encoder_names_the_remedy():
    with pytest.raises(OfflineError, match=r"load\('pictoworld'\) needs no download"):
        safeencoders.load("safe-clip-vit-l-14")


def test_a_slip_in_a_shipped_name_is_not_looked_for_on_the_hub(fake_hub):
    with pytest.raises(UnknownNameError, match="Did you mean 'pictoworld/safe-clip'"):
        safeencoders.load("pictoworld/sfe-clip")
    assert fake_hub.requests == []
