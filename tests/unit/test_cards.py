"""Cards say what was measured: a changed, bare, stale or hand-written number fails, and nothing else does."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from safeencoders.cards import figures, rendering
from safeencoders.cards.material import Material, Result, faults, fresh
from safeencoders.cards.rendering import render, written_numbers
from safeencoders.cli.cards import shipped_material, slug
from safeencoders.cli.main import main
from safeencoders.pictoworld import models

ROOT = Path(__file__).resolve().parents[2]
CARDS = ROOT / "model_cards"
NAMES = models.tower_names()
LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0"}  # as the Hub spells them


@pytest.fixture
def copy(tmp_path):
    """Give a copy of what the cards are made of, which a test may spoil."""
    shutil.copytree(CARDS, tmp_path / "model_cards")
    (tmp_path / "benchmarks").mkdir()
    for name in ("redteam", "strength"):
        if (ROOT / "benchmarks" / f"{name}.json").is_file():
            shutil.copyfile(ROOT / "benchmarks" / f"{name}.json", tmp_path / "benchmarks" / f"{name}.json")
    return tmp_path / "model_cards"


def check(folder):
    return main(["cards", str(folder), "--check"])


def spoil(copy, change, file="generation"):
    path = copy / "results" / "pictoworld" / f"{file}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_cards_of_this_checkout_are_what_their_results_say(capsys):
    assert check(CARDS) == 0
    assert capsys.readouterr().out == f"the cards in {CARDS} are what their results say\n"


def test_rendering_again_changes_no_byte(copy):
    assert check(copy) == 0
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert main(["cards", str(copy)]) == 0
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


MUTATIONS = {
    "a shown number": (lambda c: c["generation"]["any_unsafe"].update(value=0.01), "is not what its results say"),
    "a number in no table": (
        lambda c: c["generation"]["by_concept"]["gun"]["any_unsafe"].update(value=0.05),
        "is not what its results say",
    ),
    "no interval": (lambda c: c["generation"]["any_unsafe"].pop("interval"), "generation any_unsafe is no rate"),
    "no n": (lambda c: c["baselines"]["original"]["floor"].pop("n"), "baselines original floor is no rate"),
    "an interval beside its value": (
        lambda c: c["generation"]["any_unsafe"].update(interval=[0.2, 0.3]),
        "an interval that holds the value",
    ),
    "a bare number": (lambda c: c["generation"].update(any_unsafe=0.006), "generation any_unsafe is a bare number"),
    "no seed": (lambda c: c["manifest"].pop("seeds"), "its manifest does not say the seeds"),
    "no command": (lambda c: c["manifest"].update(command=""), "its manifest does not say the command"),
    "no manifest": (lambda c: c.pop("manifest"), "its manifest does not say the command"),
    "other weights": (
        lambda c: c["manifest"]["weights"].update({"towers/pictoworld/text/model.safetensors": "0" * 64}),
        "stale: measured with another towers/pictoworld/text/model.safetensors",
    ),
    "another judge": (
        lambda c: c["manifest"]["weights"].update({"judge/model.safetensors": "0" * 64}),
        "stale: measured with another judge",
    ),
    "weights of nobody": (lambda c: c["manifest"].update(weights={"x": "0" * 64}), "stale: none of its weights"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_spoilt_result_fails_the_check(copy, capsys, name):
    change, words = MUTATIONS[name]
    spoil(copy, change)
    assert check(copy) == 1
    assert words in capsys.readouterr().err


def test_a_result_that_is_missing_or_no_json_fails(copy, capsys):
    for path in (copy / "results" / "pictoworld").glob("*.json"):
        if path.stem not in {"retrieval-text", "generation"}:
            path.unlink()
    assert check(copy) == 1
    assert "the vision tower of pictoworld was not measured" in capsys.readouterr().err
    (copy / "results" / "pictoworld" / "generation.json").write_text('{"generation": {')
    assert check(copy) == 2
    assert "is not valid JSON" in capsys.readouterr().err


def test_a_card_or_a_plot_that_was_edited_fails_and_is_mended(copy, capsys):
    for name in ("pictoworld.md", "pictoworld-generation-categories.svg"):
        (copy / name).write_text((copy / name).read_text().replace("0", "1", 1))
        assert check(copy) == 1
        assert f"{name} is not what its results say" in capsys.readouterr().err
        assert main(["cards", str(copy)]) == 0
        assert check(copy) == 0


def test_faulty_results_render_nothing(copy):
    before = (copy / "pictoworld.md").read_bytes()
    spoil(copy, MUTATIONS["no interval"][0])
    assert main(["cards", str(copy)]) == 1
    assert (copy / "pictoworld.md").read_bytes() == before


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    assert check(tmp_path) == 2
    assert "run this in a checkout, or name one" in capsys.readouterr().err


def test_the_words_hold_no_number_and_one_would_be_told(copy, monkeypatch, tmp_path, capsys):
    assert written_numbers() == []
    typed = "It redirects 97 of a hundred.\n```python\nsteps = 12\n```\n{{ filled }} R@1 `text_2`\n| 3.5 % |\n"
    assert written_numbers(typed) == ["It redirects 97 of a hundred.", "| 3.5 % |"]
    template = rendering.TEMPLATE.read_text() + "\nThe rate is 97 %.\n"
    monkeypatch.setattr(rendering, "TEMPLATE", tmp_path / "card.md.jinja")
    rendering.TEMPLATE.write_text(template)
    assert check(copy) == 1
    assert "holds a number written by hand: 'The rate is 97 %.'" in capsys.readouterr().err


# --- what a card holds -----------------------------------------------------------------------------------------------
def material(name):
    return shipped_material(name, CARDS / "results" / slug(name), ROOT / "benchmarks")


@pytest.fixture(scope="module", params=NAMES)
def shipped(request):
    found = material(request.param)
    return found, render(found)


def test_the_head_is_metadata_that_the_hub_knows(shipped):
    found, card = shipped
    data = ModelCard(card.text).data
    assert data.license in LICENCES
    assert data.library_name == "transformers"
    assert data.datasets == ["pictoworld"]
    assert {"clip", "safety", "safeencoders"} <= set(data.tags)
    assert data.base_model is None  # the world's original has no repository, and none is invented
    assert len(data.eval_results) >= 9
    for result in data.eval_results:
        assert 0 <= result.metric_value <= 1
        assert result.metric_args["n"] > 0
        low, high = result.metric_args["interval"]
        assert low <= result.metric_value <= high
        assert result.dataset_type == "pictoworld"
        assert result.dataset_split == "test"
    assert found.encoder.name.replace("/", "-") == data.model_name


def test_every_metric_of_the_head_is_the_files(shipped):
    found, card = shipped
    metrics = {
        (r.task_type, r.task_name, r.metric_name): r.metric_value for r in ModelCard(card.text).data.eval_results
    }
    text = found.results["retrieval-text"].content["retrieval"]
    assert len(metrics) == len(ModelCard(card.text).data.eval_results), "two metrics of one name"
    key = ("zero-shot-retrieval", "Retrieval", "unsafe text finds an unsafe picture first (towers: text)")
    assert metrics[key] == pytest.approx(text["top1_unsafe"]["text"]["value"], abs=1e-6)


def test_a_base_on_the_hub_is_named(shipped):
    found, _ = shipped
    other = Material(**{**vars(found), "base_model": "openai/clip-vit-large-patch14"})
    assert ModelCard(render(other).text).data.base_model == "openai/clip-vit-large-patch14"


def test_every_section_is_there(shipped):
    _, card = shipped
    heads = re.findall(r"^## (.+)$", card.text, flags=re.MULTILINE)
    assert heads == ["Use", "Training", "Evaluation", "Limitations", "What it does not protect", "Bias and misuse",
                     "Environmental cost", "Where the numbers come from"]  # fmt: skip
    for part in ("### diffusers", "### transformers", "### open_clip", "by category", "Energy was not measured"):
        assert part in card.text


def test_every_way_round_stands_in_the_card(shipped):
    _, card = shipped
    table = card.text[card.text.index("## What it does not protect") :]
    rows = re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)
    assert set(map(int, rows)) == set(range(1, 18))


def test_every_rate_in_a_table_is_in_the_results(shipped):
    """Each "12.3 [11.0, 13.9]" of the card is a rate of one of its files, and no other is."""
    found, card = shipped
    known = set()

    def walk(value):
        if isinstance(value, dict):
            if value.get("value") is not None:
                low, high = value["interval"]
                known.add(f"{100 * value['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    for result in (*found.results.values(), *found.benchmarks.values()):
        walk(result.content)
    shown = re.findall(r"\d+\.\d \[\d+\.\d, \d+\.\d\]", card.text)
    assert len(shown) > 100
    assert set(shown) <= known


def test_the_code_of_the_cards_runs(shipped):
    pytest.importorskip("diffusers", exc_type=ImportError)
    pytest.importorskip("open_clip", exc_type=ImportError)
    found, card = shipped
    blocks = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    assert len(blocks) == 3
    scope = {}
    for code in blocks if found.encoder.name == "pictoworld" else blocks[1:2]:
        exec(code, scope)  # noqa: S102  our own card
    assert type(scope["text"]).__name__ == "CLIPTextModel"


def test_links_and_plots_lead_somewhere():
    for card in CARDS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", card.read_text()):
            assert (CARDS / target).is_file(), f"{card.name}: {target}"


def test_a_result_of_a_pipeline_with_prompts_is_shown_too():
    """As ``evaluate generation --pipeline --prompts`` writes it: systems beside each other, "unsafe" by category."""
    found = material("pictoworld")

    def rate(value):
        return {"value": value, "n": 90, "interval": [max(0.0, value - 0.1), min(1.0, value + 0.1)]}

    def row(value):
        return {
            "unsafe": rate(value),
            "floor": rate(0.0),
            "by_category": {"hate": {"unsafe": rate(value)}},
            "errors": 0,
        }

    world = found.results["generation"]
    content = {"generation": row(0.25), "systems": {"original": row(0.75), "encoder": row(0.25)}}
    other = Result("generation-suite", content | {"manifest": world.manifest}, "0" * 64)
    more = Material(**{**vars(found), "results": {**found.results, "generation-suite": other}})
    assert faults(more) == []
    text = render(more).text
    assert "| unsafe pictures | 25.0 [15.0, 35.0] | 75.0 [65.0, 85.0] | 90 |" in text
    assert "generation-suite-categories.svg" in text


def test_strength_is_tabled_and_drawn_where_it_was_measured():
    found = material("pictoworld")
    assert "What lies between was not measured" in render(Material(**{**vars(found), "benchmarks": {}})).text
    points = {str(x): {"any_unsafe": {"value": 1 - x, "n": 10, "interval": [0.0, 1.0]}} for x in (0.0, 0.5, 1.0)}
    content = {"encoder": "pictoworld", "strengths": points, "manifest": found.results["generation"].manifest}
    result = Result("strength", content, "")
    card = render(Material(**{**vars(found), "benchmarks": {"strength": result}}))
    assert "| 0.5 | 50.0 [0.0, 100.0] (n = 10) |" in card.text
    assert "strength.svg" in card.figures


def test_a_benchmark_of_earlier_weights_is_shown_as_such():
    found = material("pictoworld")
    redteam = found.benchmarks["redteam"]
    weights = redteam.manifest["weights"] | {"towers/pictoworld/text/model.safetensors": "0" * 64}
    old = Result("redteam", {**redteam.content, "manifest": {**redteam.manifest, "weights": weights}}, redteam.sha256)
    stale = Material(**{**vars(found), "benchmarks": {"redteam": old}})
    assert not fresh(old, stale)
    assert "were measured with earlier weights of this encoder" in render(stale).text


def test_plots_are_whole_pictures_with_a_name_and_nothing_from_outside(shipped):
    _, card = shipped
    for svg in card.figures.values():
        root = ET.fromstring(svg)  # noqa: S314  our own
        assert root.get("aria-label")
        assert "href" not in svg
        assert "script" not in svg


def test_names_in_plots_are_escaped():
    rate = {"value": 0.5, "n": 2, "interval": [0.1, 0.9]}
    svg = figures.dots("<b>&'", {"<x>": {"a&b": rate, "none": {"value": None, "n": 0, "interval": None}}})
    ET.fromstring(svg)  # noqa: S314  our own
    assert "<b>" not in svg
