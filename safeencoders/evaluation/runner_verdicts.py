"""The work folder of a run: its plan, and the verdicts, which survive a kill at any moment.

    plan.json             what is drawn and judged, and how; another plan in the same folder is refused
    verdicts-RANK.jsonl   one process's records, one picture a line, synced to the disk block by block
    verdicts.jsonl        all of them in the table's order, once the run is complete

What a kill left half-written is dropped and done again: a system's part of a block counts when all of it is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safeencoders.errors import BadInputError, OutputError
from safeencoders.evaluation.sharding import Block, Key
from safeencoders.evaluation.systems import System
from safeencoders.files import read_json, write_atomically, write_json

PLAN, COMPLETE = "plan.json", "verdicts.jsonl"
Record = dict[str, Any]
Part = tuple[int, str]  # a block's number and a system's name


class Folder:
    """The work folder of a run."""

    def __init__(self, path: Path, work: Sequence[Block], systems: Sequence[System]) -> None:
        """Name the folder and what is to lie in it; nothing is touched."""
        self.path, self.work, self.systems = path, tuple(work), tuple(systems)
        self._block_of = {job.key: block.number for block in work for job in block.jobs}

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Write the plan, or compare it with what is there; drop what a kill left half-written.

        One process does this, before any other opens the folder.

        Raises:
            BadInputError: the folder holds a run of another plan, or other files.
            OutputError: it cannot be written.
        """
        file = self.path / PLAN
        if file.exists():
            _compare(read_json(file), json.loads(json.dumps(plan)), self.path)
        else:
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise OutputError(
                    f"expected a new folder, or one of an interrupted run, got {self.path}; choose another --out"
                )
            write_json(file, plan)
        for path in self._files():
            _repair(path, self._complete(path))

    def done(self) -> set[Part]:
        """Return what is complete, whichever process did it."""
        return {part for path in self._files() for part in self._complete(path)}

    def append(self, rank: int, records: Iterable[Record]) -> None:
        """Add a system's part of a block, and have it on the disk before returning."""
        lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode()
        with open(self.path / f"verdicts-{rank}.jsonl", "ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> list[Record]:
        """Return all records in the table's order (system, group, row, picture), and write them to one file.

        Raises:
            OutputError: the file cannot be written.
        """
        found = {
            (record["system"], *_key(record)): record
            for path in self._files()
            for part in self._complete(path).values()
            for record in part
        }
        keys = [key for group in ("unsafe", "benign") for key in sorted(self._block_of) if key[0] == group]
        records = [found[(system.name, *key)] for system in self.systems for key in keys]
        lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        write_atomically(self.path / COMPLETE, lines)
        return records

    def _files(self) -> list[Path]:
        return sorted(self.path.glob("verdicts-*.jsonl"))

    def _complete(self, path: Path) -> dict[Part, list[Record]]:
        """Return the records of a file by what they are part of, where all of it is there."""
        parts: dict[Part, list[Record]] = {}
        for record in _read(path):
            parts.setdefault((self._block_of[_key(record)], record["system"]), []).append(record)
        return {part: records for part, records in parts.items() if len(records) == len(self.work[part[0]].jobs)}


def _key(record: Record) -> Key:
    return (record["group"], record["row"], record["image"])


def _read(path: Path) -> Iterator[Record]:
    """Read records up to the first line that is none: only the last can be torn."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                return
            if not line.endswith("\n"):
                return
            yield record


def _repair(path: Path, complete: Mapping[Part, Sequence[Record]]) -> None:
    lines = "".join(json.dumps(record) + "\n" for records in complete.values() for record in records)
    if path.read_bytes() != lines.encode():
        write_atomically(path, lines)


def _compare(found: Mapping[str, Any], plan: Mapping[str, Any], path: Path) -> None:
    other = [name for name in dict.fromkeys([*found, *plan]) if found.get(name) != plan.get(name)]
    if other:
        raise BadInputError(
            f"expected the run that {path} was begun for, got one that differs in {', '.join(other)}; choose another "
            "--out, or give the same options as before"
        )
