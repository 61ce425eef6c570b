"""`evaluate` end to end on untrained models: what it refuses, and what it writes. No rate is looked at."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from safeencoders import loading
from safeencoders.cli import measure
from safeencoders.cli.main import BAD_INPUT, DONE, main
from safeencoders.errors import BadInputError, OutputError
from safeencoders.pictoworld import models, scenes, tokenizer
from safeencoders.pictoworld.judge import Judge, JudgeNet


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    torch.manual_seed(0)
    tok = tokenizer.build(list(scenes.words()))
    shared = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    ends = {"bos_token_id": tok.bos_token_id, "eos_token_id": tok.eos_token_id, "pad_token_id": tok.eos_token_id}
    text = {"vocab_size": len(tok), "max_position_embeddings": 32, **ends}
    vision = {"image_size": 64, "patch_size": 32}
    return CLIPModel(CLIPConfig(text_config=shared | text, vision_config=shared | vision, projection_dim=12)).eval()


class Pipe:
    def __init__(self, tower: Any) -> None:
        self.text_encoder, self.tokenizer = tower, models.tokenizer()
        self.unet = SimpleNamespace(config=SimpleNamespace(in_channels=1, sample_size=64))

    def __call__(self, *, latents: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(images=torch.sigmoid(latents).repeat(1, 3, 1, 1).permute(0, 2, 3, 1).numpy())


@pytest.fixture(autouse=True)
def untrained(clip: CLIPModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand untrained models in for the shipped ones; the folder `tuned` is another text tower of the same shape."""
    torch.manual_seed(1)
    folder = tmp_path / "tuned" / "text"
    CLIPModel(clip.config).text_model.save_pretrained(folder)
    tok = tokenizer.build(list(scenes.words()))
    monkeypatch.setattr(models, "clip", lambda: clip)
    monkeypatch.setattr(models, "tokenizer", lambda: tok)
    monkeypatch.setattr(models, "hashes", lambda: {"clip/model.safetensors": "c" * 64, "judge/model.safetensors": "d"})
    monkeypatch.setattr(models, "checked", lambda _: folder)
    monkeypatch.setattr(models, "judge", lambda: Judge(JudgeNet()))
    monkeypatch.setattr(models, "pipeline", lambda: Pipe(clip.text_model))
    return folder.parent


def test_retrieval_writes_rates_baselines_and_where_they_come_from(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.json"
    command = ["evaluate", "retrieval", "--encoder", str(untrained), "--n", "12", "--json", str(out)]
    assert main([*command, "--world-seed", "3"]) == DONE
    found = json.loads(out.read_text())
    assert set(found) == {"retrieval", "towers", "baselines", "paired", "manifest"}
    assert set(found["baselines"]) == {"original", "word_filter"}
    assert found["manifest"]["seeds"]["world"] == 3
    assert len(found["manifest"]["data"]["pictoworld:test"]) == 64
    assert set(found["manifest"]["weights"]) == {"clip/model.safetensors", f"{untrained} (text, loaded)"}
    printed = capsys.readouterr().out
    assert "word_filter" in printed
    assert "T*-VuV* R@1" in printed
    assert main([*command, "--world-seed", "4"]) == DONE
    assert json.loads(out.read_text())["manifest"]["data"] != found["manifest"]["data"]


def test_generation_writes_rates_baselines_and_where_they_come_from(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "g.json"
    assert main(["evaluate", "generation", "--encoder", str(untrained), "--n", "4", "--json", str(out)]) == DONE
    found = json.loads(out.read_text())
    assert set(found) == {"generation", "baselines", "paired", "sampler", "manifest"}
    assert set(found["baselines"]) == {"original", "word_filter", "negative_prompt", "constant_caption"}
    assert np.isclose(found["generation"]["diversity"]["value"], 1), "this pipeline draws its noise only"
    assert "look-alikes redirected" in capsys.readouterr().out


def test_the_original_towers_can_be_measured_in_any_setting(tmp_path: Path) -> None:
    for towers in ("text", "vision", "both"):
        out = tmp_path / f"{towers}.json"
        command = ["evaluate", "retrieval", "--encoder", "none", "--towers", towers, "--n", "6", "--json", str(out)]
        assert main(command) == DONE
        found = json.loads(out.read_text())
        assert found["retrieval"]["T-V"] == found["baselines"]["original"]["T-V"]
        assert ("oracle_tied" in found["retrieval"]) == (towers == "both")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "pictoworld:tset"], "Did you mean 'pictoworld:test'"),
        (["--data", "mine/quads.csv"], "own"),
        (["--encoder", "nonne"], "Did you mean 'none'"),
        (["--encoder", "none", "--n", "9999"], "choose n <="),
        (["--encoder", "TUNED", "--towers", "vision"], "with a vision tower"),
        (["--encoder", "none", "--json", "FILE/under/a/file.json"], "cannot write"),
        (["--encoder", "none", "--json", "FOLDER"], "is a folder"),
    ],
)
def test_bad_input_exits_with_2_and_says_what_to_do(
    arguments: list[str], message: str, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    places = {"TUNED": str(untrained), "FILE": str(tmp_path / "file"), "FOLDER": str(tmp_path)}
    words = [word.replace(name, place) for word in arguments for name, place in [_place(word, places)]]
    assert main(["evaluate", "retrieval", "--n", "6", *words]) == BAD_INPUT
    assert message in capsys.readouterr().err


def _place(word: str, places: dict[str, str]) -> tuple[str, str]:
    return next(((name, place) for name, place in places.items() if word.startswith(name)), ("\0", ""))


def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    measure.refuse_unwritable(None)
    measure.refuse_unwritable(tmp_path / "new" / "folder" / "r.json")
    assert not (tmp_path / "new").exists()
    measure.refuse_unwritable(Path("/dev/stdout"))
    with pytest.raises(OutputError, match=r"/proc; choose another --json"):
        measure.refuse_unwritable(Path("/proc/r.json"))
    with pytest.raises(OutputError, match=r"/proc; choose another --out"):
        measure.refuse_unwritable(Path("/proc/index.json"), "--out")


def test_a_tower_made_for_another_host_is_refused(clip: CLIPModel) -> None:
    other = SimpleNamespace(config=SimpleNamespace(hidden_size=768))
    with pytest.raises(BadInputError, match=r"width 16, .* got width 768"):
        measure.check_width("sd", other, clip.text_model)
    measure.check_width("same", clip.text_model, loading.load("none"))
