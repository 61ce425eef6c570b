"""Export: every form is read back by a reader of its own and puts out what its source does."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import safeencoders
from safeencoders import export as exporting
from safeencoders.cli.main import main
from safeencoders.errors import BadInputError, FitError, MissingExtraError
from safeencoders.export import PREFIX, TOLERANCE, comfy_kind, export, inputs, outputs

SD1 = "cond_stage_model.transformer.text_model."


@pytest.fixture
def encoder(clip, tmp_path):
    clip.save_pretrained(tmp_path / "encoder")
    return str(tmp_path / "encoder")


def assert_same(found, encoder, ids=None):
    """Compare absolutely, whatever the scale of the output."""
    source = safeencoders.load(encoder)
    ids = inputs(source.config, "text") if ids is None else ids
    mine, theirs = outputs(found.eval(), "text", ids), outputs(source, "text", ids)
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, atol=TOLERANCE, rtol=0)


def plain(state, encoder):
    """Build a tower from tensors with their prefix, by transformers alone."""
    from transformers import CLIPTextModel

    return CLIPTextModel.from_pretrained(None, config=safeencoders.load(encoder).config, state_dict=state)


@pytest.mark.parametrize("encoder_name", ["pictoworld", "pictoworld/safe-clip"])
def test_the_part_of_a_checkpoint_is_what_diffusers_own_converter_reads(tmp_path, encoder_name):
    utils = pytest.importorskip("diffusers.loaders.single_file_utils", exc_type=ImportError)
    found = export(encoder_name, "single-file", tmp_path / "part.safetensors")
    assert all(value == 0 for value in found.differences.values())
    state = load_file(tmp_path / "part.safetensors")
    assert all(key.startswith(SD1) for key in state)
    assert_same(plain(utils.convert_ldm_clip_checkpoint(state), encoder_name), encoder_name)


def checkpoint(encoder, path, **changes):
    """Write what a Stable Diffusion 1.x checkpoint holds, with other weights in its text encoder."""
    names = {f"{SD1}{key}": value + 1 for key, value in safeencoders.load(encoder).state_dict().items()}
    rest = {
        f"{SD1}embeddings.position_ids": torch.arange(32)[None],
        "model.diffusion_model.input_blocks.0.0.weight": torch.randn(4, 4).half(),
        "first_stage_model.encoder.conv_in.weight": torch.randn(3, 3),
    }
    save_file(names | rest | changes, path, metadata={"format": "pt", "note": "mine"})
    return names, rest


def test_a_checkpoint_gets_the_encoder_and_keeps_every_other_bit(encoder, tmp_path):
    _, rest = checkpoint(encoder, tmp_path / "sd.safetensors")
    before = (tmp_path / "sd.safetensors").read_bytes()
    export(encoder, "single-file", tmp_path / "safe.safetensors", checkpoint=tmp_path / "sd.safetensors")
    merged = load_file(tmp_path / "safe.safetensors")
    assert all(torch.equal(merged[key], value) and merged[key].dtype == value.dtype for key, value in rest.items())
    own = {key.removeprefix(PREFIX): value for key, value in merged.items() if key.startswith(SD1) and key not in rest}
    assert_same(plain(own, encoder), encoder)
    assert (tmp_path / "sd.safetensors").read_bytes() == before


def test_a_checkpoint_of_another_kind_is_refused_and_nothing_written(encoder, tmp_path):
    out = tmp_path / "safe.safetensors"
    save_file({"conditioner.embedders.1.model.ln_final.weight": torch.ones(2)}, tmp_path / "xl.safetensors")
    with pytest.raises(BadInputError, match=r"expected a Stable Diffusion 1\.x checkpoint, .* found none"):
        export(encoder, "single-file", out, checkpoint=tmp_path / "xl.safetensors")
    wrong = {f"{SD1}final_layer_norm.weight": torch.ones(5)}
    checkpoint(encoder, tmp_path / "wide.safetensors", **wrong)
    with pytest.raises(FitError, match=r"final_layer_norm.weight of \(5,\) .* got \(16,\)"):
        export(encoder, "single-file", out, checkpoint=tmp_path / "wide.safetensors")
    (tmp_path / "sd.ckpt").write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(BadInputError, match=r"A \.ckpt can run code; convert it first"):
        export(encoder, "single-file", out, checkpoint=tmp_path / "sd.ckpt")
    assert not out.exists()
    assert not list(tmp_path.glob(".safe*"))


def test_comfyui_finds_its_keys_and_the_projection_as_it_multiplies(encoder, clip, tmp_path):
    """As its public code has it: the kind by a layer's presence, transformers' names, a linear projection."""
    export(encoder, "comfy", tmp_path / "comfy.safetensors")
    state = load_file(tmp_path / "comfy.safetensors")
    assert comfy_kind(state) == "CLIP-L"
    whole = {key for key in clip.state_dict() if key.startswith("text_model.") and "position_ids" not in key}
    assert set(state) == whole | {"text_projection.weight"}
    assert torch.equal(state.pop("text_projection.weight"), clip.text_projection.weight)
    assert_same(plain(state, encoder), encoder)


def test_the_kind_follows_from_the_deepest_layer():
    keys = {f"text_model.encoder.layers.{layer}.mlp.fc1.weight": None for layer in range(32)}
    assert comfy_kind(keys) == "CLIP-G"
    assert comfy_kind(dict(list(keys.items())[:24])) == "CLIP-H"
    assert comfy_kind({}) is None


@pytest.mark.parametrize("tower", ["text", pytest.param("vision", marks=pytest.mark.slow)])
def test_onnx_runs_with_any_batch(encoder, tmp_path, tower):
    runtime = pytest.importorskip("onnxruntime", exc_type=ImportError)
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, exc_type=ImportError)
    found = export(encoder, "onnx", tmp_path / "tower.onnx", tower=tower)
    assert max(found.differences.values()) <= TOLERANCE
    source = safeencoders.load(encoder, tower=tower)
    session = runtime.InferenceSession(tmp_path / "tower.onnx", providers=["CPUExecutionProvider"])
    given = inputs(source.config, tower)
    for batch in (given[:1], given, torch.cat([given, given])):
        (name,) = [one.name for one in session.get_inputs()]
        values = session.run(["last_hidden_state", "pooler_output", "penultimate"], {name: batch.numpy()})
        for mine, theirs in zip(values, outputs(source, tower, batch).values(), strict=True):
            torch.testing.assert_close(torch.from_numpy(mine), theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["text", "vision"])
def test_onnx_of_what_is_shipped(tmp_path, tower):
    pytest.importorskip("onnxscript", exc_type=ImportError)
    found = export("pictoworld", "onnx", tmp_path / "tower.onnx", tower=tower)
    assert max(found.differences.values()) <= TOLERANCE


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Give a CLIP whose text tower is as large as that of ViT-L/14, with random weights."""
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text | {"projection_dim": 768}, vision_config=vision, projection_dim=768)
    folder = tmp_path_factory.mktemp("large") / "clip"
    CLIPModel(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "single-file", "comfy"])
