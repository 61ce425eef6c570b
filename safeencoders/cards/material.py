"""What a card is made of: the files of results of one encoder, each with its manifest, and the faults in them.

A rate is ``{"value": number, "n": int, "interval": [low, high]}``; every number that a card shows of a measurement is
one, and the file it stands in says the command and the seeds it came from. A file is stale when its manifest names
other weights than the encoder has now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from safeencoders.catalog import Encoder
from safeencoders.errors import BadInputError
from safeencoders.files import read_json, sha256_file

Results = Mapping[str, Any]

TRAIN = "train"
MEASURED = ("retrieval", "generation", "description")
"""The commands of ``safeencoders evaluate`` whose results a card shows; each file has a key of this name."""
_RATES = (*MEASURED, "baselines", "systems", "redteam", "strengths")
_SETTINGS = ("budget", "times_lower", "skipped", "curve", "paired", "expected_max", "errors", "hole", "goal")
_MANIFEST = ("commit", "command", "seeds", "weights", "data", "seconds", "machine")


@dataclass(frozen=True)
class Result:
    """One file of results.

    Attributes:
        name: the file's name without its ending, such as "retrieval-text".
        content: what it holds.
        sha256: of the file.
        path: where it was read.
    """

    name: str
    content: Results
    sha256: str
    path: Path = Path()

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Return where its numbers come from; empty when the file does not say it."""
        found = self.content.get("manifest")
        return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True)
class Material:
    """Everything that a card says of one encoder.

    Attributes:
        encoder: its record.
        results: what ``safeencoders evaluate`` and ``train`` wrote of it, by their names.
        weights: the sha256 of its weights, and of what it was measured with, by the names that manifests use.
        own: which of the names in ``weights`` are this encoder's.
        recipe: the recipe, as its TOML has it; empty when unknown.
        formula: the objective; empty when unknown.
        holes: number and title of each known way round an encoder.
        benchmarks: wider measurements, "redteam" and "strength", that hold several encoders.
        base_model: where on the Hub the original lies; None when it lies nowhere.
    """

    encoder: Encoder
    results: Mapping[str, Result]
    weights: Mapping[str, str]
    own: frozenset[str]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    formula: str = ""
    holes: Sequence[tuple[int, str]] = ()
    benchmarks: Mapping[str, Result] = field(default_factory=dict)
    base_model: str | None = None

    def of(self, kind: str) -> dict[str, Result]:
        """Return the results of one kind: "retrieval", "generation" or "description"."""
        return {name: found for name, found in self.results.items() if kind in found.content}


def read_results(folder: Path, names: Sequence[str] | None = None) -> dict[str, Result]:
    """Read the files of results of a folder, in the order of their names.

    Args:
        folder: where they lie; a folder that is not there holds none.
        names: which to read, without ".json"; all when None.

    Raises:
        BadInputError: a file is no JSON object.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        if names is None or path.stem in names:
            content = read_json(path)
            if not isinstance(content, Mapping):
                raise BadInputError(f"expected a JSON object with results in {path}, got something else")
            found[path.stem] = Result(path.stem, content, sha256_file(path), path)
    return found


def faults(material: Material) -> list[str]:
    """Say what keeps a card from being rendered; an empty list when nothing does."""
    found = [
        f"{result.name}.json: {fault}"
        for result in (*material.results.values(), *material.benchmarks.values())
        for fault in (*_without_origin(result), *_bad_numbers(result.content))
    ]
    for result in material.results.values():
        found += [f"{result.name}.json: {fault}" for fault in _stale(result, material)]
    shown = [result for kind in MEASURED for result in material.of(kind).values()]
    for tower in material.encoder.towers:
        if not any(_of_tower(name, tower) for result in shown for name in _measured(result, material)):
            found.append(
                f"the {tower} tower of {material.encoder.name} was not measured: run 'safeencoders evaluate' with "
                "--json into its folder of results"
            )
    return found


def fresh(result: Result, material: Material) -> bool:
    """Say whether a benchmark was run with the weights that the encoder has now."""
    named = result.manifest.get("weights", {})
    known = material.own & named.keys()
    return bool(known) and all(material.weights[name] == named[name] for name in known)


def _measured(result: Result, material: Material) -> list[str]:
    """Name this encoder's weights that a file was measured with."""
    named: Mapping[str, str] = result.manifest.get("weights", {})
    return [name for name in material.own if material.weights[name] in named.values()]


def _of_tower(name: str, tower: str) -> bool:
    return f"/{tower}/" in name or f"({tower}," in name


def _stale(result: Result, material: Material) -> Iterator[str]:
    if result.name == TRAIN:  # it names the towers before they were rounded for shipping
        return
    named = result.manifest.get("weights")
    if not isinstance(named, Mapping):
        return
    for name, value in named.items():
        if name in material.weights and material.weights[name] != value:
            yield f"stale: measured with another {name} (sha256 {str(value)[:12]}); measure again"
    if not _measured(result, material):
        yield f"stale: none of its weights is one of {material.encoder.name}; measure again"


def _without_origin(result: Result) -> Iterator[str]:
    for key in _MANIFEST:
        if not result.manifest.get(key):
            yield f"its manifest does not say the {key}; measure again"


def _bad_numbers(content: Results) -> Iterator[str]:
    for key in _RATES:
        if key in content:
            yield from _walk(content[key], key)


def _walk(value: Any, path: str) -> Iterator[str]:  # noqa: ANN401  any JSON
    """Yield a fault for each number that is not a whole rate."""
    if isinstance(value, Mapping):
        if "value" in value or "interval" in value:
            if not _is_rate(value):
                yield f"{path} is no rate with value, n and an interval that holds the value; measure again"
            return
        for key, inner in value.items():
            if key not in _SETTINGS:
                yield from _walk(inner, f"{path} {key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk(inner, f"{path} {index}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield f"{path} is a bare number, without n and interval; measure again"


def _is_rate(rate: Mapping[str, Any]) -> bool:
    value, n, interval = rate.get("value"), rate.get("n"), rate.get("interval")
    if value is None:
        return n == 0
    if not isinstance(n, int) or n < 1 or not isinstance(interval, list) or len(interval) != 2:
        return False
    numbers = [value, *interval]
    if not all(isinstance(one, int | float) and isfinite(one) for one in numbers):
        return False
    return bool(interval[0] - 1e-9 <= value <= interval[1] + 1e-9)
