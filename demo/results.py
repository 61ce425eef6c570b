"""The measured results that the page compares: taken from the cards' and benchmarks' JSON, shipped as one small file.

From the folder of the sources, ``python -m safeencoders.demo.results`` writes that file anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safeencoders.files import read_json, write_json
from safeencoders.pictoworld import models

FILE = Path(__file__).with_name("results.json")
CARDS, BENCHMARKS = Path("model_cards", "results"), Path("benchmarks")
DRAWN = {
    "concept_present": "unsafe concept drawn",
    "fidelity": "safe prompts kept",
    "surviving": "rest of unsafe prompts kept",
    "lookalike_redirected": "look-alikes redirected",
}
SAID = {
    "unsafe_named": "unsafe named",
    "safe_attributes": "safe pictures described",
    "lookalike_named": "look-alikes named",
}
STRENGTH = {
    "any_unsafe": "anything unsafe drawn",
    "fidelity": "safe prompts kept",
    "lookalike_redirected": "look-alikes redirected",
    "top1_unsafe": "unsafe query finds something unsafe",
}
SURE = "Whiskers and brackets: 95 % interval."
Section = dict[str, Any]


def shipped() -> list[Section]:
    """Return the sections of the page: title, about, columns, and rows: system -> column -> rate."""
    found: list[Section] = read_json(FILE)["sections"]
    return found


def gather(root: Path) -> dict[str, list[Section]]:
    """Collect the sections from the sources.

    Args:
        root: the folder that holds ``model_cards`` and ``benchmarks``.
    """
    makers = (_generation, _retrieval, _description, _strength, _ablation, _redteam)
    return {"sections": [section for make in makers for section in make(root)]}


def _section(title: str, about: str, rows: Mapping[str, Any], sources: Iterable[Path], plot: str = "") -> Section:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    named = [source.as_posix() for source in sources]
    return {"title": title, "about": about, "columns": columns, "rows": dict(rows), "plot": plot, "sources": named}


def _picked(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {label: _rate(row[name]) for name, label in names.items() if name in row}


def _rate(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": found["value"], "n": found["n"], "interval": list(found["interval"])}


def _named(baseline: str) -> str:
    return baseline.replace("_", " ")


def _of_all(root: Path, kind: str, names: Mapping[str, str]) -> tuple[dict[str, Any], list[Path]]:
    """Return the baselines' rows and that of each encoder whose results have a file of this kind, and the files."""
    rows: dict[str, Any] = {}
    sources = []
    for encoder in models.tower_names():
        source = CARDS / encoder.replace("/", "-") / f"{kind}.json"
        if (root / source).is_file():
            content = read_json(root / source)
            systems = {_named(name): row for name, row in content["baselines"].items()} | {encoder: content[kind]}
            rows |= {name: _picked(row, names) for name, row in systems.items() if name not in rows}
            sources.append(source)
    return rows, sources


def _generation(root: Path) -> Iterator[Section]:
    rows, sources = _of_all(root, "generation", DRAWN)
    yield _section("Drawing", f"What the pipeline of pictograms draws. {SURE}", rows, sources, "bars")


def _retrieval(root: Path) -> Iterator[Section]:
    rows: dict[str, Any] = {}
    sources = []
    for name in models.tower_names():
        source = CARDS / name.replace("/", "-") / "retrieval-text.json"
        content = read_json(root / source)
        sources.append(source)
        systems = {_named(other): row for other, row in content["baselines"].items()} | {name: content["retrieval"]}
        for system, row in systems.items():
            rows[system] = {
                "safe query finds its picture": _rate(row["T-V"]["R@1"]),
                "unsafe query finds the safe twin": _rate(row["T*-VuV*"]["R@1"]),
                "unsafe query finds something unsafe": _rate(row["top1_unsafe"]["text"]),
            }
    about = f"Words look for pictures: the safe text encoder with the original vision tower. {SURE}"
    yield _section("Searching", about, rows, sources, "bars")


def _description(root: Path) -> Iterator[Section]:
    rows, sources = _of_all(root, "description", SAID)
    about = f"What a vision-language model says of pictures; “instruction” only asks it to be safe. {SURE}"
    yield _section("Describing", about, rows, sources, "bars")


def _strength(root: Path) -> Iterator[Section]:
    source = BENCHMARKS / "strength.json"
    if (root / source).is_file():
        content = read_json(root / source)
        ordered = sorted(content["strengths"].items(), key=lambda point: float(point[0]))
        rows = {f"strength {x}": _picked(row, STRENGTH) for x, row in ordered}
        about = f"What is gained and lost between the original (0) and the whole encoder (1). {SURE}"
        yield _section(f"Strength of {content['encoder']}", about, rows, [source], "lines")


def _ablation(root: Path) -> Iterator[Section]:
    source = BENCHMARKS / "ablation.json"
    rows = {}
    for name, seeds in read_json(root / source)["rows"].items():
        drawn = [seed["drawn"] for seed in seeds.values() if "drawn" in seed]
        if drawn:
            rows[name] = {column: _over_seeds([one[column] for one in drawn]) for column in drawn[0]}
    about = "Short trainings of 100 steps, to compare losses. Mean of the seeds; brackets: the lowest and highest."
    yield _section("Ways to train", about, rows, [source])


def _over_seeds(rates: list[Mapping[str, Any]]) -> dict[str, Any]:
    values = [rate["value"] for rate in rates]
    return {"value": sum(values) / len(values), "n": rates[0]["n"], "interval": [min(values), max(values)]}


def _redteam(root: Path) -> Iterator[Section]:
    source = BENCHMARKS / "redteam.json"
    found = read_json(root / source)["redteam"]
    kept = ("original", found["encoder"], f"{found['encoder']} + guard")
    rows = {
        f"{row['hole']} {row['name']}": {name: _rate(row["systems"][name]["unsafe"]) for name in kept}
        for row in found["bypasses"]
    }
    yield _section("Ways round it", f"How often an attack draws what it asked for. {SURE}", rows, [source])


if __name__ == "__main__":
    write_json(FILE, gather(Path()))
    print(f"written: {FILE}")
