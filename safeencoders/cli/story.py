"""The quickstart: fine-tune a text tower for real, swap it in, measure before and after, and show it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safeencoders.cli.measure import GENERATION_ROWS
from safeencoders.files import output_folder, write_json
from safeencoders.fingerprint import fingerprint

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

    from safeencoders.evaluation.generation import Drawn, Study
    from safeencoders.evaluation.report import Section
    from safeencoders.evaluation.retrieval import RetrievalSet
    from safeencoders.evaluation.sheet import Row
    from safeencoders.evaluation.tables import Table

RECIPE, STEPS = "pictoworld", 400
RETRIEVAL_N, GENERATION_N = 1400, 150
ENCODER = "text_encoder"
RETRIEVAL_ROWS = {
    "T-V R@1": "safe prompt finds its picture, R@1",
    "T*-VuV* R@1": "unsafe prompt finds the safe picture, R@1",
    "T*-VuV* R@10": "unsafe prompt finds the safe picture, R@10",
    "top1_unsafe text": "unsafe prompt finds an unsafe picture first",
}
BARS = ("concept_present", "any_unsafe", "floor", "fidelity", "surviving")
SHEET = (("unsafe", 6), ("safe", 2), ("lookalike", 2))
LIMITS = (
    "An encoder protects what passes through it. It cannot protect a pipeline that is given prompt embeddings, a "
    "picture to start from, a second encoder or a retrained denoiser, and whoever owns the process can put the "
    "original tower back. It redirects what it was shown: words and concepts it has never seen are reported apart."
)


@dataclass(frozen=True)
class Trained:
    """The tuned tower as it was written to disk, and how it came about."""

    tower: CLIPTextModel
    record: dict[str, Any]


def run_quickstart(out: Path, *, seed: int) -> None:
    """Write results.json, sheet.png, report.html and the tuned tower into a new folder, and print the table.

    Raises:
        OutputError: the folder exists and is not empty, or cannot be written; nothing is left half-written.
        MissingExtraError: diffusers or matplotlib is not installed.
    """
    start = time.monotonic()
    with output_folder(out) as folder:
        results, tables = _story(folder, seed, start)
        write_json(folder / "results.json", results)
    print()
    for table in tables:
        print(table.text(), end="\n\n")
    for name in ("report.html", "sheet.png", "results.json", ENCODER):
        print(f"{out / name}")
    print(f"\n{time.monotonic() - start:.0f} s. Use it: pipe.text_encoder = safeencoders.load({str(out / ENCODER)!r})")


def _story(folder: Path, seed: int, start: float) -> tuple[dict[str, Any], list[Table]]:
    from safeencoders.evaluation.drawing import Artist
    from safeencoders.evaluation.generation import BASELINES, ORIGINAL, Study
    from safeencoders.evaluation.prompts import Prompts
    from safeencoders.evaluation.retrieval import RetrievalSet
    from safeencoders.evaluation.tables import results_table
    from safeencoders.pictoworld import models

    pipeline, judge, clip, tokenizer = models.pipeline(), models.judge(), models.clip(), models.tokenizer()
    print("1/3 fine-tune the text tower")
    trained = train(clip, tokenizer, folder, seed)
    print("2/3 retrieval, before and after")
    found = RetrievalSet.of("test", RETRIEVAL_N)
    before, after = measure_towers(clip, tokenizer, found, trained.tower)
    print("3/3 generation, before and after")
    prompts = Prompts.of("test", GENERATION_N, held=False)
    study = Study(Artist(pipeline, seed), prompts, judge)
    systems = {"before": study.baseline(ORIGINAL), "after": study.encoder(trained.tower)}
    drawn = {name: study.row(system) for name, system in systems.items()}
    baselines = {name: study.row(study.baseline(name)) for name in BASELINES if name != ORIGINAL}
    results = {
        "before": {"retrieval": before, "generation": drawn["before"]},
        "after": {"retrieval": after, "generation": drawn["after"]},
        "baselines": {name: {"generation": row} for name, row in baselines.items()},
        "training": trained.record,
        "manifest": _manifest(seed, {"retrieval": found.sha256(), "generation": prompts.sha256()}, start),
    }
    tables = [
        results_table("Retrieval", {"before": before, "after": after}, names=RETRIEVAL_ROWS),
        results_table("Generation", drawn | baselines, names=GENERATION_ROWS),
    ]
    show(folder, study, {name: study.drawn(system) for name, system in systems.items()}, results, tables)
    return results, tables


def train(clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path, seed: int) -> Trained:
    """Redirect the CLIP's text tower by a shortened recipe, write it, and load it back as a user would."""
    from safeencoders.loading import load
    from safeencoders.training.export import save_tower
    from safeencoders.training.readers.pictoworld import PictoworldReader
    from safeencoders.training.recipe import read
    from safeencoders.training.run import changed, prepare

    recipe, checkpoint = changed(read(RECIPE), seed=seed, steps=STEPS, towers="text"), folder / "checkpoint"
    fit = prepare(clip, recipe, PictoworldReader(tokenizer, recipe.schedule.batch, seed), checkpoint)
    formula, edit = str(fit.task.objective), fit.task.edits["text"]
    begin = fingerprint(edit.tuned)
    print(f"    {formula}")
    fit.run("    steps")
    checkpoint.unlink()
    record = {
        "recipe": RECIPE,
        "formula": formula,
        "start": begin,
        "end": fingerprint(edit.tuned),
        "steps": fit.step,
        "seconds": round(fit.seconds, 1),
        "curve": fit.curve,
    }
    provenance = {key: value for key, value in record.items() if key != "curve"}
    save_tower(clip, "text", edit, folder / ENCODER, provenance)
    return Trained(cast("CLIPTextModel", load(str(folder / ENCODER))), record)


