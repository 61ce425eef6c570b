"""Sweeps: every shipped one reads, slips are refused, and a killed one goes on where it was."""

import json

import pytest

from safeencoders.cli.sweep import run_sweep
from safeencoders.errors import BadInputError, UnknownNameError
from safeencoders.training import sweep
from safeencoders.training.recipe import FOLDER

TINY = """about = "two steps of two towers"
steps = 2
seeds = [0, 1]
retrieval = 20
generation = 0

[[run]]
name = "paper, text"
recipe = "safe-clip"
towers = "text"
schedule = { batch = 4 }

[[run]]
name = "ours, vision"
recipe = "pictoworld"
towers = "vision"
schedule = { batch = 4 }
"""


@pytest.mark.parametrize("path", sorted((FOLDER / "ablations").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_sweep_reads_and_each_run_makes_a_recipe(path):
    found = sweep.read(f"ablations/{path.name}")
    recipes = [variant.made(found.steps, seed) for variant in found.run for seed in found.seeds]
    assert all(recipe.terms().terms for recipe in recipes)
    if found.steps:
        assert {recipe.schedule.steps for recipe in recipes} == {found.steps}


def test_the_papers_ablations_are_in_the_shipped_sweep_and_do_what_their_names_say():
    runs = {variant.name: variant.made(1, 0) for variant in sweep.read("ablations/safe-clip.toml").run}
    formula = {name: str(recipe.terms()) for name, recipe in runs.items()}
    assert "T(t*)" not in formula["without redirection"]
    assert "V(v*)" not in formula["without redirection"]
    assert "Align" not in formula["without cosine terms"]
    assert "T(t)," not in formula["without preservation"]
    assert runs["self reference"].reference == "self"
    assert (runs["text only"].towers, runs["vision only"].towers) == ("text", "vision")
    assert runs["full fine-tuning"].edit.kind == "full"
    assert runs["ours"].objective == "pictoworld"


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("about = 'x'", BadInputError, "at least one"),
        ("about = 'x'\n[[run]]\nname = 'a'\nrecipe = 'safe-clop'", UnknownNameError, "safe-clip"),
        ("about = 'x'\n[[run]]\nname = 'a'\nrecipe = 'safe-clip'\ntower = 'text'", UnknownNameError, "towers"),
        ("about = 'x'\nstep = 3\n[[run]]\nname = 'a'\nrecipe = 'safe-clip'", UnknownNameError, "steps"),
        ("about = 'x'\n" + "[[run]]\nname = 'a'\nrecipe = 'safe-clip'\n" * 2, BadInputError, "different names"),
    ],
)
def test_a_slip_is_refused_with_a_remedy(tmp_path, text, error, says):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(error, match=says):
        sweep.read(str(file))


def test_a_sweep_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(BadInputError, match=r"\(ablations/pictoworld\.toml, .*seeds/.*\), got 'nosuch\.toml'"):
        sweep.read("nosuch.toml")


def test_a_sweep_trains_measures_and_goes_on_after_a_kill(tmp_path, capsys):
    file, out = tmp_path / "tiny.toml", tmp_path / "out"
    file.write_text(TINY)
    run_sweep(str(file), out)
    first = json.loads((out / "sweep.json").read_text())["rows"]
    assert set(first) == {"original", "paper, text", "ours, vision"}
    assert set(first["paper, text"]) == {"0", "1"}
    assert set(first["paper, text"]["0"]) == {"text"}
    assert first["original"]["0"]["vision"]["patch drift"]["value"] == 0
    assert first["ours, vision"]["0"]["vision"]["patch drift"]["value"] > 0
    assert "paper, text" in (out / "sweep.md").read_text()
    assert (out / "front-1.svg").read_text().startswith("<svg")

    kept = out / "runs" / "paper--text-0" / "text" / "model.safetensors"
    written = kept.stat().st_mtime_ns
    (out / "runs" / "ours--vision-1" / "measured.json").unlink()
    run_sweep(str(file), out)
    assert json.loads((out / "sweep.json").read_text())["rows"] == first
    assert kept.stat().st_mtime_ns == written
    with pytest.raises(BadInputError, match="another sweep"):
        run_sweep(str(file), out, steps=3)
    assert "written" in capsys.readouterr().out
