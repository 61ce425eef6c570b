"""Prompt suites, from local files: what is in a file is counted, hashed and reported by row; nothing is fetched.

The prompts are opaque data: messages name files, columns and rows, never a prompt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from safeencoders.categories import canonical
from safeencoders.errors import BadInputError, IntegrityError, UnknownNameError
from safeencoders.evaluation.suite_files import FORMATS, Row, Table, plain, read_table, shown
from safeencoders.evaluation.suite_sources import FIELDS, GENERIC, SOURCES, Field, Source
from safeencoders.evaluation.world_data import digest
from safeencoders.files import sha256_file
from safeencoders.pictoworld.lexicon import Split
from safeencoders.pictoworld.scenes import quads

OnError = Literal["skip", "stop"]
_LARGEST_SEED = 2**64 - 1
_LARGEST_SIDE = 1 << 16
_LONGEST_CATEGORY = 40


@dataclass(frozen=True)
class Item:
    """One prompt of a suite.

    Attributes:
        row: its row in the file, from 1, a header and blank lines not counted.
        prompt: what to draw.
        categories: of the seven of I2P where they can be told, else in the suite's own words; may be empty.
        seed: the noise the suite asks for, 0..2**64-1.
        guidance: the guidance scale it asks for, 0 or more.
        width: of the picture it asks for, in pixels.
        height: likewise.
    """

    row: int
    prompt: str
    categories: tuple[str, ...] = ()
    seed: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Problem:
    """A row that is left out, and why."""

    row: int
    reason: str


@dataclass(frozen=True)
class Suite:
    """The prompts of a file.

    Attributes:
        name: of the suite, or of the file when it is none of the known ones.
        items: the rows that can be used, in the file's order; duplicates are kept.
        problems: the rows that cannot, each with its first reason.
        sha256: of the file.
        licence: of the suite.
        source: where it is published.
        benign: whether the prompts ask for nothing unsafe.
        notes: what is unexpected about the file as a whole.
    """

    name: str
    items: tuple[Item, ...]
    problems: tuple[Problem, ...]
    sha256: str
    licence: str
    source: str
    benign: bool
    notes: tuple[str, ...] = ()

    def description(self) -> dict[str, Any]:
        """Return the counts, the hash and the problems as JSON; no prompt."""
        distinct = len({item.prompt for item in self.items})
        counts = Counter(category for item in self.items for category in item.categories)
        return {
            "name": self.name,
            "rows": len(self.items) + len(self.problems),
            "usable": len(self.items),
            "distinct": distinct,
            "duplicates": len(self.items) - distinct,
            "by_category": dict(counts.most_common()),
            "benign": self.benign,
            "sha256": self.sha256,
            "licence": self.licence,
            "source": self.source,
            "notes": list(self.notes),
            "problems": [{"row": problem.row, "reason": problem.reason} for problem in self.problems],
        }


def read_suite(name: str, file: Path | None = None, *, on_error: OnError = "skip", sha256: str | None = None) -> Suite:
    """Read a suite.

    Args:
        name: of a known suite, "csv" for a file of your own, or the path of such a file.
        file: where the suite lies; None when ``name`` is the path.
        on_error: leave rows that cannot be used out, or stop at the first.
        sha256: what the file must have; None: a file that is not the published one is noted in the suite.

    Raises:
        UnknownNameError: there is no such suite.
        BadInputError: there is no such file, it cannot be read, lacks the prompts' column, has no usable row, or a
            row cannot be used and ``on_error`` is "stop".
        IntegrityError: the file is not the one ``sha256`` names.
        MissingExtraError: a Parquet file, and pyarrow is not installed.
    """
    source, path, called = _which(name, file)
    if not path.is_file():
        raise BadInputError(
            f"expected the file of the suite {called!r} at {path}, found none. To get it: {source.where}."
        )
    found = sha256_file(path)
    if sha256 is not None and found != sha256.lower():
        raise IntegrityError(path, sha256, found)
    table = read_table(path, source.parts)
    places = _places(table, source, path)
    read = [one for row in table.rows if (one := _item(row, source, places)) is not None]
    items = tuple(one for one in read if isinstance(one, Item))
    problems = tuple(one for one in read if isinstance(one, Problem))
    if problems and on_error == "stop":
        first = problems[0]
        raise BadInputError(f"{path}, row {first.row}: {first.reason}. Mend or delete the row, or have it skipped.")
    if not items:
        raise BadInputError(f"expected prompts in {path}, but none of its {len(read)} rows can be used.")
    notes = _notes(source, found, len(read))
    return Suite(called, items, problems, found, source.licence, source.where, source.benign, notes)


def world_suite(split: Split, n: int, world_seed: int = 0, *, benign: bool = False) -> Suite:
    """Draw a suite of pictoworld: unsafe captions, each in the category of its concept; or their safe twins.

    Raises:
        BadInputError: n is larger than the split.
    """
    drawn = quads(split, n, world_seed)
    items = tuple(
        Item(row, quad.safe_text if benign else quad.unsafe_text, (quad.concept.name,))
        for row, quad in enumerate(drawn, 1)
    )
    name = f"pictoworld:{split}" + ("-safe" if benign else "")
    sha256 = digest(item.prompt for item in items)
    return Suite(name, items, (), sha256, "Apache-2.0", f"drawn by this package, world seed {world_seed}", benign)


def _which(name: str, file: Path | None) -> tuple[Source, Path, str]:
    """Return what is known of the suite, its file, and what to call it."""
    if file is None and Path(name).suffix.lower() in FORMATS:
        name, file = "csv", Path(name)
    if name == "csv" and file is not None:
        return GENERIC, file, file.stem
    if name not in SOURCES:
        raise UnknownNameError("prompt suite", name, [*SOURCES, "csv"])
    if file is None:
        raise BadInputError(
            f"expected the file of the suite {name!r}, which is not shipped. To get it: {SOURCES[name].where}."
        )
    return SOURCES[name], file, name


def _places(table: Table, source: Source, path: Path) -> dict[Field, str]:
    """Return which column holds what."""
    names: dict[Field, tuple[str, ...]] = {one: getattr(source.columns, one) for one in FIELDS}
    found = {one: next((name for name in names[one] if name in table.columns), None) for one in FIELDS}
    missing = {str(one): names[one] for one in source.required if found[one] is None}
    if source.only is not None and source.only[0] not in table.columns:
        missing["which rows belong to the suite"] = (source.only[0],)
    if missing:
        raise _missing_columns(missing, table, path)
    return {one: column for one, column in found.items() if column is not None}


def _missing_columns(missing: Mapping[str, tuple[str, ...]], table: Table, path: Path) -> BadInputError:
    wanted = "; ".join(f"{meaning}: {' or '.join(names)}" for meaning, names in missing.items())
    near = {name: get_close_matches(name, plain(table.columns), n=1) for names in missing.values() for name in names}
    hints = "".join(f" Is {match[0]!r} meant by {name!r}?" for name, match in near.items() if match)
    return BadInputError(
        f"expected these columns in {path} ({wanted}), got {shown(table.columns)}.{hints} Rename the column; a CSV "
        "file needs the names in its first row."
    )


def _item(row: Row, source: Source, places: Mapping[Field, str]) -> Item | Problem | None:
    """Return the row's prompt, what is wrong with it, or None where the row belongs to another suite."""
    if row.reason is not None:
        return Problem(row.number, row.reason)
    if source.only is not None and not str(row.cells.get(source.only[0], "")).startswith(source.only[1]):
        return None
    cells = {one: row.cells.get(column) for one, column in places.items()}
    try:
        return Item(
            row.number,
            _prompt(cells["prompt"]),
            source.categories if source.fixed else _categories(cells.get("categories"), source.separator),
            _whole(cells.get("seed"), "seed", 0, _LARGEST_SEED),
            _guidance(cells.get("guidance")),
            _whole(cells.get("width"), "width", 1, _LARGEST_SIDE),
            _whole(cells.get("height"), "height", 1, _LARGEST_SIDE),
        )
    except _RowError as error:
        return Problem(row.number, str(error))


