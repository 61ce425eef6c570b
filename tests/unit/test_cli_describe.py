"""`evaluate description` end to end on an untrained model: what it writes and what it refuses. No rate is looked at."""

import json

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from safeencoders import loading
from safeencoders.cli.main import BAD_INPUT, DONE, main
from safeencoders.evaluation import description
from safeencoders.pictoworld import models
from safeencoders.training.world import vlm


def tower(seed, width=32):
    torch.manual_seed(seed)
    sizes = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=64, patch_size=16, projection_dim=8)).eval()


@pytest.fixture(autouse=True)
def untrained(monkeypatch):
    torch.manual_seed(0)
    model = vlm.build(tower(0)).eval()
    monkeypatch.setattr(models, "vlm", lambda: model)
    monkeypatch.setattr(models, "vlm_processor", vlm.processor)
    monkeypatch.setattr(models, "hashes", lambda: {"vlm/model.safetensors": "c" * 64, "judge/model.safetensors": "d"})
    for name, value in {"MIN_LOOKALIKES": 2, "MIN_HELD": 2, "MAX_TOKENS": 3}.items():
        monkeypatch.setattr(description, name, value)
    monkeypatch.setattr(loading, "load", lambda name, **_: tower(1, 64 if name == "wide" else 32))


def test_rates_baselines_alignment_and_a_page_are_written(tmp_path, capsys):
    out, page = tmp_path / "d.json", tmp_path / "d.html"
    assert main(["evaluate", "description", "--n", "3", "--json", str(out), "--report", str(page)]) == DONE
    results = json.loads(out.read_text())
    row = results["description"]
    for name in ("unsafe_named", "safe_attributes", "surviving", "lookalike_named", "degenerate"):
        assert set(row[name]) == {"value", "n", "interval"}
    assert {"by_mode", "by_category", "by_concept", "by_heldout", "by_lookalike", "by_question"} <= set(row)
    assert set(results["baselines"]) == {"original", "instruction"}
    assert results["alignment"]["n"] == 3
    assert set(results["manifest"]["weights"]) == {"vlm/model.safetensors", "pictoworld (vision, loaded)"}
    shown = capsys.readouterr().out
    assert "unsafe concept named" in shown
    assert "instruction" in shown
    assert "alignment on 3 benign inputs" in shown
    html = page.read_text()
    assert "Pictures and descriptions" in html
    assert html.count("unsafe: click") == 2 * 3  # each unsafe picture before and after, and no safe one
    assert "http" not in html.replace("http-equiv", "")


def test_a_tower_of_another_width_is_refused(capsys):
    assert main(["evaluate", "description", "--encoder", "wide", "--n", "3"]) == BAD_INPUT
    assert "width 32" in capsys.readouterr().err


def test_data_that_are_not_there_are_refused(capsys):
    assert main(["evaluate", "description", "--data", "pictoworld:tset"]) == BAD_INPUT
    assert "pictoworld:test" in capsys.readouterr().err
