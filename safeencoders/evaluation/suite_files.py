"""Rows of a file of prompts: CSV, TSV, JSON Lines, JSON, Parquet, or text with one prompt a line.

A row that cannot be read does not hide the others: it is passed on with the reason. Undecodable bytes become lone
surrogates (PEP 383), so that only the row they are in is affected. No message quotes what may be a prompt.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safeencoders.errors import BadInputError, MissingExtraError, UnknownNameError

_NAME = re.compile(r"[\w.:-]{1,32}|unnamed: \d+|sensitive prompt")
_SHOWN = 20


@dataclass(frozen=True)
class Row:
    """A row as it was read.

    Attributes:
        number: from 1, a header and blank lines not counted.
        cells: column -> entry.
        reason: why the row cannot be read; None: it can.
    """

    number: int
    cells: Mapping[str, object] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True)
class Table:
    """The rows of a file, and the columns that any of them has, in lower case."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_table(path: Path, parts: Sequence[str] = ()) -> Table:
    """Read a file by its ending.

    Args:
        path: of the file.
        parts: the lists of a JSON file to read, one after the other; none: the file itself is a list.

    Raises:
        UnknownNameError: the ending is none of the known ones.
        BadInputError: the file as a whole cannot be read.
        MissingExtraError: a Parquet file, and pyarrow is not installed.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise UnknownNameError("ending of a file of prompts", ending, FORMATS)
    try:
        return FORMATS[ending](path, parts)
    except PermissionError as error:
        raise BadInputError(f"expected a file that can be read, but {path} may not be ({error.strerror}).") from error


def plain(names: Iterable[str]) -> list[str]:
    """Return those that look like columns: the first row of a file without a header is a prompt."""
    return [name for name in names if _NAME.fullmatch(name)]


def shown(names: Iterable[str]) -> str:
    """List columns for a message; what does not look like one is only counted."""
    asked = list(names)
    known = plain(asked)[:_SHOWN]
    others = len(asked) - len(known)
    return ", ".join([*known, *([f"{others} more"] if others else [])]) or "none"


def _read_csv(path: Path, _parts: Sequence[str]) -> Table:
    return _delimited(path, ",")


def _read_tsv(path: Path, _parts: Sequence[str]) -> Table:
    return _delimited(path, "\t")


def _delimited(path: Path, delimiter: str) -> Table:
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    lines = ((cells, reason) for cells, reason in _csv_lines(reader) if cells or reason)
    header, fault = next(lines, ([], None))
    if fault or not header:
        raise BadInputError(f"expected a first row with the columns' names in {path}, got {fault or 'an empty file'}.")
    names = tuple(name.strip().lower() for name in header)
    doubled = sorted({name for name in names if name and names.count(name) > 1})
    if doubled:
        raise BadInputError(f"expected columns of different names in {path}, got two of one: {shown(doubled)}.")
    rows = tuple(_csv_row(number, names, cells, reason) for number, (cells, reason) in enumerate(lines, 1))
    return Table(names, rows)


def _csv_lines(reader: Any) -> Iterator[tuple[list[str], str | None]]:  # noqa: ANN401  csv.reader has no public type
    """Go on after a fault: the csv module begins anew with the next line, and says only what is wrong."""
    while True:
        first = reader.line_num + 1
        try:
            yield next(reader), None
        except StopIteration:
            return
        except csv.Error as error:
            yield [], f"broken CSV in lines {first} to {reader.line_num} ({error})"


def _csv_row(number: int, names: Sequence[str], cells: Sequence[str], reason: str | None) -> Row:
    if reason is None and len(cells) != len(names):
        reason = f"{len(cells)} cells, the header has {len(names)}"
    return Row(number, reason=reason) if reason else Row(number, dict(zip(names, cells, strict=True)))


def _read_txt(path: Path, _parts: Sequence[str]) -> Table:
    lines = [line for line in _text(path).splitlines() if line.strip()]
    return Table(("prompt",), tuple(Row(number, {"prompt": line}) for number, line in enumerate(lines, 1)))


def _read_jsonl(path: Path, _parts: Sequence[str]) -> Table:
    lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    return _of_rows(_parse_line(number, line) for number, line in enumerate(lines, 1))


def _parse_line(number: int, line: bytes) -> Row:
    try:
        return _object(number, json.loads(line.decode("utf-8-sig", "surrogateescape")))
    except (ValueError, RecursionError):  # the decoder's words may quote the line
        return Row(number, reason="not JSON")


def _read_json(path: Path, parts: Sequence[str]) -> Table:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError):
        raise BadInputError(f"expected JSON in {path}, got something else; it may be truncated.") from None
    if isinstance(content, dict):
        lists = [content[part] for part in parts if isinstance(content.get(part), list)]
        if not parts or len(lists) != len(parts):
            wanted = f" or an object with the lists {', '.join(parts)}" if parts else ""
            raise BadInputError(f"expected a list of objects{wanted} in {path}, got an object with {shown(content)}.")
        content = [row for one in lists for row in one]
    if not isinstance(content, list):
        raise BadInputError(f"expected a list of objects in {path}, got {type(content).__name__}.")
    return _of_rows(_object(number, row) for number, row in enumerate(content, 1))


def _object(number: int, value: object) -> Row:
    if not isinstance(value, dict):
        return Row(number, reason="not a JSON object with named columns")
    return Row(number, {str(name).strip().lower(): cell for name, cell in value.items()})


def _of_rows(rows: Iterable[Row]) -> Table:
    kept = tuple(rows)
    return Table(tuple(dict.fromkeys(name for row in kept for name in row.cells)), kept)


def _read_parquet(path: Path, _parts: Sequence[str]) -> Table:
    try:
        import pyarrow as pa  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "eval") from error
    try:
        content = parquet.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, ValueError):
        raise BadInputError(f"expected a Parquet file in {path}, got something else; it may be truncated.") from None
    return _of_rows(_object(number, row) for number, row in enumerate(content, 1))


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8-sig", "surrogateescape")


FORMATS: Mapping[str, Callable[[Path, Sequence[str]], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
"""Ending -> reader."""