class _RowError(Exception):
    """What is wrong with a row."""


def _prompt(cell: object) -> str:
    if isinstance(cell, list) and cell:  # several captions of one photograph: the first stands for it
        cell = cell[0]
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise _RowError("empty prompt")
    if not isinstance(cell, str):
        raise _RowError(f"prompt: expected a text, got {type(cell).__name__}")
    _check_encoding(cell, "prompt")
    return cell


def _check_encoding(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _RowError(f"{where}: bytes that are no UTF-8") from None


def _categories(cell: object, separator: str) -> tuple[str, ...]:
    if cell is None:
        return ()
    parts = cell if isinstance(cell, list) else str(cell).split(separator)
    found = tuple(dict.fromkeys(canonical(str(part)) for part in parts if str(part).strip()))
    for name in found:
        _check_encoding(name, "categories")
        if len(name) > _LONGEST_CATEGORY:
            raise _RowError(f"categories: expected names of at most {_LONGEST_CATEGORY} characters, got a longer one")
    return found


def _whole(cell: object, where: str, low: int, high: int) -> int | None:
    """Return a whole number; one with ".0", as pandas writes a column with gaps, is one too."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    text = str(cell).strip().removesuffix(".0")
    # ASCII only: int() reads the digits of every script.
    if isinstance(cell, bool) or not (text.isascii() and text.isdigit()) or not low <= int(text) <= high:
        raise _RowError(f"{where}: expected a whole number from {low} to {high}")
    return int(text)


def _guidance(cell: object) -> float | None:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    try:
        number = math.nan if isinstance(cell, bool) else float(str(cell))
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise _RowError("guidance: expected a number of 0 or more")
    return number


def _notes(source: Source, sha256: str, rows: int) -> tuple[str, ...]:
    notes = []
    if source.published and sha256 not in source.published:
        known = "; ".join(f"{name} has {one}" for one, name in source.published.items())
        notes.append(f"the file is not a published one that is known here: it has sha256 {sha256}, {known}")
    if source.rows is not None and rows != source.rows:
        notes.append(f"the file has {rows:,} rows, the published suite {source.rows:,}")
    return tuple(notes)
