"""Deltas and exports: original + delta is the tuned tower, at any strength, and plain transformers loads it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModel, CLIPVisionModelWithProjection

import safeencoders
from safeencoders import deltas
from safeencoders.deltas import Delta
from safeencoders.errors import BadInputError
from safeencoders.pictoworld import models
from safeencoders.training.edits import EditSpec
from safeencoders.training.export import save_merged, save_tower

SPECS = {
    "full": EditSpec(),
    "lora": EditSpec("lora", rank=4, alpha=8.0),
    "frozen": EditSpec(frozen=("embeddings.", "encoder.layers.0.")),
}
TOWERS = ("text", "vision")
PLAIN = {"text": CLIPTextModel, "vision": CLIPVisionModel}
WITH_HEAD = {"text": CLIPTextModelWithProjection, "vision": CLIPVisionModelWithProjection}
FROM = {"recipe": "mine", "seed": 3, "steps": 7}


def tower_of(clip, name):
    return clip.text_model if name == "text" else clip.vision_model


def made(clip, name, spec):
    """Give an edit that has moved."""
    edit = spec.apply(tower_of(clip, name))
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in edit.tuned.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=draw))
    return edit


def inputs(name, rows):
    found = rows(4)
    return {"input_ids": found["t"]} if name == "text" else {"pixel_values": found["v"]}


def state(tower):
    """Weights by their plain names, without the head."""
    return {name.removeprefix("text_model.").removeprefix("vision_model."): value.detach()
            for name, value in tower.state_dict().items() if "projection.weight" not in name}  # fmt: skip


def distance(first, second):
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.fixture(params=[(name, kind) for name in TOWERS for kind in SPECS], ids="-".join)
def exported(request, clip, tmp_path):
    """Give the name of a tower, its original, its edit and the folder it was saved to."""
    clip.requires_grad_(False)
    name, kind = request.param
    edit = made(clip, name, SPECS[kind])
    save_tower(clip, name, edit, tmp_path / name, FROM)
    return name, tower_of(clip, name), edit, tmp_path / name


# --- the delta ------------------------------------------------------------------------------------------------------


def test_the_original_and_the_changes_make_the_tuned_tower(exported):
    _, original, edit, _ = exported
    merged, changes = edit.merge().state_dict(), edit.delta().changes()
    found = {name: value + changes[name] if name in changes else value for name, value in original.state_dict().items()}
    assert distance(found, merged) < 1e-6
    assert distance(original.state_dict(), merged) > 0.05  # the delta is not nothing


def test_only_what_moved_is_in_the_delta(exported):
    _, original, edit, _ = exported
    merged = edit.merge().state_dict()
    moved = {name for name, value in original.state_dict().items() if not torch.equal(value, merged[name])}
    assert set(edit.delta().changes()) == moved
    assert moved


def test_a_delta_that_is_read_back_has_the_same_changes_and_provenance(exported, tmp_path):
    from safetensors import safe_open

    _, _, edit, folder = exported
    delta, found = edit.delta(), deltas.read(folder / deltas.FILE)
    assert (found.edit, dict(found.numbers)) == (delta.edit, dict(delta.numbers))
    assert all(torch.equal(found.changes()[name], change) for name, change in delta.changes().items())
    with safe_open(folder / deltas.FILE, "pt") as file:
        assert json.loads(file.metadata()["provenance"]) == FROM
    delta.save(tmp_path / "half.safetensors", FROM, half=True)
    assert distance(deltas.read(tmp_path / "half.safetensors").changes(), delta.changes()) < 1e-2
    assert (tmp_path / "half.safetensors").stat().st_size < (folder / deltas.FILE).stat().st_size


def test_adapters_are_a_small_file(clip):
    sizes = {
        kind: sum(t.numel() for t in made(clip, "text", SPECS[kind]).delta().tensors.values())
        for kind in ("full", "lora")
    }
    assert sizes["lora"] < sizes["full"] / 3


# --- strength -------------------------------------------------------------------------------------------------------


def test_strength_is_a_straight_line_from_the_original_to_the_tuned_tower(exported):
    name, original, edit, folder = exported
    loaded = {s: state(safeencoders.load(str(folder), tower=name, strength=s)) for s in (0, 0.25, 0.5, 1)}
    merged, start = state(edit.merge()), state(original)
    assert all(torch.equal(loaded[1][key], merged[key]) for key in merged)
    assert distance(loaded[0], start) < 1e-6
    for s in (0.25, 0.5):
        line = {key: start[key] + s * (merged[key] - start[key]) for key in merged}
        assert distance(loaded[s], line) < 1e-6
        assert distance(loaded[s], start) > 1e-3
        assert distance(loaded[s], merged) > 1e-3


def test_strength_leaves_the_projection_and_takes_a_dtype(exported):
    name, original, _, folder = exported
    head = "text_projection" if name == "text" else "visual_projection"
    whole, none = (safeencoders.load(str(folder), tower=name, projection=True, strength=s) for s in (1.0, 0.0))
    assert torch.equal(getattr(whole, head).weight, getattr(none, head).weight)
    assert distance(state(none), state(original)) < 1e-6
    half = safeencoders.load(str(folder), tower=name, strength=0.5, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert not half.training
    assert not any(p.requires_grad for p in half.parameters())


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_strength_outside_0_to_1_is_refused(strength):
    with pytest.raises(BadInputError, match=r"expected strength in 0\.\.1, got"):
        safeencoders.load("pictoworld", strength=strength)


def test_a_strength_below_1_needs_a_delta(exported):
    name, _, edit, folder = exported
    (folder / deltas.FILE).unlink()
    with pytest.raises(BadInputError, match=r"expected delta\.safetensors in .*load it at 1"):
        safeencoders.load(str(folder), tower=name, strength=0.5)
    assert distance(state(safeencoders.load(str(folder), tower=name)), state(edit.merge())) == 0


# --- bad deltas -----------------------------------------------------------------------------------------------------


def write(path, tensors, **metadata):
    save_file(tensors, path, metadata=metadata)
    return path


A, B = torch.ones(4, 16), torch.ones(16, 4)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"x": A}, {}),
        ({"x": A}, {"edit": "ia3"}),
        ({"x.lora_A": A, "x.lora_B": B}, {"edit": "lora"}),
        ({"x.lora_A": A, "x.lora_B": B}, {"edit": "lora", "scaling": "much"}),
        ({"x.lora_A": A, "x.lora_B": B}, {"edit": "lora", "scaling": "nan"}),
        ({"x.lora_A": A}, {"edit": "lora", "scaling": "1"}),
        ({"x.lora_B": B}, {"edit": "lora", "scaling": "1"}),
        ({"x.lora_A": A, "x.lora_B": B, "y": B + 1}, {"edit": "lora", "scaling": "1"}),
        ({"x.lora_A": A, "x.lora_B": torch.ones(16, 5)}, {"edit": "lora", "scaling": "1"}),
    ],
)
def test_a_file_that_says_no_delta_is_refused(tmp_path, tensors, metadata):
    with pytest.raises(BadInputError, match=r"expected .* in .*bad\.safetensors"):
        deltas.read(write(tmp_path / "bad.safetensors", tensors, **metadata))


def test_the_same_file_said_right_is_read(tmp_path):
    file = write(tmp_path / "good.safetensors", {"x.lora_A": A, "x.lora_B": B}, edit="lora", scaling="0.5")
    assert torch.equal(deltas.read(file).changes()["x"], torch.full((16, 16), 2.0))


def test_a_cut_file_or_none_is_refused(exported):
    name, _, _, folder = exported
    file = folder / deltas.FILE
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(BadInputError, match="make or download it again"):
        safeencoders.load(str(folder), tower=name, strength=0.5)
    with pytest.raises(BadInputError, match="expected a delta in"):
        deltas.read(folder / "none.safetensors")


@pytest.mark.parametrize(
    "change", [{"encoder.layers.9.mlp.fc1.weight": A}, {"embeddings.position_embedding.weight": A}]
)
def test_the_delta_of_another_tower_is_refused_and_nothing_is_changed(clip, change):
    tower = clip.text_model.requires_grad_(requires_grad=False)
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    good = {"final_layer_norm.bias": torch.ones(16)}
    with pytest.raises(
        BadInputError, match=f"expected a delta of this tower, got one that changes '{next(iter(change))}'"
    ):
        deltas.add(tower, Delta("full", good | change, {}), -0.5)
    assert distance(state(tower), before) == 0


def test_the_other_towers_delta_is_refused(clip, tmp_path):
    clip.requires_grad_(False)
    for name in TOWERS:
        save_tower(clip, name, made(clip, name, SPECS["full"]), tmp_path / name, FROM)
    shutil.copy(tmp_path / "vision" / deltas.FILE, tmp_path / "text" / deltas.FILE)
    with pytest.raises(BadInputError, match="expected a delta of this tower"):
        safeencoders.load(str(tmp_path), strength=0.5)


# --- the export -----------------------------------------------------------------------------------------------------


def test_load_gives_the_merged_towers_outputs_with_and_without_projection(exported, rows, clip):
    name, original, edit, folder = exported
    given = inputs(name, rows)
    expected = edit.merge()(**given)
    for place in (folder, folder.parent):  # the tower's own folder, or that of its encoder
        plain = safeencoders.load(str(place), tower=name)
        assert type(plain) is PLAIN[name]
        assert torch.equal(plain(**given).last_hidden_state, expected.last_hidden_state)
    head = safeencoders.load(str(folder), tower=name, projection=True)
    assert type(head) is WITH_HEAD[name]
    project = clip.text_projection if name == "text" else clip.visual_projection
    found = head(**given)
    embedded = found.text_embeds if name == "text" else found.image_embeds
    torch.testing.assert_close(embedded, project(expected.pooler_output), atol=1e-6, rtol=0)
    assert not torch.allclose(expected.pooler_output, original(**given).pooler_output, atol=1e-2)


def test_plain_transformers_loads_it_without_a_missing_or_unexpected_key(exported, rows):
    name, _, edit, folder = exported
    given, expected = inputs(name, rows), edit.merge()
    for kind in (PLAIN[name], WITH_HEAD[name]):
        model, info = kind.from_pretrained(folder, output_loading_info=True)
        unexpected = {key for key in info["unexpected_keys"] if "projection" not in key}
        assert not info["missing_keys"]
        assert not info["mismatched_keys"]
        assert not unexpected
        assert model.dtype == torch.float32
        tower = getattr(model, f"{name}_model", model)
        assert torch.equal(tower(**given).last_hidden_state, expected(**given).last_hidden_state)
    _, info = WITH_HEAD[name].from_pretrained(folder, output_loading_info=True)
    assert not info["unexpected_keys"]


def test_a_file_without_the_prefix_of_its_class_would_be_seen(exported):
    name, _, _, folder = exported
    weights = load_file(folder / "model.safetensors")
    lost = {key.replace("encoder.layers.1.", "encoder.layer.1."): value for key, value in weights.items()}
    save_file(lost, folder / "model.safetensors", metadata={"format": "pt"})
    _, info = WITH_HEAD[name].from_pretrained(folder, output_loading_info=True)
    assert info["missing_keys"]
    assert info["unexpected_keys"]


@pytest.mark.parametrize("name", TOWERS)
def test_an_export_in_half_precision_says_float32_and_is_near(clip, tmp_path, name):
    clip.requires_grad_(False)
    edit = made(clip, name, SPECS["full"])
    save_merged(clip, name, edit.merge(), tmp_path / name, half=True)
    edit.delta().save(tmp_path / name / deltas.FILE, FROM, half=True)
    assert {t.dtype for t in load_file(tmp_path / name / "model.safetensors").values()} == {torch.float16}
    assert json.loads((tmp_path / name / "config.json").read_text()).get("dtype", "float32") == "float32"
    loaded = safeencoders.load(str(tmp_path), tower=name)
    assert loaded.dtype == torch.float32
    assert distance(state(loaded), state(edit.merge())) < 2e-3
    none = safeencoders.load(str(tmp_path), tower=name, strength=0)
    assert distance(state(none), state(tower_of(clip, name))) < 4e-3


@pytest.mark.parametrize("name", TOWERS)
def test_a_folder_without_weights_is_refused_and_not_taken_for_the_worlds(tmp_path, name):
    world = models.clip()
    save_tower(world, name, made(world, name, SPECS["lora"]), tmp_path / name, FROM)
    assert safeencoders.load(str(tmp_path), tower=name)
    (tmp_path / name / "model.safetensors").unlink()
    with pytest.raises(BadInputError, match="download the encoder again"):
        safeencoders.load(str(tmp_path), tower=name)


@pytest.mark.parametrize("name", TOWERS)
def test_a_clip_whose_outer_configuration_alone_knows_the_projection_is_exported_with_it(tmp_path, name):
    world = models.clip()
    (world.config.text_config if name == "text" else world.config.vision_config).projection_dim = 512
    save_tower(world, name, made(world, name, SPECS["lora"]), tmp_path / name, FROM)
    assert safeencoders.load(str(tmp_path), tower=name, projection=True).config.projection_dim == 128
