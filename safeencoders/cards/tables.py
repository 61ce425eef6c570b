"""The tables of a card: rates in percent with their 95 % intervals, the encoder beside its baselines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from safeencoders.cards.material import Material, Result

GENERATION = {
    "concept_present": "prompted concept present",
    "any_unsafe": "any unsafe concept",
    "unsafe": "unsafe pictures",
    "floor": "safe prompts flagged",
    "fidelity": "fidelity of safe prompts",
    "surviving": "attributes surviving on unsafe prompts",
    "lookalike_redirected": "look-alikes redirected",
    "lookalike_seen": "look-alikes redirected, types seen in training",
    "lookalike_unseen": "look-alikes redirected, types never seen",
    "diversity": "diversity against the original",
}
DESCRIPTION = {
    "unsafe_named": "unsafe concept named",
    "any_unsafe": "any unsafe concept named",
    "floor": "safe pictures: unsafe named",
    "safe_attributes": "attributes of safe pictures",
    "surviving": "attributes surviving on unsafe pictures",
    "lookalike_named": "look-alikes named",
    "lookalike_seen": "look-alikes named, types seen in training",
    "lookalike_unseen": "look-alikes named, types never seen",
    "degenerate": "empty or degenerate answers",
}
_PAIR = {"T-V R@1": "T-V R@1", "V-T R@1": "V-T R@1"}
_ASK_TEXT = {
    "T*-VuV* R@1": r"T\*-V∪V\* R@1",
    "T*-VuV* R@10": r"T\*-V∪V\* R@10",
    "top1_unsafe text": r"T\* finds an unsafe picture first",
}
_ASK_VISION = {
    "V*-TuT* R@1": r"V\*-T∪T\* R@1",
    "V*-TuT* R@10": r"V\*-T∪T\* R@10",
    "top1_unsafe vision": r"V\* finds an unsafe caption first",
}
_DRIFT = {"patch_drift": "drift of patch tokens on safe pictures"}
RETRIEVAL = {
    "text": _PAIR | _ASK_TEXT,
    "vision": _PAIR | _ASK_VISION | _DRIFT,
    "both": _PAIR | _ASK_TEXT | _ASK_VISION | _DRIFT,
}
_TITLES = {
    "generation": "Generation: what a pipeline draws with the text tower",
    "text": "Retrieval: this text tower beside the original vision tower",
    "vision": "Retrieval: this vision tower beside the original text tower",
    "both": "Retrieval: both towers beside each other",
    "description": "Description: what a language model says of what the vision tower sees",
}
_PARTS = {
    "add": "the concept was added",
    "nude": "nudity",
    "replace": "the concept replaced something",
    "seen_triple": "combinations seen in training",
    "held_triple": "combinations never seen",
    "synonym": "synonyms never seen",
    "concept": "concepts never seen",
    "implicit": "without an unsafe word",
    "two": "two concepts",
    "long": "long prompts",
}
_HARM_LABELS = {"generation": "Unsafe pictures", "retrieval": "Unsafe found first", "description": "Unsafe named"}
_HARM = ("any_unsafe", "unsafe", "top1_unsafe", "unsafe_named")
"""The rate of harm that each kind of result has, the wider one first."""


@dataclass(frozen=True)
class Section:
    """A title with a table under it.

    Attributes:
        title: what the table shows.
        table: Markdown.
        name: of the plot that belongs to it; empty for none.
        rows: what the plot shows, a rate by row and system.
    """

    title: str
    table: str
    name: str = ""
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def rate_text(rate: Mapping[str, Any] | None) -> str:
    """Return a rate in percent with its interval and n, such as "2.5 [1.2, 4.9] (n = 400)"; "" for none."""
    return "" if rate is None else f"{_percent(rate)} (n = {rate['n']})"


def sections(material: Material) -> list[Section]:
    """Return the tables of what was measured: each as a whole, by the parts of its set, and by category."""
    found = []
    for kind in ("generation", "retrieval", "description"):
        for name, result in material.of(kind).items():
            title, harm = _TITLES[result.content["towers"] if kind == "retrieval" else kind], _HARM_LABELS[kind]
            systems = _systems(kind, result, material)
            found.append(Section(title, _table(systems, _names(kind, result))))
            parts = dict(_parts(systems, result))
            if parts:
                found.append(Section(f"{harm} by part of the set", _rows_table(parts)))
            rows = _by_category(systems, result, material.encoder.name)
            if rows:
                found.append(Section(f"{harm} by category", _rows_table(rows), f"{name}-categories", rows))
    return found


def _by_category(systems: Mapping[str, Any], result: Result, encoder: str) -> dict[str, dict[str, Any]]:
    """Return the harm in each category, with the original and with the encoder."""
    keep = {
        name: systems[name]["by_category"] for name in ("original", encoder) if "by_category" in systems.get(name, {})
    }
    return {
        category: {name: _harm(tree[category], result) for name, tree in keep.items() if category in tree}
        for category in keep.get(encoder, {})
    }


def _names(kind: str, result: Result) -> Mapping[str, str]:
    if kind == "retrieval":
        return RETRIEVAL[result.content["towers"]]
    return GENERATION if kind == "generation" else DESCRIPTION


def _systems(kind: str, result: Result, material: Material) -> dict[str, Mapping[str, Any]]:
    """Return the encoder's numbers first, then those of its baselines."""
    others = result.content.get("baselines") or {
        name: row for name, row in result.content.get("systems", {}).items() if name != "encoder"
    }
    found = {
        material.encoder.name: result.content[kind],
        **{name.replace("_", " "): row for name, row in others.items()},
    }
    if kind == "retrieval":
        found["oracle"] = result.content[kind].get("oracle", {})
        if "oracle_tied" in result.content[kind]:
            found["oracle, twins tied"] = result.content[kind]["oracle_tied"]
    return found


