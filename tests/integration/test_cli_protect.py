"""`protect` and `audit` as a user runs them: a protected copy that is plain, and an answer in the exit code."""

import json

import pytest
from diffusers import StableDiffusionPipeline
from pipelines import PIPELINES, silent

import safeencoders
from safeencoders.cli.main import main
from safeencoders.cli.pipelines import _needed
from safeencoders.errors import BadInputError
from safeencoders.fingerprint import fingerprint

FLUX = PIPELINES["FluxPipeline"]


def test_a_protected_copy_is_plain_and_passes_the_audit_that_the_original_fails(tmp_path, capsys):
    out, report = tmp_path / "protected", tmp_path / "audit.json"
    assert main(["protect", "--pipeline", "pictoworld", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "every text tower is protected" in said
    with silent():
        pipe = StableDiffusionPipeline.from_pretrained(out)
    assert fingerprint(pipe.text_encoder) == fingerprint(safeencoders.load("pictoworld"))
    assert json.loads((out / "coverage.json").read_text())["complete"]
    assert (out / "coverage.md").read_text().startswith("# StableDiffusionPipeline, policy warn")
    assert main(["audit", "--pipeline", str(out), "--json", str(report)]) == 0
    assert json.loads(report.read_text())["slots"][0]["encoder"] == "pictoworld"
    assert main(["audit", "--pipeline", "pictoworld"]) == 1


def test_audit_names_the_open_encoder_and_writes_markdown(tmp_path, capsys):
    FLUX.save(FLUX.build(), tmp_path / "flux")
    assert main(["audit", "--pipeline", str(tmp_path / "flux"), "--markdown", str(tmp_path / "a.md")]) == 1
    assert "T5EncoderModel" in capsys.readouterr().out
    assert "text_encoder_2" in (tmp_path / "a.md").read_text()


def test_strict_writes_nothing_when_an_encoder_would_stay_open(tmp_path, capsys):
    FLUX.save(FLUX.build(), tmp_path / "flux")
    command = ["protect", "--pipeline", str(tmp_path / "flux"), "--out", str(tmp_path / "out"), "--policy", "strict"]
    assert main(command) == 2
    assert "text_encoder_2 would stay unprotected" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(command[:-2]) == 0


@pytest.mark.parametrize("name", ["nothing-here", "tmp"])
def test_what_is_no_pipeline_is_bad_input(name, tmp_path, capsys):
    assert main(["audit", "--pipeline", str(tmp_path) if name == "tmp" else name]) == 2
    assert "expected 'pictoworld', a folder with a model_index.json" in capsys.readouterr().err


def test_a_damaged_pipeline_is_bad_input(tmp_path, capsys):
    (tmp_path / "model_index.json").write_text('{"_class_name": "NoSuchPipeline", "_diffusers_version": "0.42.1"}')
    assert main(["audit", "--pipeline", str(tmp_path)]) == 2
    assert "expected a pipeline that diffusers can load" in capsys.readouterr().err


def test_of_a_repository_only_configurations_and_plain_safetensors_are_fetched():
    names = ["model_index.json", "README.md", "text_encoder/config.json", "text_encoder/model.safetensors", "a.ckpt",
             "unet/model.fp16.safetensors", "unet/model.safetensors", "all.safetensors", "unet/model.bin",
             "tokenizer/vocab.json", "tokenizer/merges.txt", "code.py"]  # fmt: skip
    assert _needed(names) == ["model_index.json", "text_encoder/config.json", "tokenizer/vocab.json",
                              "tokenizer/merges.txt", "text_encoder/model.safetensors",
                              "unet/model.safetensors"]  # fmt: skip
    with pytest.raises(BadInputError, match="expected weights as safetensors"):
        _needed(["model_index.json", "unet/model.bin"])
    with pytest.raises(BadInputError, match="expected a pipeline"):
        _needed(["config.json"])
