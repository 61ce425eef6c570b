"""What a scan looks at: pictures in a folder, in Parquet files and in tar shards, cut into units of work.

A unit is a JSON line that any process can read, and that changes when its files do. Units follow each other in the
order of their names; inside a shard, in the order of the shard. A picture's name is its path below the folder, and for
one in a shard ``shard.tar#member`` or ``shard.parquet#row``.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

from safeencoders.errors import BadInputError, MissingExtraError
from safeencoders.pictures import SUFFIXES

UNIT = 128
"""Pictures of one unit: a few seconds of work, which is what a kill can cost."""
LARGEST = 2**30
"""A picture of more bytes than this is not read: no format needs them for the pixels that are taken."""
ROWS = 16


class Taken(NamedTuple):
    """A picture as it lies on the disk: its bytes, or why there are none."""

    name: str
    data: bytes | None
    fault: str | None = None


@dataclass(frozen=True)
class Files:
    """Picture files.

    Attributes:
        files: name, size in bytes and time of the last change in nanoseconds.
    """

    files: list[tuple[str, int, int]]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, root: Path) -> Iterator[Taken]:
        """Read them one by one."""
        for name, *_ in self.files:
            try:
                with (root / name).open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    yield _too_large(name, size) if size > LARGEST else Taken(name, file.read())
            except OSError as error:
                yield Taken(name, None, f"it cannot be read ({error.strerror})")


@dataclass(frozen=True)
class Members:
    """Pictures in a tar file.

    Attributes:
        shard: the file; with its size and time of the last change.
        members: name, place of the first byte, and size of each.
    """

    shard: tuple[str, int, int]
    members: list[tuple[str, int, int]]

    def __len__(self) -> int:
        return len(self.members)

    def read(self, root: Path) -> Iterator[Taken]:
        """Read them one by one."""
        with (root / self.shard[0]).open("rb") as file:
            for member, place, size in self.members:
                name = f"{self.shard[0]}#{member}"
                if size > LARGEST:
                    yield _too_large(name, size)
                    continue
                file.seek(place)
                data = file.read(size)
                yield Taken(name, data) if len(data) == size else Taken(name, None, "the shard ends before it does")


@dataclass(frozen=True)
class Rows:
    """A row group of a Parquet file.

    Attributes:
        shard: as of ``Members``.
        column: path of the column that holds the bytes.
        group: number of the row group.
        first: number of its first row in the file.
        rows: how many.
    """

    shard: tuple[str, int, int]
    column: str
    group: int
    first: int
    rows: int

    def __len__(self) -> int:
        return self.rows

    def read(self, root: Path) -> Iterator[Taken]:
        """Read them few by few; from where the file is damaged, every row is told of."""
        parquet, place = _parquet(), 0
        try:
            with parquet.ParquetFile(root / self.shard[0]) as file:
                options = {"row_groups": [self.group], "columns": [self.column], "use_threads": False}
                for batch in file.iter_batches(batch_size=ROWS, **options):
                    values = batch.column(0)
                    for value in values.field("bytes") if self.column.endswith(".bytes") else values:
                        data, name = value.as_py(), f"{self.shard[0]}#{self.first + place}"
                        place += 1
                        yield Taken(name, data, None if data is not None else "the row holds no bytes")
        except (OSError, ValueError) as error:  # pyarrow's own errors are children of these
            reason = f"the shard is damaged ({type(error).__name__})"
            yield from (Taken(f"{self.shard[0]}#{self.first + i}", None, reason) for i in range(place, self.rows))


@dataclass(frozen=True)
class Broken:
    """A shard, or the rest of one, that cannot be read: one row with the reason."""

    shard: tuple[str, int, int]
    reason: str

    def __len__(self) -> int:
        return 1

    def read(self, _root: Path) -> Iterator[Taken]:
        """Say why."""
        yield Taken(self.shard[0], None, self.reason)


Unit = Files | Members | Rows | Broken


def to_line(unit: Unit) -> str:
    """Return a unit as one line of JSON."""
    return json.dumps([type(unit).__name__, asdict(unit)])


def from_line(line: str) -> Unit:
    """Return the unit of a line."""
    kind, fields = json.loads(line)
    kinds: dict[str, type[Unit]] = {one.__name__: one for one in (Files, Members, Rows, Broken)}
    return kinds[kind](**fields)


@dataclass
class Plan:
    """Cuts what lies at a path into units; ``skipped`` counts what is no picture, and why, as far as it was walked.

    Attributes:
        path: a folder, or one file.
        without: a folder that is left out: where the verdicts go.
    """

    path: Path
    without: Path
    skipped: Counter[str] = field(default_factory=Counter)
    SHARDS: ClassVar[frozenset[str]] = frozenset({".parquet", ".tar"})

    @property
    def root(self) -> Path:
        """The folder that names are relative to."""
        return self.path if self.path.is_dir() else self.path.parent

    def units(self) -> Iterator[Unit]:
        """Walk the path in the order of names, holding no more than a folder's names and one unit.

        Raises:
            BadInputError: there is nothing at the path, or a Parquet file with several columns of bytes.
        """
        waiting: list[tuple[str, int, int]] = []
        for name in self._names():
            suffix = PurePosixPath(name).suffix.lower()
            if suffix in SUFFIXES:
                waiting.append(self._stamp(name))
            elif suffix not in self.SHARDS:
                self.skipped[suffix or "no ending"] += 1
            if waiting and (len(waiting) == UNIT or suffix in self.SHARDS):
                yield Files(waiting)
                waiting = []
            if suffix in self.SHARDS:
                yield from self._rows(name) if suffix == ".parquet" else self._members(name)
        if waiting:
            yield Files(waiting)

    def _names(self) -> Iterator[str]:
        if self.path.is_dir():
            yield from self._walk(self.path, "")
        elif self.path.is_file():
            yield self.path.name
        else:
            raise BadInputError(f"expected a folder of pictures, a Parquet file or a tar file, found nothing at "
                                f"{self.path}; check the path")  # fmt: skip

    def _walk(self, folder: Path, start: str) -> Iterator[str]:
        try:
            with os.scandir(folder) as found:
                # A folder's name with its slash sorts where the names below it do.
                entries = sorted((one.name + "/" * one.is_dir(follow_symlinks=False), one) for one in found)
        except OSError:
            self.skipped["folder that may not be read"] += 1
            return
        for name, entry in entries:
            if name.startswith("."):
                self.skipped["hidden"] += 1
            elif name.endswith("/"):
                if Path(entry.path).resolve() != self.without:
                    yield from self._walk(Path(entry.path), start + name)
            elif entry.is_file() or not Path(entry.path).exists():  # a dead link is a picture that cannot be read
                yield start + name
            else:
                self.skipped["link to a folder" if entry.is_dir() else "no file"] += 1

    def _stamp(self, name: str) -> tuple[str, int, int]:
        try:
            state = (self.root / name).stat()
        except OSError:
            return (name, -1, 0)
        return (name, state.st_size, state.st_mtime_ns)

    def _members(self, name: str) -> Iterator[Unit]:
        shard, members = self._stamp(name), []
        try:
            with tarfile.open(self.root / name, "r:") as archive:
                for member in archive:
                    vars(archive)["members"] = []  # else it keeps every member it has seen
                    suffix = PurePosixPath(member.name).suffix.lower()
                    if not member.isreg() or suffix not in SUFFIXES:
                        self.skipped[f"in tar: {suffix or 'no ending'}"] += member.isreg()
                        continue
                    members.append((member.name, member.offset_data, member.size))
                    if len(members) == UNIT:
                        yield Members(shard, members)
                        members = []
        except (tarfile.TarError, OSError) as error:
            members, rest = [], members
            if rest:
                yield Members(shard, rest)
            yield Broken(shard, f"the shard is damaged, or no plain tar file ({type(error).__name__}: {error})")
        if members:
            yield Members(shard, members)

    def _rows(self, name: str) -> Iterator[Unit]:
        shard, first = self._stamp(name), 0
        try:
            with _parquet().ParquetFile(self.root / name) as file:
                column = _column(name, file.schema_arrow)
                sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        except BadInputError:
            raise
        except (OSError, ValueError) as error:  # pyarrow's own errors are children of these
            yield Broken(shard, f"the shard is damaged ({type(error).__name__}: {error})")
            return
        if column is None:
            self.skipped["Parquet without pictures"] += 1
            return
        for group, rows in enumerate(sizes):
            yield Rows(shard, column, group, first, rows)
            first += rows


def _column(name: str, schema: Any) -> str | None:  # noqa: ANN401  a pyarrow schema
    """Return the path of the column of bytes: binary, or a struct with a field "bytes" as Hugging Face writes it."""
    types, found = arrow()[0].types, {}
    for column in schema:
        if types.is_binary(column.type) or types.is_large_binary(column.type):
            found[column.name] = column.name
        elif types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
            found[column.name] = f"{column.name}.bytes"
    if len(found) > 1 and "image" not in found:
        raise BadInputError(f"expected one column of pictures in {name}, or one that is named image, found "
                            f"{', '.join(found)}; keep one of them")  # fmt: skip
    return found["image"] if "image" in found else next(iter(found.values()), None)


def _parquet() -> Any:  # noqa: ANN401  a module without types
    return arrow()[1]


def arrow() -> tuple[Any, Any]:
    """Return the modules pyarrow and pyarrow.parquet."""
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError("pyarrow", "eval") from error


def _too_large(name: str, size: int) -> Taken:
    return Taken(name, None, f"it has {size:,} bytes, more than {LARGEST:,}")
