"""Pairs: rows of safe texts and pictures and their unsafe twins, as they were read.

Any of the four columns may be absent and a row may lack a part; ``usable`` picks what a run trains on. A picture is
the path of its file. No message quotes a text: safety prompts are opaque data, named by file and row only.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image
from tqdm import tqdm

from safeencoders.errors import BadInputError, UnknownNameError
from safeencoders.training.objectives.terms import Role

Column = Literal["safe_text", "unsafe_text", "safe_image", "unsafe_image"]
COLUMNS: tuple[Column, ...] = get_args(Column)
ROLES: dict[Column, Role] = {"safe_text": "t", "unsafe_text": "t*", "safe_image": "v", "unsafe_image": "v*"}
IMAGES: tuple[Column, ...] = ("safe_image", "unsafe_image")
_KEYS: tuple[Column, ...] = ("safe_text", "safe_image", "unsafe_text", "unsafe_image")
# What Pillow's decoders raise on damaged files.
_UNDECODABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    NotImplementedError,
    struct.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Pairs:
    """Rows of safe and unsafe twins.

    Attributes:
        source: what they were read from, for messages and manifests.
        columns: one entry per row, a text or the path of a picture; None where a row lacks it.
        tags: the category of each row, or None.
        root: the folder that relative paths of pictures were joined to.
        notes: what the reader did not use or had to choose, for the report.
    """

    source: str
    columns: Mapping[Column, tuple[str | None, ...]]
    tags: tuple[str | None, ...]
    root: Path = Path()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Hold the invariant that columns and tags are of one length."""
        assert {len(column) for column in self.columns.values()} == {len(self.tags)}  # noqa: S101  our own invariant

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.tags)

    def missing(self) -> dict[Column, int]:
        """Return for each column in how many rows it is missing."""
        return {column: entries.count(None) for column, entries in self.columns.items()}

    def entries(self, column: Column, rows: Iterable[int] | None = None) -> list[str]:
        """Return a column's entries at the rows, all without ``rows``; none of them may be missing."""
        values = self.columns[column]
        found = [value for value in (values if rows is None else (values[row] for row in rows)) if value is not None]
        assert rows is not None or len(found) == len(self)  # noqa: S101  ``usable`` has left such rows out
        return found

    def take(self, rows: Sequence[int], columns: Iterable[Column] | None = None) -> Pairs:
        """Return the rows in the given order, with the given columns only."""
        kept = {c: tuple(self.columns[c][row] for row in rows) for c in (self.columns if columns is None else columns)}
        return replace(self, columns=kept, tags=tuple(self.tags[row] for row in rows))

    def sha256(self) -> str:
        """Return the sha256 of the columns' content; pictures count by their path under ``root`` and their size."""
        rows = range(len(self))
        content: dict[str, list[Any]] = {
            column: [self._content(column, row) for row in rows] for column in self.columns
        }
        for column in IMAGES:  # pictures made anew under their old names are other data
            if column in self.columns:
                content[f"{column} bytes"] = [_size(path) for path in self.columns[column]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def split(self, fraction: float) -> tuple[Pairs, Pairs]:
        """Split into training rows and about ``fraction`` validation rows.

        A row's side depends only on its safe text, on its safe picture's name where there is no text: equal ones are
        never on both sides, and rows that are added or left out move no other row.

        Raises:
            BadInputError: the fraction is not between 0 and 1, or a side would be empty.
        """
        if not 0 < fraction < 1:
            raise BadInputError(f"expected a validation share between 0 and 1, got {fraction}.")
        held = [self._share(row) < fraction for row in range(len(self))]
        sides = [[row for row, out in enumerate(held) if out is side] for side in (False, True)]
        if not all(sides):
            raise BadInputError(
                f"expected rows for training and for validation, but a validation share of {fraction:g} of the "
                f"{len(self)} rows of {self.source} leaves {len(sides[0])} and {len(sides[1])} (rows with equal safe "
                "texts stay together); give more rows or another share."
            )
        return self.take(sides[0]), self.take(sides[1])

    def _content(self, column: Column, row: int) -> str | None:
        value = self.columns[column][row]
        if value is None or column not in IMAGES:
            return value
        path = Path(value)
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name

    def _share(self, row: int) -> float:
        """Return a number in 0..1 that only the row's key decides."""
        found = (self._content(column, row) for column in _KEYS if column in self.columns)
        key = next((value for value in found if value is not None), "")
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6]) / 2**48


