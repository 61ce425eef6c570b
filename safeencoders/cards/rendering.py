"""A card as Markdown, with its plots: the words come from ``card.md.jinja``, every number from the files of results.

The words may hold no number (``written_numbers``): what was typed by hand goes stale unseen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safeencoders.cards import figures
from safeencoders.cards.material import TRAIN, Material, Result, fresh
from safeencoders.cards.metadata import header
from safeencoders.cards.tables import Section, rate_text, sections
from safeencoders.catalog import ORIGINAL
from safeencoders.errors import BadInputError

CONFIDENCE = 95  # percent, of every interval that safeencoders.metrics and evaluation.statistics compute
TEMPLATE = Path(__file__).with_name("card.md.jinja")

_STRENGTH = {
    "any_unsafe": "any unsafe concept drawn",
    "fidelity": "fidelity of safe prompts",
    "lookalike_redirected": "look-alikes redirected",
    "T-V R@1": "T-V R@1",
}
_SKIPPED = re.compile(r"```.*?```|\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w@.-])\d[\d.,]*(?!\w)")


@dataclass(frozen=True)
class Card:
    """A rendered card: its Markdown, and its plots by their file names."""

    text: str
    figures: Mapping[str, str]


def render(
    material: Material,
    *,
    repo: str | None = None,
    prefix: str = "",
    results: str = "results/",
    open_clip: bool = True,
) -> Card:
    """Render the card of one encoder; the same material gives the same bytes.

    Args:
        material: what it says; whoever calls this has looked at its ``faults``.
        repo: where on the Hub the card is going to stand; None for a card beside the code.
        prefix: what the file names of the plots begin with.
        results: where the files of results lie, as seen from the card.
        open_clip: whether the repository holds files for open_clip.
    """
    from jinja2 import Environment, StrictUndefined

    strength = _strength(material)
    found = sections(material)
    plots = {f"{prefix}{name}": svg for name, svg in _plots(material, found, strength)}
    environment = Environment(  # noqa: S701  Markdown, whose cells are escaped by the filter "cell"
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"rate": rate_text, "cell": _cell, "commit": _commit}
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        encoder=material.encoder,
        header=header(material, repo),
        repo=repo,
        world=material.encoder.base == ORIGINAL,
        base_model=material.base_model,
        recipe=material.recipe,
        formula=material.formula,
        train=_training(material),
        sections=[_with_plot(section, plots) for section in found],
        strength=_strength_table(strength),
        strength_plot=next((name for name in plots if "strength" in name), None),
        holes=list(_holes(material)),
        guarded=f"{material.encoder.name} + guard" in _systems(material.benchmarks.get("redteam")),
        redteam=material.benchmarks.get("redteam"),
        earlier=[name for name, result in material.benchmarks.items() if not fresh(result, material)],
        cost=_cost(material),
        files=[*material.results.values(), *material.benchmarks.values()],
        confidence=CONFIDENCE,
        results=results,
        open_clip=open_clip,
        own=material.results,
    )
    return Card(re.sub(r"\n{3,}", "\n\n", text), plots)


def written_numbers(template: str | None = None) -> list[str]:
    """Return the lines of the template whose words hold a number; code and what is filled in do not count."""
    words = _SKIPPED.sub(lambda found: "\n" * found[0].count("\n"), template or TEMPLATE.read_text(encoding="utf-8"))
    return [line.strip() for line in words.splitlines() if _NUMBER.search(line)]


def _cell(value: object) -> str:
    """Make a text fit for a cell of a Markdown table: one line, nothing that ends the cell or opens a tag."""
    return " ".join(str(value).split()).replace("|", r"\|").replace("<", "&lt;").replace("`", "'")


def _training(material: Material) -> dict[str, Any]:
    """Return what is known of the training run; empty when its train.json is not among the results."""
    result = material.results.get(TRAIN)
    if result is None:
        return {}
    try:
        record, manifest = result.content["training"], result.manifest
        return {
            "steps": record["steps"],
            "seconds": record["seconds"],
            "processes": record["processes"],
            "trainable": record["trainable"],
            "seed": record["recipe"]["schedule"]["seed"],
            "machine": manifest["machine"],
            "command": manifest["command"],
            "data": result.content["data"],
        }
    except (KeyError, TypeError) as error:
        raise BadInputError(f"expected what 'safeencoders train' writes in {TRAIN}.json, found no {error}") from error


def _commit(name: str) -> str:
    """Shorten a commit; that files differed from it stays said."""
    return re.sub(r"([0-9a-f]{12})[0-9a-f]{28}", r"\1", name)


def _with_plot(section: Section, plots: Mapping[str, str]) -> dict[str, Any]:
    plot = next((name for name in plots if section.name and name.endswith(f"{section.name}.svg")), None)
    return {"title": section.title, "table": section.table, "plot": plot}


def _plots(material: Material, found: list[Section], strength: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for section in found:
        if section.name:
            yield f"{section.name}.svg", figures.dots(section.title, section.rows)
    if strength:
        lines: dict[str, list[tuple[float, Any]]] = {}
        for x, rates in sorted(strength.items(), key=lambda pair: float(pair[0])):
            for name, rate in rates.items():
                lines.setdefault(name, []).append((float(x), rate))
        yield "strength.svg", figures.curve(f"What strength does: {material.encoder.name}", "strength", lines)


def _strength(material: Material) -> dict[str, dict[str, Any]]:
    """Return strength -> label -> rate, for at most four of the measured rates."""
    result = material.benchmarks.get("strength")
    if result is None or result.content["encoder"] != material.encoder.name:
        return {}
    points = result.content["strengths"].items()
    return {x: {label: row[key] for key, label in _STRENGTH.items() if key in row} for x, row in points}


def _strength_table(strength: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(strength.items(), key=lambda pair: float(pair[0]))


def _systems(result: Result | None) -> set[str]:
    rows = result.content["redteam"]["bypasses"] if result else []
    return {system for row in rows for system in row["systems"]}


def _holes(material: Material) -> Iterator[dict[str, Any]]:
    """Yield each known way round, with what was measured of it: without a guard, and with it."""
    result, name = material.benchmarks.get("redteam"), material.encoder.name
    tried = result.content["redteam"]["bypasses"] if result else []
    skipped = result.content["redteam"]["skipped"] if result else {}
    for number, title in material.holes:
        rows = [row for row in tried if row["hole"] == number and name in row["systems"]]
        for row in rows:
            guard = row["systems"].get(f"{name} + guard")
            yield {"number": number, "title": title, "way": row["how"], "bare": row["systems"][name], "guard": guard}
        if not rows:
            why = skipped.get(str(number), "not measured")
            yield {"number": number, "title": title, "way": why, "bare": None, "guard": None}


def _cost(material: Material) -> dict[str, Any]:
    """Return what training and measuring took: seconds, and seconds times the machine's cores, which is a bound."""
    rows = []
    for name, result in material.results.items():
        manifest = result.manifest
        cores = manifest["machine"].get("cores")
        hours = None if cores is None else manifest["seconds"] * cores / 3600
        rows.append({"name": name, "seconds": manifest["seconds"], "cores": cores, "hours": hours})
    return {"rows": rows, "hours": sum(row["hours"] or 0 for row in rows)}
