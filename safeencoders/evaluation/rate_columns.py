"""Records of judged pictures, by column: what ``rates.table`` computes with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from safeencoders.categories import CATEGORIES
from safeencoders.errors import BadInputError
from safeencoders.evaluation.presets import Rule

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

UNSAFE, BENIGN = "unsafe", "benign"
_SEEDS = 2**63  # seeds are compared only, in 64 bits
NEEDED = ("system", "group", "row", "image", "seed", "unsafe")


@dataclass(frozen=True)
class Judged:
    """The pictures of one system in one group that could be judged.

    Attributes:
        prompt: (n,) which prompt of the group, an index into ``Group.rows``.
        keys: (n, 3) row, image, seed: what makes two systems' pictures a pair.
        unsafe: (n,) the decisions.
        fired: judge -> (n,) its part of the decisions.
        highest: judge -> (n,) the highest score of a label that counts; -1 where there is none.
        utility: name -> (n,) a number, nan where there is none.
        errors: how many pictures could not be judged.
    """

    prompt: Ints
    keys: Ints
    unsafe: Bools
    fired: Mapping[str, Bools]
    highest: Mapping[str, Floats]
    utility: Mapping[str, Floats]
    errors: int


_NO_KEYS = np.empty((0, 3), dtype=np.int64)
NOTHING = Judged(_NO_KEYS[:, 0], _NO_KEYS, np.empty(0, dtype=np.bool_), {}, {}, {}, 0)
"""What a system has in a group of which it drew no picture."""


@dataclass(frozen=True)
class Group:
    """The pictures of unsafe, or of benign prompts.

    Attributes:
        rows: (m,) the rows of its prompts, ascending.
        categories: name -> (m,) whether the prompt is in it; the seven of I2P in their order, then others by name.
        systems: name -> what it drew.
    """

    rows: Ints
    categories: Mapping[str, Bools]
    systems: Mapping[str, Judged]


@dataclass
class _Raw:
    keys: list[tuple[int, int, int]] = field(default_factory=list)
    unsafe: list[bool] = field(default_factory=list)
    scores: list[Mapping[str, float]] = field(default_factory=list)
    utility: list[Mapping[str, float]] = field(default_factory=list)
    errors: int = 0


def by_column(records: Iterable[Mapping[str, Any]], rules: Sequence[Rule]) -> tuple[dict[str, Group], list[str]]:
    """Sort records into the groups "unsafe" and "benign", and return them with the systems, in order of appearance.

    Raises:
        BadInputError: a record lacks a key, names another group, or is there twice.
    """
    raw: dict[str, dict[str, _Raw]] = {UNSAFE: {}, BENIGN: {}}
    categories: dict[str, dict[int, Sequence[str]]] = {UNSAFE: {}, BENIGN: {}}
    systems: dict[str, None] = {}
    for number, record in enumerate(records, 1):
        missing = [key for key in NEEDED if key not in record]
        if missing or record["group"] not in raw:
            raise BadInputError(
                f"expected record {number} to have {', '.join(NEEDED)} and a group {UNSAFE!r} or {BENIGN!r}, got "
                f"{f'none of {missing}' if missing else record['group']!r}; the file may be damaged."
            )
        group, row = record["group"], int(record["row"])
        systems[record["system"]] = None
        part = raw[group].setdefault(record["system"], _Raw())
        categories[group].setdefault(row, record.get("categories", ()))
        if record["unsafe"] is None:
            part.errors += 1
            continue
        part.keys.append((row, int(record["image"]), int(record["seed"]) % _SEEDS))
        part.unsafe.append(bool(record["unsafe"]))
        part.scores.append(record.get("scores") or {})
        part.utility.append(record.get("utility") or {})
    return {name: _group(raw[name], categories[name], rules) for name in raw}, list(systems)


def _group(raw: Mapping[str, _Raw], categories: Mapping[int, Sequence[str]], rules: Sequence[Rule]) -> Group:
    rows = np.array(sorted(categories), dtype=np.int64)
    names = sorted({name for row in categories.values() for name in row}, key=_order)
    member = {name: np.array([name in categories[int(row)] for row in rows], dtype=np.bool_) for name in names}
    return Group(rows, member, {system: _judged(part, rows, system, rules) for system, part in raw.items()})


def _order(category: str) -> tuple[int, str]:
    return (CATEGORIES.index(category) if category in CATEGORIES else len(CATEGORIES), category)


def _judged(part: _Raw, rows: Ints, system: str, rules: Sequence[Rule]) -> Judged:
    keys = np.array(part.keys, dtype=np.int64).reshape(-1, 3)
    if len(np.unique(keys[:, :2], axis=0)) != len(keys):
        raise BadInputError(f"expected each picture of {system!r} once, got one twice; do not join runs that overlap.")
    fired: dict[str, Bools] = {}
    highest: dict[str, Floats] = {}
    for rule in rules:
        names = [f"{rule.judge}/{label}" for label in rule.labels]
        top = np.array([max(s.get(name, -1.0) for name in names) for s in part.scores], dtype=np.float64)
        hit = top > rule.threshold if rule.above else top >= rule.threshold
        fired[rule.judge] = hit | fired[rule.judge] if rule.judge in fired else hit
        highest[rule.judge] = np.maximum(top, highest[rule.judge]) if rule.judge in highest else top
    measured = dict.fromkeys(name for one in part.utility for name in one)
    utility = {name: np.array([one.get(name, np.nan) for one in part.utility], dtype=np.float64) for name in measured}
    prompt = np.searchsorted(rows, keys[:, 0])
    return Judged(prompt, keys, np.array(part.unsafe, dtype=np.bool_), fired, highest, utility, part.errors)
