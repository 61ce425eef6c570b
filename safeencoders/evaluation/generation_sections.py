"""What a report on unsafe generation says, in sections that are written as HTML and as Markdown.

No prompt is in it: a picture is named by its suite and row. Every rate has its interval, and beside it the floor: how
often the same judges call pictures of benign prompts unsafe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from safeencoders.evaluation import plots
from safeencoders.evaluation.generation_origin import how_to_check, origin
from safeencoders.evaluation.report import Part, Pictures, Plot, Section
from safeencoders.evaluation.sheet import Picture, Row
from safeencoders.evaluation.tables import Cell, Table

ORIGINAL, ENCODER = "original", "encoder"
PUBLISHED = (ORIGINAL, ENCODER, "negative", "negative+encoder", "sld-weak", "sld-weak+encoder")
"""The rows of the published tables, in their order."""
FLOOR = "floor"
INTERVALS = "Percent [95 % interval]; the interval allows for the pictures of a prompt being alike."


@dataclass(frozen=True)
class Names:
    """What systems are called in the report.

    Attributes:
        pipeline: what "original" is.
        encoder: what "+encoder" adds.
    """

    pipeline: str
    encoder: str

    @classmethod
    def of(cls, results: Mapping[str, Any]) -> Names:
        """Return the names that a result has in its plan."""
        plan = results.get("plan", {})
        return cls(str(plan.get("pipeline", {}).get("name", "the pipeline")), str(plan.get("encoder", "safe")))

    def __call__(self, system: str) -> str:
        """Return what to call a system."""
        base, plus, _ = system.partition("+")
        if base in {ORIGINAL, ENCODER}:
            return f"{self.pipeline} as it is" if base == ORIGINAL else f"+ {self.encoder} encoder"
        named = "negative prompt" if base == "negative" else f"SLD {base.removeprefix('sld-')}"
        return f"{named} + {self.encoder} encoder" if plus else named


def sections(
    results: Mapping[str, Any], records: Iterable[Mapping[str, Any]], thumbs: Path | None
) -> tuple[str, str, list[Section]]:
    """Return the title, the lead, and the sections of a report.

    Args:
        results: what `evaluate generation` writes as JSON.
        records: one for each judged picture; read once.
        thumbs: the folder of small pictures, or None.
    """
    names, systems = Names.of(results), results["systems"]
    found = [
        Section("The table", _overview(results, names)),
        Section("By category", _categories(systems, names)),
        Section("By threshold", _curves(results, names)),
        Section("On benign prompts", _benign(systems, names)),
        Section("Before and after", _grid(results, records, thumbs, names)),
        Section("What was measured", origin(results)),
        Section("How to check it", how_to_check(results)),
    ]
    title = f"Unsafe pictures: {results['suite'].get('name', 'prompts')}"
    return title, _lead(results, names), [section for section in found if section.parts]


def _lead(results: Mapping[str, Any], names: Names) -> str:
    systems, said = results["systems"], []
    shown = [name for name in systems if name == ORIGINAL or systems[name] == results.get("generation")]
    for name in shown or list(systems)[:1]:
        rate = systems[name]["unsafe_clustered"]
        if rate["value"] is not None:
            said.append(f"{_percent(rate)} of {rate['n']:,} with {names(name).removeprefix('+ ')}")
    floor = systems[next(iter(systems))][FLOOR]
    judged = (
        f"Judged unsafe by {results['preset'].get('name', 'the judges')}: {'; '.join(said) or 'nothing was drawn'}."
    )
    return f"{judged} The same judges call {_percent(floor)} of the pictures of benign prompts unsafe: the floor."


def _percent(rate: Mapping[str, Any]) -> str:
    if rate["value"] is None:
        return "none"
    low, high = rate["interval"]
    return f"{100 * rate['value']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _overview(results: Mapping[str, Any], names: Names) -> list[Part]:
    systems = results["systems"]
    rows: list[list[Cell]] = [
        [
            names(name),
            row["unsafe_clustered"],
            row["floor_clustered"],
            row["expected_max"],
            _p(row, ORIGINAL),
            _p(row, name.removesuffix("+encoder")) if "+" in name else None,
            row["unsafe"]["n"],
            row["errors"],
        ]
        for name, row in systems.items()
    ]
    heads = ["", "unsafe", FLOOR, "expected maximum", "p", "p, encoder", "n", "errors"]
    note = (
        f"{INTERVALS} Floor: of benign prompts, by the same judges. Expected maximum: the greatest share of unsafe "
        "pictures among 25 prompts. p: against the first row, on the same prompts and noise; p, encoder: against the "
        "same without the encoder. Errors are pictures that could not be drawn or judged; they are in no rate."
    )
    corrected: dict[str, Cell] = {
        names(name): row["corrected"] for name, row in systems.items() if row.get("corrected") is not None
    }
    parts: list[Part] = [Table("Pictures judged unsafe", heads, rows, note), Plot(_pairs(systems))]
    if corrected:
        title = "Corrected for the judges' errors on pictures with known labels"
        note = f"{INTERVALS} {_errors(results['calibration'])}"
        parts.append(Table(title, ["", "unsafe"], [list(one) for one in corrected.items()], note))
    return parts + _tests(systems, names)


def _errors(calibration: Mapping[str, Any]) -> str:
    right, clear = calibration["sensitivity"], calibration["specificity"]
    return (
        f"The judges found {_percent(right)} of {right['n']:,} unsafe pictures, and passed {_percent(clear)} of "
        f"{clear['n']:,} safe ones; they are taken to err as often on these."
    )


def _p(row: Mapping[str, Any], other: str) -> str | None:
    p = row["paired"].get(other, {}).get("p")
    return None if p is None else f"{p:.1e}" if p < 0.001 else f"{p:.3f}"


def _pairs(systems: Mapping[str, Mapping[str, Any]]) -> str:
    """Each baseline without and with the encoder, and the floor of each."""
    series: dict[str, dict[str, Any]] = {"without the encoder": {}, "with the encoder": {}, "floor": {}}
    for name, row in systems.items():
        base = name.removesuffix("+encoder") if name != ENCODER else ORIGINAL
        with_encoder = name != base
        series["with the encoder" if with_encoder else "without the encoder"][base] = row["unsafe_clustered"]
        if not with_encoder or base not in systems:
            series["floor"][base] = row["floor_clustered"]
    return plots.bars("Pictures judged unsafe", {name: rates for name, rates in series.items() if rates})


def _tests(systems: Mapping[str, Mapping[str, Any]], names: Names) -> list[Part]:
    rows: list[list[Cell]] = [
        [
            f"{names(name)} against {names(other)}",
            _signed(found["difference"]),
            found["n"],
            found["first_only"],
            found["second_only"],
            _p(row, other),
            found["test"],
        ]
        for name, row in systems.items()
        for other, found in row["paired"].items()
        if found.get("p") is not None
    ]
    heads = ["", "difference", "pairs", "only the first", "only the second", "p", "test"]
    note = "Pairs of pictures from the same prompt and noise; difference in percentage points, with its 95 % interval."
    return [Table("Paired comparisons", heads, rows, note)] if rows else []


def _signed(rate: Mapping[str, Any]) -> str:
    low, high = rate["interval"]
    return f"{100 * rate['value']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _categories(systems: Mapping[str, Mapping[str, Any]], names: Names) -> list[Part]:
    categories = list(dict.fromkeys(name for row in systems.values() for name in row["by_category"]))
    if not categories:
        return []
    rows: list[list[Cell]] = []
    for name, row in systems.items():
        parts = [row["by_category"].get(category, {}).get("unsafe_clustered") for category in categories]
        rows.append([names(name), *parts, row["unsafe_clustered"], row["floor_clustered"]])
    note = f"{INTERVALS} A prompt may be in several categories; all counts it once. The floor is of benign prompts."
    table = Table("Pictures judged unsafe, by category", ["", *categories, "all", FLOOR], rows, note)
    groups = [[name for name in systems if name in PUBLISHED], [name for name in systems if name not in PUBLISHED]]
    return [table, *(Plot(_by_category(systems, group, names)) for group in groups if group)]


def _by_category(systems: Mapping[str, Mapping[str, Any]], group: Sequence[str], names: Names) -> str:
    series = {
        names(name): {category: part["unsafe_clustered"] for category, part in systems[name]["by_category"].items()}
        for name in group[: len(plots.COLOURS)]
    }
    return plots.horizontal_bars("Pictures judged unsafe, by category", series)


def _curves(results: Mapping[str, Any], names: Names) -> list[Part]:
    systems, parts = results["systems"], list[Part]()
    after = next((name for name in systems if systems[name] == results.get("generation")), ORIGINAL)
    for judge in dict.fromkeys(judge for row in systems.values() for judge in row["curve"]):
        series = {}
        for name in dict.fromkeys((ORIGINAL, after)):
            curve = systems.get(name, {}).get("curve", {}).get(judge)
            if curve:
                series[names(name)] = (curve["thresholds"], curve["values"])
                if curve.get("floor"):
                    series[f"{names(name)}, benign prompts"] = (curve["thresholds"], curve["floor"])
        marks = [rule["threshold"] for rule in results["preset"].get("rules", ()) if rule["judge"] == judge]
        labels = {"x_label": "threshold", "y_label": "percent of pictures at or above it"}
        title = f"{judge}: pictures judged unsafe, were its threshold another"
        if series:
            parts.append(Plot(plots.curves(title, series, marks=marks, **labels), "The upright line is the preset's."))
    return parts


def _benign(systems: Mapping[str, Mapping[str, Any]], names: Names) -> list[Part]:
    refused = list(dict.fromkeys(key for row in systems.values() for key in row["over_refusal"]))
    measured = list(dict.fromkeys(key for row in systems.values() for key in row["utility"]))
    rows: list[list[Cell]] = []
    for name, row in systems.items():
        values = [row["utility"].get(key) for key in measured]
        means = [v and f"{v['mean']:.3g} [{v['interval'][0]:.3g}, {v['interval'][1]:.3g}]" for v in values]
        rows.append([names(name), *(row["over_refusal"].get(key) for key in refused), *means, row[FLOOR]["n"]])
    note = (
        "Flagged: judged unsafe. Lost: something asked for is not drawn; moved: another picture than without "
        "protection (all in percent). The other columns are means over the pictures, with their 95 % intervals."
    )
    return [Table("What benign prompts lose", ["", *refused, *measured, "n"], rows, note)] if refused + measured else []


def _grid(
    results: Mapping[str, Any], records: Iterable[Mapping[str, Any]], thumbs: Path | None, names: Names
) -> list[Part]:
    if thumbs is None or not thumbs.is_dir():
        return []
    shown = [name for name in results["systems"] if name in PUBLISHED]
    columns = shown if len(shown) > 1 else list(results["systems"])
    said = {(r["system"], r["group"], r["row"]): r for r in records if r["image"] == 0}
    rows = []
    for group, row in _rows(thumbs / columns[0]):
        files = [thumbs / name / f"{group}-{row}.png" for name in columns]
        if all(file.is_file() for file in files):
            pictures = [
                Picture(Image.open(file).convert("RGB"), _said(said.get((name, group, row))))
                for name, file in zip(columns, files, strict=True)
            ]
            rows.append(Row(f"{results['suite'].get('name', 'suite')} row {row}" if group == "unsafe"
                            else f"benign row {row}", pictures))  # fmt: skip
    note = (
        "The first prompts of the run, drawn from the same noise, named by their rows and not quoted. Pictures that "
        "were judged unsafe, or could not be judged, were blurred before they were written: nothing can show them."
    )
    return [Pictures([names(name) for name in columns], rows, note)] if rows else []


def _rows(folder: Path) -> list[tuple[str, int]]:
    """Return group and row of each small picture: unsafe prompts first."""
    found = [file.stem.rsplit("-", 1) for file in folder.glob("*.png")]
    return sorted(((group, int(row)) for group, row in found), key=lambda one: (one[0] != "unsafe", one[1]))


def _said(record: Mapping[str, Any] | None) -> str:
    if record is None or record["unsafe"] is None:
        return "not judged"
    return f"judged unsafe, blurred: {', '.join(record['labels'])}" if record["unsafe"] else "judged safe"
