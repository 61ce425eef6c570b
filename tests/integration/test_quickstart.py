"""The quickstart in small: the same code with fewer steps and prompts, and its promises about files."""

import json
import re

import pytest
from transformers import CLIPTextModel

import safeencoders
from safeencoders.cli import story
from safeencoders.cli.main import main
from safeencoders.evaluation import prompts


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(story, "STEPS", 30)
    monkeypatch.setattr(story, "RETRIEVAL_N", 60)
    monkeypatch.setattr(story, "GENERATION_N", 12)
    monkeypatch.setattr(prompts, "MIN_LOOKALIKES", 4)


@pytest.mark.usefixtures("small")
def test_quickstart_writes_what_it_says(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["quickstart", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "results.json", "sheet.png", "text_encoder"]
    results = json.loads((out / "results.json").read_text())
    assert {"retrieval", "generation"} == set(results["before"]) == set(results["after"])
    training = results["training"]
    assert training["start"] != training["end"]
    assert training["steps"] == 30
    assert training["curve"]
    before, after = (results[name]["retrieval"]["T*-VuV*"]["R@1"]["value"] for name in ("before", "after"))
    assert after > before + 0.1
    assert results["manifest"]["weights"]
    assert type(safeencoders.load(str(out / "text_encoder"))) is CLIPTextModel
    html = (out / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']?https?:""", html)
    assert str(out / "report.html") in capsys.readouterr().out


def test_an_existing_folder_is_refused_and_left_alone(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert main(["quickstart", "--out", str(out)]) == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]
    assert str(out) in capsys.readouterr().err


@pytest.mark.usefixtures("small")
def test_ctrl_c_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(story, "train", interrupted)
    assert main(["quickstart", "--out", str(tmp_path / "out")]) == 130
    assert not list(tmp_path.iterdir())
