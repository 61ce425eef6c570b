"""Tables: what a file or a data set holds, by column, before anything is made of it.

JSON is read by the standard library, for exact line numbers and no guessing of types; CSV and Parquet by pyarrow.
Messages name files, lines and columns; what a library says is passed on only where it cannot quote a row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeencoders.errors import BadInputError, MissingExtraError
from safeencoders.registry import Registry

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

_HERE = "safeencoders.training.readers.tables"
FORMATS: Registry[Callable[[Path, Collection[str]], Table]] = Registry(
    "ending of a data file",
    {
        ".jsonl": f"{_HERE}:read_jsonl",
        ".ndjson": f"{_HERE}:read_jsonl",
        ".json": f"{_HERE}:read_json",
        ".csv": f"{_HERE}:read_csv",
        ".parquet": f"{_HERE}:read_parquet",
    },
)
_NAME = re.compile(r"[A-Za-z_][\w-]{0,31}")
_SHOWN = 20


@dataclass(frozen=True)
class Table:
    """Columns of one length.

    Attributes:
        source: the file or data set.
        names: every column there is.
        columns: the entries of those that were wanted.
    """

    source: str
    names: tuple[str, ...]
    columns: Mapping[str, Sequence[object]]

    def shown(self, names: Collection[str] | None = None) -> str:
        """List names for a message; what does not look like a name may be a text, and is only counted."""
        asked = self.names if names is None else names
        plain = [name for name in asked if _NAME.fullmatch(name)][:_SHOWN]
        others = len(asked) - len(plain)
        return ", ".join([*plain, *([f"{others} more"] if others else [])]) or "none"


def read_jsonl(path: Path, wanted: Collection[str]) -> Table:
    """Read JSON Lines: one object a line, empty lines skipped.

    Raises:
        BadInputError: a line is not a JSON object in UTF-8.
    """
    rows = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                rows.append(_object(_parse(line, f"line {number} of {path}"), f"line {number} of {path}"))
    return _by_column(rows, str(path), wanted)


def read_json(path: Path, wanted: Collection[str]) -> Table:
    """Read a JSON file that holds a list of objects, as ViSU's do.

    Raises:
        BadInputError: it does not.
    """
    content = _parse(path.read_bytes(), str(path))
    if not isinstance(content, list):
        raise BadInputError(
            f"expected a JSON list of objects in {path}, got {type(content).__name__}; "
            "one object a line goes into a file that ends in .jsonl."
        )
    rows = [_object(row, f"row {number} of {path}") for number, row in enumerate(content, 1)]
    return _by_column(rows, str(path), wanted)


def read_csv(path: Path, wanted: Collection[str]) -> Table:
    """Read a CSV file with a header, in UTF-8; fields may be quoted and span lines.

    Raises:
        BadInputError: rows with another number of fields, a broken encoding, two columns of one name.
        MissingExtraError: pyarrow is not installed.
    """
    arrow, csv = _arrow("pyarrow"), _arrow("pyarrow.csv")
    _check_utf8(path)
    bad: list[int] = []

    def note(row: Any) -> str:  # noqa: ANN401  pyarrow's InvalidRow
        bad.append(row.number)
        return "skip"

    options = {
        "read_options": csv.ReadOptions(use_threads=False, block_size=1 << 24),
        "parse_options": csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
    }
    try:
        with csv.open_csv(path, **options) as opened:
            names = opened.schema.names
        bad.clear()
        # Every column is text: a guessed type would fail on a later row, and quote it.
        texts = csv.ConvertOptions(column_types=dict.fromkeys(names, arrow.string()), strings_can_be_null=False)
        table = csv.read_csv(path, convert_options=texts, **options)
    except (arrow.ArrowException, OSError, ValueError) as error:
        if bad:
            raise _ragged(path, bad) from None
        raise BadInputError(f"expected a CSV file with a header in {path}: {_first_line(error)}.") from None
    if bad:
        raise _ragged(path, bad)
    return from_arrow(table, str(path), wanted)


def read_parquet(path: Path, wanted: Collection[str]) -> Table:
    """Read a Parquet file.

    Raises:
        BadInputError: it is none, or a wanted column holds neither texts nor whole numbers.
        MissingExtraError: pyarrow is not installed.
    """
    arrow, parquet = _arrow("pyarrow"), _arrow("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            table = file.read(columns=[name for name in names if name in wanted])
    except (arrow.ArrowException, OSError, ValueError, MemoryError) as error:
        raise BadInputError(
            f"expected a Parquet file in {path}: {_first_line(error)}; it may be truncated: make it again."
        ) from error
    return from_arrow(table, str(path), wanted, names)


def from_arrow(table: pa.Table, source: str, wanted: Collection[str], names: Sequence[str] | None = None) -> Table:
    """Take the wanted columns out of an Arrow table; ``names`` are all there were, where it holds a selection.

    Raises:
        BadInputError: a wanted column holds neither texts nor whole numbers, or there are two of one name.
    """
    found = tuple(table.column_names if names is None else names)
    _refuse_doubles(found, source)
    columns = {name: _values(table.column(name), name, source) for name in found if name in wanted}
    return Table(source, found, columns)


def _arrow(module: str) -> Any:  # noqa: ANN401  a module without types
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError("pyarrow", "train") from error


def _check_utf8(path: Path) -> None:
    """Refuse what pyarrow would complain about on stderr, and name the line."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                raise BadInputError(f"expected UTF-8 in line {number} of {path}; save the file as UTF-8.") from None


def _values(column: pa.ChunkedArray, name: str, source: str) -> list[object]:
    kinds = _arrow("pyarrow").types
    kind = column.type.value_type if kinds.is_dictionary(column.type) else column.type
    texts = (kinds.is_string, kinds.is_large_string, kinds.is_string_view, kinds.is_integer, kinds.is_null)
    if not any(test(kind) for test in texts):
        raise BadInputError(
            f"expected texts in the column {name} of {source}, got {str(kind)[:60]}; "
            "pictures go into a folder, and their paths into the column."
        )
    try:
        values: list[object] = column.to_pylist()
    except ValueError:
        raise BadInputError(f"expected UTF-8 in the column {name} of {source}; write the file again.") from None
    return values


def _refuse_doubles(names: Sequence[str], source: str) -> None:
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise BadInputError(
            f"expected columns of different names in {source}, got two of one: "
            f"{Table(source, tuple(doubles), {}).shown()}; rename one of them."
        )


def _ragged(path: Path, rows: Sequence[int]) -> BadInputError:
    listed = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
    return BadInputError(
        f"expected as many fields in every row of {path} as in its header, but {len(rows)} have more or fewer "
        f'(rows {listed}, the header is row 1); put texts with commas in "quotes".'
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def _parse(data: bytes, where: str) -> object:
    """Parse JSON; the decoder's own words name a place and at most one character."""
    try:
        content: object = json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise BadInputError(f"expected plain rows in {where}, got JSON nested too deeply.") from None
    except ValueError as error:
        raise BadInputError(
            f"expected JSON in UTF-8 in {where}, got something else ({_first_line(error)}); "
            "it may be truncated: make it again."
        ) from None
    return content


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise BadInputError(f"expected a JSON object with named columns in {where}, got {type(value).__name__}.")
    return value


def _by_column(rows: Sequence[Mapping[str, object]], source: str, wanted: Collection[str]) -> Table:
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    return Table(source, names, {name: [row.get(name) for row in rows] for name in names if name in wanted})
