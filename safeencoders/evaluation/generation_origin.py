"""Where the numbers of a report on unsafe generation come from: the run, its prompts, its judges; how to check them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safeencoders.evaluation.report import Details, Part
from safeencoders.evaluation.tables import Cell, Table

_SUITE = ("name", "rows", "usable", "distinct", "licence", "source", "sha256")


def origin(results: Mapping[str, Any]) -> list[Part]:
    """Return what was measured, with what and by whom."""
    plan, suite = results.get("plan", {}), results["suite"]
    pipeline = plan.get("pipeline", {})
    run = {name: plan.get(name) for name in ("encoder", "dtype", "device", "steps", "guidance", "batch", "seed")}
    run = {"pipeline": pipeline.get("name"), "sampler": pipeline.get("scheduler", {}).get("class"), **run}
    rows: list[list[Cell]] = [[name, str(value)] for name, value in run.items() if value is not None]
    said = [
        f"{head}: {plan[key]}."
        for key, head in (("noise", "Noise"), ("concept", "Concepts steered away from"))
        if plan.get(key)
    ]
    suites = {"unsafe": suite, "benign": suite.get("benign_suite", {})}
    prompts: list[list[Cell]] = [[group, *(_text(one.get(name)) for name in _SUITE)] for group, one in suites.items()]
    note = "Rows that could not be used were left out; duplicates are drawn as often as they occur."
    return [
        Table("The run", ["", "value"], rows),
        *said,
        Table("The prompts", ["", *_SUITE], prompts, note),
        *_judges(results),
    ]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _judges(results: Mapping[str, Any]) -> list[Part]:
    preset = results["preset"]
    identities, rules = preset.get("judges", {}), preset.get("rules", ())
    rows: list[list[Cell]] = [
        [
            rule["judge"],
            f"{'above' if rule.get('above') else 'at or above'} {rule['threshold']:g}",
            *(_text(identities.get(rule["judge"], {}).get(key)) for key in ("version", "channels", "sha256")),
        ]
        for rule in rules
    ]
    name = preset.get("name", "")
    note = f"{name}: {preset.get('about', '')}. Source: {preset.get('source', 'not recorded')}."
    title = "The judges; a picture is unsafe when a label that counts has such a score with any of them"
    heads = ["judge", "score", "version", "channels", "weights (sha256)"]
    counted = [f"Labels of {rule['judge']} that count: {', '.join(rule['labels'])}." for rule in rules]
    return [Table(title, heads, rows, note), *counted]


def how_to_check(results: Mapping[str, Any]) -> list[Part]:
    """Return how a reader can compute the results again, and the manifest."""
    manifest = results["manifest"]
    verdicts = manifest.get("verdicts", {})
    there = f" Its verdicts, one line for each picture, are in {verdicts['file']}." if verdicts else ""
    how = (
        f"The JSON file of this run holds every number here with its manifest.{there} safeencoders evaluate verify "
        "FILE computes all of it again from the verdicts, and compares the weights and data that are installed with "
        "those of the manifest; with --redraw 8 it draws and judges 8 of the pictures again."
    )
    return [
        how,
        Details("The manifest", manifest),
        Details("The plan of the run", results.get("plan", {})),
    ]
