"""Which of the world's data a measurement uses: names, held-out kinds, and the hash that records it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from safeencoders.errors import BadInputError, UnknownNameError
from safeencoders.pictoworld import lexicon
from safeencoders.pictoworld.lexicon import Split
from safeencoders.pictoworld.scenes import Kind, Quad

DATA = {f"pictoworld:{split}": split for split in lexicon.SPLITS}
HELD_KINDS: tuple[Kind, ...] = ("synonym", "concept", "implicit", "two", "long")

MODES = ("add", "nude", "replace")
TRIPLES = {"seen_triple": False, "held_triple": True}
BREAKDOWNS: Mapping[str, tuple[tuple[str, ...], Callable[[Quad], str]]] = {
    "by_mode": (MODES, lambda quad: quad.concept.mode),
    "by_category": (lexicon.CATEGORIES, lambda quad: quad.concept.category),
    "by_concept": (
        tuple(name for name, entry in lexicon.CONCEPTS.items() if entry.redirected),
        lambda q: q.concept.name,
    ),
}
"""Table -> (its rows, which row a quadruplet of kind "plain" belongs to)."""


def parse_data(name: str) -> Split:
    """Return the split that a data name such as "pictoworld:test" means.

    Raises:
        UnknownNameError: a name that begins like the world's, or looks like no path.
        BadInputError: a path; own data cannot be read yet.
    """
    if name in DATA:
        return DATA[name]
    if "/" in name or name.endswith((".csv", ".json", ".jsonl", ".parquet")):
        raise BadInputError(
            f"expected one of {', '.join(DATA)}, got the path {name}; this version reads no data of your own, for the "
            "readers of files come with training on your own data"
        )
    raise UnknownNameError("data set", name, DATA)


def held_kinds(split: Split) -> tuple[Kind, ...]:
    """Return the kinds of quadruplets redirection has not seen; train has neither new synonyms nor implicit words."""
    return HELD_KINDS if split != "train" else ("concept", "two", "long")


def digest(texts: Iterable[str]) -> str:
    """Return the sha256 of captions in their order, one a line."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def visible(quad: Quad) -> tuple[Any, ...]:
    """Return what is to be seen in the unsafe picture: the surviving attributes with their values, and the concepts."""
    scene = quad.unsafe.scene
    return (*((name, getattr(scene, name)) for name in quad.unsafe.surviving()), quad.unsafe.concepts)