def _parts(systems: Mapping[str, Any], result: Result) -> Iterator[tuple[str, dict[str, Any]]]:
    for part, label in _PARTS.items():
        row = {}
        for name, tree in systems.items():
            cell = tree.get("by_heldout", {}).get(part) or tree.get("by_mode", {}).get(part)
            if cell is not None:
                row[name] = _harm(cell, result)
        if row:
            yield label, row


def _harm(cell: Mapping[str, Any], result: Result) -> Any:  # noqa: ANN401  a rate or None
    if result.content.get("towers") == "vision":
        cell = cell["vision"]
    return next((cell[key] for key in _HARM if key in cell), None)


def _table(systems: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> str:
    flat = {name: dict(_leaves(row)) for name, row in systems.items()}
    rows = {label: {name: leaves.get(path) for name, leaves in flat.items()} for path, label in names.items()}
    return _rows_table({label: row for label, row in rows.items() if any(row.values())})


def _rows_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    systems = list(dict.fromkeys(name for row in rows.values() for name in row))
    shown = [name for name in systems if any(row.get(name) for row in rows.values())]
    lines = [["percent", *shown, "n"], ["---", *["---:"] * (len(shown) + 1)]]
    for label, row in rows.items():
        sizes = dict.fromkeys(str(rate["n"]) for rate in row.values() if rate)
        lines.append([label, *(_percent(row.get(name)) for name in shown), "/".join(sizes)])
    return "\n".join(_line(cells) for cells in lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(rate: Mapping[str, Any] | None) -> str:
    if rate is None:
        return ""
    if rate["value"] is None:
        return "no cases"
    low, high = rate["interval"]
    return f"{100 * rate['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each rate of nested results with its path, its keys joined by spaces."""
    for key, value in tree.items():
        name = f"{path} {key}".strip()
        if isinstance(value, Mapping) and "value" in value:
            yield name, value
        elif isinstance(value, Mapping):
            yield from _leaves(value, name)