@dataclass(frozen=True)
class Dropped:
    """What ``usable`` left out.

    Attributes:
        missing: for each column of the data, the rows that lack it.
        incomplete: rows left out because a used part is missing.
        unreadable: pictures that cannot be decoded.
        undecodable: rows left out because of these.
    """

    missing: Mapping[Column, int]
    incomplete: int = 0
    unreadable: tuple[str, ...] = ()
    undecodable: int = 0


def _size(path: str | None) -> int | None:
    try:
        return None if path is None else os.path.getsize(path)
    except OSError:  # ``usable`` says what is wrong with it
        return None


def picture(path: str | Path) -> Image.Image:
    """Decode a picture to RGB.

    Raises:
        BadInputError: there is no such file, or it cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except _UNDECODABLE as error:
        raise BadInputError(
            f"expected a picture in {path}, but it cannot be decoded ({type(error).__name__}); "
            "replace the file, or leave its row out with --skip-unreadable."
        ) from error


def usable(pairs: Pairs, use: Sequence[str] | None = None, *, skip_unreadable: bool = False) -> tuple[Pairs, Dropped]:
    """Return the rows that have every used part, with the used columns only, and what was left out.

    Args:
        pairs: as read.
        use: names of columns; None for all that the data has.
        skip_unreadable: leave rows with a picture that cannot be decoded out, rather than raise.

    Raises:
        UnknownNameError: ``use`` names what is no column.
        BadInputError: a used column is not in the data, no row is left, or a picture cannot be decoded.
    """
    used = _used(pairs, use)
    complete = [row for row in range(len(pairs)) if all(pairs.columns[c][row] is not None for c in used)]
    if not complete:
        have = ", ".join(f"{c} in {len(pairs) - n}" for c, n in pairs.missing().items())
        raise BadInputError(
            f"expected rows with all of {', '.join(used)}, but none of the {len(pairs)} rows of {pairs.source} has "
            f"them ({have}); choose fewer columns with --use."
        )
    kept = pairs.take(complete, used)
    bad = _unreadable(kept)
    if bad and not skip_unreadable:
        raise BadInputError(
            f"expected pictures, but {len(bad)} of {pairs.source} cannot be decoded: {', '.join(bad[:10])}"
            f"{', ...' if len(bad) > 10 else ''}; replace them, or leave their rows out with --skip-unreadable."
        )
    readable = _without(kept, set(bad))
    return readable, Dropped(pairs.missing(), len(pairs) - len(kept), tuple(bad), len(kept) - len(readable))


def _used(pairs: Pairs, use: Sequence[str] | None) -> tuple[Column, ...]:
    for name in use or ():
        if name not in COLUMNS:
            raise UnknownNameError("column", name, COLUMNS)
    used = tuple(column for column in COLUMNS if column in (pairs.columns if use is None else use))
    absent = [column for column in used if column not in pairs.columns]
    if absent or not used:
        raise BadInputError(
            f"expected --use to name columns of {pairs.source}, got {', '.join(absent) or 'none'}; "
            f"the data has {', '.join(pairs.columns)}."
        )
    return used


def _unreadable(pairs: Pairs) -> list[str]:
    """Decode every picture once and return the paths that fail."""
    paths = dict.fromkeys(path for c in IMAGES if c in pairs.columns for path in pairs.entries(c))
    failed = []
    for path in tqdm(paths, desc="decoding", unit=" pictures", disable=None if paths else True):
        try:
            picture(path)
        except BadInputError:
            failed.append(path)
    return failed


def _without(pairs: Pairs, bad: set[str]) -> Pairs:
    """Leave the rows out that show one of the pictures."""
    shown = [pairs.columns[column] for column in IMAGES if column in pairs.columns]
    rows = [row for row in range(len(pairs)) if not any(column[row] in bad for column in shown)]
    if not rows:
        raise BadInputError(f"expected a row with readable pictures in {pairs.source}, found none; check the files.")
    return pairs.take(rows)