def measure_towers(
    clip: CLIPModel, tokenizer: CLIPTokenizer, found: RetrievalSet, tower: CLIPTextModel
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the retrieval rows of the original and of the tuned text tower with the original vision tower."""
    from safeencoders.evaluation.retrieval import embed_pictures, embed_texts, retrieve
    from safeencoders.evaluation.towers import Towers

    original, tuned = Towers.from_clip(clip, tokenizer), Towers.from_clip(clip, tokenizer, text=tower)
    pictures = embed_pictures(original, found)
    rows = [retrieve(found, embed_texts(towers, found), pictures).row for towers in (original, tuned)]
    return rows[0], rows[1]


def show(
    folder: Path, study: Study, drawn: Mapping[str, Drawn], results: Mapping[str, Any], tables: list[Table]
) -> None:
    """Write sheet.png and report.html."""
    from safeencoders.evaluation.report import Details, Pictures, Plot, write_report
    from safeencoders.evaluation.report import Section as Part
    from safeencoders.evaluation.sheet import write_sheet

    rows, columns = sheet_rows(study, drawn), ("before", "after")
    write_sheet(folder / "sheet.png", rows, columns, title="The same prompt and noise, before and after the swap")
    sections: list[Section] = [
        Part("What was measured", [LIMITS, *tables]),
        Part("The effect", [Plot(svg) for svg in plots(results)]),
        Part("Prompts and pictures", [Pictures(columns, rows, "Red: the judge saw an unsafe concept.")]),
        Part("How it was trained", [results["training"]["formula"], Plot(curve(results["training"]["curve"]))]),
        Part("Where the numbers come from", [Details("Manifest", results["manifest"])]),
    ]
    lead = "A small CLIP text tower was fine-tuned on this machine and put into a Stable Diffusion pipeline."
    write_report(folder / "report.html", "safeencoders quickstart", lead, sections)


def sheet_rows(study: Study, drawn: Mapping[str, Drawn]) -> list[Row]:
    """Return the first prompts of each group with the pictures of each system, unsafe-judged ones marked."""
    from safeencoders.evaluation.sheet import Picture, Row
    from safeencoders.pictoworld.renderer import to_image

    rows = []
    for group, count in SHEET:
        for i, prompt in enumerate(study.prompts.groups()[group][:count]):
            pictures = []
            for shown in drawn.values():
                finding = shown.findings[group][i]
                seen = ", ".join(finding.concepts).replace("_", " ")
                pictures.append(Picture(to_image(shown.pictures[group][i]), seen, bool(finding.concepts)))
            rows.append(Row(prompt, pictures))
    return rows


def plots(results: Mapping[str, Any]) -> list[str]:
    """Return the bar charts of the report, as SVG."""
    from safeencoders.evaluation.plots import bars, horizontal_bars

    both = {name: results[name] for name in ("before", "after")}
    rates = {name: {key.replace("_", " "): part["generation"][key] for key in BARS} for name, part in both.items()}
    parts = {
        name: {row: rate["concept_present"] for row, rate in part["generation"]["by_category"].items() if rate}
        for name, part in both.items()
    }
    return [
        bars("What the pipeline draws", rates),
        horizontal_bars("Prompted concept present, by category", parts),
    ]


def curve(points: list[tuple[int, float]]) -> str:
    """Return the loss curve as SVG."""
    from safeencoders.evaluation.plots import lines

    return lines("Loss of redirection", {"loss": [(float(x), float(y)) for x, y in points]})


def _manifest(seed: int, data: Mapping[str, str], start: float) -> dict[str, Any]:
    from safeencoders.pictoworld import models
    from safeencoders.provenance import manifest

    used = {name: value for name, value in models.hashes().items() if not name.startswith(models.TOWERS)}
    seconds = time.monotonic() - start
    command = ["safeencoders", *sys.argv[1:]]
    seeds = {"training": seed, "noise": seed, "world": 0}
    return manifest(command, seeds=seeds, weights=used, data=dict(data), seconds=seconds)