def test_at_the_size_of_stable_diffusions_text_encoder(large, tmp_path, form):
    pytest.importorskip("onnxscript", exc_type=ImportError)
    found = export(large, form, tmp_path / "tower")
    source = safeencoders.load(large)
    assert sum(value.numel() for value in source.parameters()) == 123_060_480
    assert all(value <= TOLERANCE for value in found.differences.values()), found.differences
    spread = outputs(source, "text", inputs(source.config, "text"))["last_hidden_state"].std()
    assert 0.5 < spread < 2, "a tower that puts out next to nothing would differ by next to nothing"
    if form == "comfy":
        assert found.notes[1].startswith("read back by ComfyUI's key rules"), "it has a text encoder of this size"


def test_what_puts_out_something_else_is_not_written(encoder, tmp_path, monkeypatch):
    """The twin: one weight moved by a hundredth is told, and leaves no file."""
    read = exporting._read

    def moved(*arguments):
        model = read(*arguments)
        model.final_layer_norm.bias.data += 0.01
        return model

    monkeypatch.setattr(exporting, "_read", moved)
    with pytest.raises(BadInputError, match=r"expected outputs within 1e-05 .* got 0\.00\d+; nothing was written"):
        export(encoder, "comfy", tmp_path / "out.safetensors")
    assert not list(tmp_path.glob("*out*"))


def test_the_inputs_tell_towers_apart_and_end_as_captions_do():
    source = safeencoders.load("pictoworld")
    ids = inputs(source.config, "text")
    assert (ids[:, 0] == source.config.bos_token_id).all()
    assert (ids[:, -1] == source.config.eos_token_id).all()
    mine, theirs = (outputs(model, "text", ids) for model in (source, safeencoders.load("none")))
    assert all((mine[name] - theirs[name]).abs().max() > 0.01 for name in mine)


def test_forms_that_do_not_go_together_are_refused(encoder, tmp_path):
    with pytest.raises(BadInputError, match="holds no vision tower; take --format onnx"):
        export(encoder, "comfy", tmp_path / "x", tower="vision")
    with pytest.raises(BadInputError, match="it goes with --format single-file"):
        export(encoder, "comfy", tmp_path / "x", checkpoint=tmp_path / "y")


def test_a_missing_package_names_the_extra(encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"safeencoders\[export\]"):
        export(encoder, "onnx", tmp_path / "x")


def test_the_command_says_what_was_compared_and_that_there_is_no_guard(tmp_path, capsys):
    out = tmp_path / "text.safetensors"
    assert main(["export", "--encoder", "pictoworld", "--format", "comfy", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "last_hidden_state  differs by 0.0e+00 at most" in said
    assert "the guard of safeencoders.protect is in no file" in said
    assert "ComfyUI has no text encoder of 4 layers of width 128" in said
    assert out.is_file()
