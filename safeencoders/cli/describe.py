"""What `safeencoders evaluate description` does: ask the world's language model, print tables, write a page."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safeencoders.cli.measure import (
    DEFAULT_WORLD_SEED,
    HELD_ROWS,
    check_width,
    refuse_unwritable,
    shipped,
    tower_weights,
    write_results,
)

if TYPE_CHECKING:
    from transformers import CLIPVisionModel

    from safeencoders.evaluation.description import Study
    from safeencoders.evaluation.report import Section
    from safeencoders.evaluation.tables import Table
    from safeencoders.integrations.alignment import Alignment

ROWS = {
    "unsafe_named": "unsafe concept named",
    "any_unsafe": "any unsafe concept named",
    "surviving": "surviving attributes right",
    "floor": "safe pictures: unsafe named (floor)",
    "safe_attributes": "safe pictures: attributes right",
    "lookalike_named": "look-alikes named",
    "lookalike_seen": "  of types seen in redirection",
    "lookalike_unseen": "  of types never seen",
    "lookalike_unsafe": "look-alikes: unsafe named",
    "degenerate": "empty or degenerate",
}
GALLERY = {"unsafe": 12, "safe": 4, "lookalike": 8}
ALIGNED_WITH = 200


def measure_description(
    encoder: str, *, data: str, world_seed: int | None, n: int, json_file: Path | None, report: Path | None
) -> None:
    """Describe the pictures with the encoder, the original, and the original that is asked to describe safely.

    Nothing here is random but the world's scenes: every answer is greedy.

    Raises:
        UnknownNameError: no such encoder or data.
        BadInputError: n is larger than the split, or the encoder has no vision tower for this model.
        OutputError: a file cannot be written.
    """
    from safeencoders.evaluation.description import Album, Study, description
    from safeencoders.evaluation.world_data import parse_data
    from safeencoders.loading import load
    from safeencoders.pictoworld import models

    start = time.monotonic()
    refuse_unwritable(json_file)
    refuse_unwritable(report, "--report")
    world = DEFAULT_WORLD_SEED if world_seed is None else world_seed
    album = Album.of(parse_data(data), n, world)
    tower = cast("CLIPVisionModel", load(encoder, tower="vision"))
    model = models.vlm()
    check_width(encoder, tower, model.model.vision_tower)
    study = Study(model, models.vlm_processor(), album)
    results = description(study, tower)
    texts = results.pop("examples")
    alignment = _alignment(study, tower)
    results["alignment"] = {**vars(alignment), "alarm": alignment.alarm}
    tables = _tables(encoder, data, results)
    print("\n\n".join([*(table.text() for table in tables), str(alignment)]))
    weights = shipped("vlm") | tower_weights(encoder, "vision", tower)
    write_results(json_file, results, {"world": world}, {data: album.sha256()}, weights, start)
    if report is not None:
        _write_report(report, encoder, [*tables, str(alignment)], study, texts)


def _alignment(study: Study, tower: CLIPVisionModel) -> Alignment:
    """Compare what the model makes of safe pictures with the tower and without it."""
    from safeencoders.integrations.alignment import AlignmentWarning, align
    from safeencoders.pictoworld import talk
    from safeencoders.pictoworld.renderer import render_batch, to_image

    processor: Any = study.processor
    pictures = [quad.safe for quad in study.album.plain[:ALIGNED_WITH]]
    prompts = [talk.prompt(talk.QUESTIONS["describe"][0])] * len(pictures)
    inputs = processor(images=[to_image(p) for p in render_batch(pictures)], text=prompts, return_tensors="pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AlignmentWarning)  # said below, beside the table
        return align(study.model, {"model.vision_tower": tower}, [inputs])


def _tables(encoder: str, data: str, results: Mapping[str, Any]) -> list[Table]:
    from safeencoders.evaluation.tables import results_table

    systems = {encoder: results["description"], **results["baselines"]}
    parts = {
        name: {**row["by_mode"], **row["by_category"], **{k: v for k, v in row["by_heldout"].items() if k in HELD_ROWS}}
        for name, row in systems.items()
    }
    short = {
        name: {k: {key: v[key] for key in ("unsafe_named", "surviving")} for k, v in row.items()}
        for name, row in parts.items()
    }
    asked = {name: row["by_question"] for name, row in systems.items() if row["by_question"]}
    return [
        results_table(f"Description, {data}", systems, names=ROWS),
        results_table("By part of the set", short),
        results_table("By question", asked),
    ]


def _write_report(
    path: Path, encoder: str, measured: list[Table | str], study: Study, texts: Mapping[str, Mapping[str, list[str]]]
) -> None:
    from safeencoders.evaluation.report import Section, write_report

    lead = (
        f"The same pictures, described by the same language model, with the original vision tower and with {encoder}."
    )
    sections = [Section("What was measured", measured), gallery(study, texts)]
    write_report(path, "Descriptions before and after the swap", lead, sections)
    print(f"written: {path}")


def gallery(study: Study, texts: Mapping[str, Mapping[str, list[str]]]) -> Section:
    """Return the gallery: each picture with its description before and after; unsafe pictograms are marked."""
    from safeencoders.evaluation.description import ORIGINAL
    from safeencoders.evaluation.report import Pictures, Section
    from safeencoders.evaluation.sheet import Picture, Row
    from safeencoders.pictoworld.renderer import render, to_image

    rows, groups = [], study.album.groups()
    for group, count in GALLERY.items():
        for i, picture in enumerate(groups[group][:count]):
            image = to_image(render(picture))
            said = [texts[name][group][i] for name in (ORIGINAL, "encoder")]
            rows.append(Row(group, [Picture(image, text, bool(picture.concepts)) for text in said]))
    return Section("Pictures and descriptions", [Pictures(("before", "after"), rows, "Red: an unsafe pictogram.")])
