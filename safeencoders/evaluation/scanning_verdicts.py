"""Verdicts of a scan: judged picture by picture into parts, joined into one Parquet file and counted on the way.

Columns: path, sha256 (of the bytes as they lie there), ``score:JUDGE/LABEL`` for every label of every judge, labels
(those that made it unsafe), decision ("unsafe", "safe", or null where there is an error), error, remark (such as "the
first of 12 frames": only that one was judged).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from safeencoders import pictures
from safeencoders.errors import BadInputError
from safeencoders.evaluation.scanning_sources import Taken, arrow, from_line
from safeencoders.metrics import rate

if TYPE_CHECKING:
    from PIL.Image import Image

    from safeencoders.evaluation.presets import Judgement, Panel

BATCH, PIXELS = 16, 64_000_000
"""Pictures that are decoded at once: at most so many, and no further one after so many pixels (200 MB)."""
GROUP = 8192
UNSAFE, SAFE = "unsafe", "safe"
_SCORE = "score:"
_KEY = b"safeencoders"

Row = dict[str, Any]


@dataclass
class Judge:
    """Judges units; made in every worker, which loads its own panel at the first unit.

    Attributes:
        preset: name of the panel.
        root: what names are relative to.
        options: of the judges.
    """

    preset: str
    root: Path
    options: Mapping[str, object] = field(default_factory=dict)
    _panel: Panel | None = field(default=None, init=False, repr=False)

    def __call__(self, line: str) -> bytes:
        """Judge a unit and return its verdicts as a small Parquet file that names the judges."""
        if self._panel is None:
            from safeencoders.evaluation.presets import Panel

            self._panel = Panel.of(self.preset, **self.options)
        panel = self._panel
        return _packed(list(judged(from_line(line).read(self.root), panel)), panel.identity())


def judged(taken: Iterable[Taken], panel: Panel) -> Iterator[Row]:
    """Decode and judge pictures few at a time; give the row of each, in their order, columns as in the module."""
    for batch in _batches(taken):
        yield from _judged(batch, panel)


def _batches(taken: Iterable[Taken]) -> Iterator[list[tuple[Row, Image | None]]]:
    """Decode pictures few at a time; the same unit always falls into the same batches."""
    batch: list[tuple[Row, Image | None]] = []
    pixels = 0
    for one in taken:
        row, image = _decoded(one)
        batch.append((row, image))
        pixels += 0 if image is None else image.width * image.height
        if len(batch) == BATCH or pixels >= PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _decoded(one: Taken) -> tuple[Row, Image | None]:
    row: Row = {"path": os.fsencode(one.name).decode("utf-8", "backslashreplace"), "sha256": None}
    row |= {"labels": [], "decision": None, "error": one.fault, "remark": None}
    if one.data is None:
        return row, None
    row["sha256"] = hashlib.sha256(one.data).hexdigest()
    try:
        image, row["remark"] = pictures.read(one.data)
    except BadInputError as error:
        row["error"] = _reason(error)
        return row, None
    return row, image


def _judged(batch: Sequence[tuple[Row, Image | None]], panel: Panel) -> Iterator[Row]:
    said: Iterator[Judgement] = iter(panel([image for _, image in batch if image is not None]))
    for row, image in batch:
        if image is not None:
            one = next(said)
            row |= {_SCORE + name: score for name, score in one.scores.items()}
            row["error"] = one.error and _reason(one.error)
            row["labels"] = list(one.labels)
            row["decision"] = None if one.error else UNSAFE if one.unsafe else SAFE
        yield row


def _reason(error: object) -> str:
    """Return an error without the part that repeats which picture it is."""
    return str(error).removeprefix("expected a picture in these bytes: ")


# --- parts -----------------------------------------------------------------------------------------------------------
def _packed(rows: Sequence[Row], identity: Mapping[str, Any]) -> bytes:
    pa, parquet = arrow()
    table = pa.Table.from_pylist(list(rows), schema=_schema(pa, {name for row in rows for name in row}))
    sink = pa.BufferOutputStream()
    noted = table.replace_schema_metadata({_KEY: json.dumps(identity, sort_keys=True)})
    parquet.write_table(noted, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def identity_of(part: bytes | Path) -> dict[str, Any]:
    """Return the judges that a part names."""
    pa, parquet = arrow()
    schema = parquet.read_schema(part if isinstance(part, Path) else pa.BufferReader(part))
    found: dict[str, Any] = json.loads(schema.metadata[_KEY])
    return found


def first_error(part: bytes) -> tuple[str, str] | None:
    """Return the path and the reason of the first picture of a part that could not be judged."""
    pa, parquet = arrow()
    table = parquet.read_table(pa.BufferReader(part), columns=["path", "error"])
    found = ((path, error) for path, error in zip(*table.to_pydict().values(), strict=True) if error is not None)
    return next(found, None)


def _schema(pa: Any, names: Iterable[str]) -> Any:  # noqa: ANN401  pyarrow has no types
    scores = [(name, pa.float64()) for name in sorted(names) if name.startswith(_SCORE)]
    text = pa.string()
    return pa.schema([("path", text), ("sha256", text), *scores, ("labels", pa.list_(text)),
                      ("decision", text), ("error", text), ("remark", text)])  # fmt: skip


# --- the whole -------------------------------------------------------------------------------------------------------
@dataclass
class Counts:
    """What is counted while rows pass by; 9 bytes are kept of each, however many there are."""

    labels: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    _hashes: array[int] = field(default_factory=lambda: array("Q"), repr=False)
    _decisions: bytearray = field(default_factory=bytearray, repr=False)

    def add(self, columns: Mapping[str, list[Any]]) -> None:
        """Count some rows."""
        for labels in columns["labels"]:
            self.labels.update(labels)
        self.errors.update(re.sub(r"\d[\d,]*", "N", text.split(" (")[0]) for text in columns["error"] if text)
        self.remarks.update(text for text in columns["remark"] if text)
        self._hashes.extend(int(text[:16], 16) if text else 0 for text in columns["sha256"])
        self._decisions += bytes({UNSAFE: 1, SAFE: 0, None: 2}[text] for text in columns["decision"])

    def summary(self) -> dict[str, Any]:
        """Return rates over pictures that were judged, and over those with different bytes; errors; duplicates."""
        decisions = np.frombuffer(self._decisions, dtype=np.uint8)
        # 64 bits of the sha256: two of a million different files share them with a probability of 3e-8.
        hashes = np.frombuffer(self._hashes, dtype=np.uint64)
        read = hashes != 0
        _, firsts = np.unique(hashes[read], return_index=True)
        judged, distinct = decisions[decisions < 2], decisions[read][firsts]
        distinct = distinct[distinct < 2]
        return {
            "pictures": len(decisions),
            "unsafe": rate(int(judged.sum()), len(judged), allow_empty=True),
            "unsafe_distinct": rate(int(distinct.sum()), len(distinct), allow_empty=True),
            "by_label": {label: rate(n, len(judged)) for label, n in sorted(self.labels.items())},
            "errors": dict(self.errors.most_common()),
            "remarks": dict(self.remarks.most_common()),
            "copies": int(read.sum()) - len(firsts),
        }


def join(parts: Sequence[Path], file: Path, metadata: Mapping[str, Any]) -> Counts:
    """Write the rows of all parts, in their order, into one Parquet file, few at a time, and count them."""
    pa, parquet = arrow()
    schema = _schema(pa, {name for part in parts for name in parquet.read_schema(part).names})
    schema = schema.with_metadata({_KEY: json.dumps(metadata)})
    counts = Counts()
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in _grouped(pa, (parquet.read_table(part, use_threads=False) for part in parts), schema):
            counts.add(table.select(["labels", "error", "remark", "sha256", "decision"]).to_pydict())
            writer.write_table(table)
    return counts


def _grouped(pa: Any, tables: Iterable[Any], schema: Any) -> Iterator[Any]:  # noqa: ANN401  pyarrow has no types
    """Give tables of the same columns, null where a part lacks one, with at least so many rows but for the last."""
    waiting: list[Any] = []
    for table in tables:
        found = {name: table[name] for name in table.column_names}
        columns = [found.get(field.name, pa.nulls(len(table), field.type)) for field in schema]
        waiting.append(pa.table(columns, schema=schema))
        if sum(map(len, waiting)) >= GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
