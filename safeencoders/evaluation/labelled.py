"""Pictures with known labels: a table of paths and labels, and what judges say of them.

The table is a CSV file with the columns ``path`` (from the table's folder) and ``unsafe`` (1 or 0, true or false, yes
or no, unsafe or safe). A row counts once its picture was judged: one that cannot be read, or was there before, is left
out, told by its number, and in no rate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safeencoders.errors import BadInputError
from safeencoders.evaluation.calibration import Calibration
from safeencoders.evaluation.presets import Panel
from safeencoders.evaluation.scanning_sources import Files, Taken
from safeencoders.evaluation.scanning_verdicts import UNSAFE, judged
from safeencoders.evaluation.suite_files import Row, read_table, shown
from safeencoders.evaluation.suites import Problem

COLUMNS = ("path", "unsafe")
_LABELS = dict.fromkeys(("1", "true", "yes", "unsafe"), True) | dict.fromkeys(("0", "false", "no", "safe"), False)


@dataclass(frozen=True)
class Labelled:
    """What a table of labels names.

    Attributes:
        file: the table.
        rows: number of the row in the table (from 1, without its head), path and label (True: unsafe) of each picture.
        problems: the rows that cannot be used.
    """

    file: Path
    rows: tuple[tuple[int, str, bool], ...]
    problems: tuple[Problem, ...]

    def taken(self) -> Iterator[Taken]:
        """Read the pictures one by one."""
        return Files([(path, -1, 0) for _, path, _ in self.rows]).read(self.file.parent)


@dataclass(frozen=True)
class Found:
    """What judges said of labelled pictures.

    Attributes:
        calibration: of the pictures that could be judged.
        problems: the rows that do not count, in their order.
        sha256: of the pictures that count: of their hashes, in the order of the rows.
    """

    calibration: Calibration
    problems: tuple[Problem, ...]
    sha256: str


def read_labelled(file: Path) -> Labelled:
    """Read a table of labels; no picture is opened.

    Raises:
        BadInputError: there is no such CSV file, a column is missing, or no row is of one of the labels.
    """
    if not file.is_file() or file.suffix.lower() != ".csv":
        there = f"{file.suffix or 'no'} file" if file.is_file() else "no file"
        raise BadInputError(f"expected a CSV file with the columns {' and '.join(COLUMNS)} at {file}, found {there}")
    table = read_table(file)
    if not set(COLUMNS) <= set(table.columns):
        raise BadInputError(
            f"expected the columns {' and '.join(COLUMNS)} in {file}, got {shown(table.columns)}; rename them: the "
            "first row of the file is their names"
        )
    read = [_labelled(row) for row in table.rows]
    rows = tuple(one for one in read if not isinstance(one, Problem))
    problems = tuple(one for one in read if isinstance(one, Problem))
    _check_both(file, [unsafe for *_, unsafe in rows], problems)
    return Labelled(file, rows, problems)


def calibrate(
    labelled: Labelled,
    panel: Panel,
    *,
    on_error: Literal["skip", "stop"] = "skip",
    progress: Callable[[int], object] = lambda _: None,
) -> Found:
    """Judge the pictures of a table of labels.

    Args:
        labelled: the table.
        panel: the judges.
        on_error: leave rows that cannot be used out, or stop at the first.
        progress: is called after each picture, with 1.

    Raises:
        BadInputError: a row cannot be used and ``on_error`` is "stop", or no picture of one of the labels could be
            judged.
    """
    problems = list(labelled.problems)
    verdicts: list[bool] = []
    labels: list[bool] = []
    seen: dict[str, tuple[int, bool]] = {}
    _stop_at(problems, labelled.file, on_error)
    for (number, _, unsafe), row in zip(labelled.rows, judged(labelled.taken(), panel), strict=True):
        progress(1)
        reason = row["error"] or _again(seen.get(row["sha256"]), unsafe=unsafe)
        if reason:
            problems.append(Problem(number, reason))
            _stop_at(problems, labelled.file, on_error)
            continue
        seen[row["sha256"]] = (number, unsafe)
        verdicts.append(row["decision"] == UNSAFE)
        labels.append(unsafe)
    ordered = tuple(sorted(problems, key=lambda problem: problem.row))
    _check_both(labelled.file, labels, ordered)
    return Found(Calibration.of(verdicts, labels), ordered, hashlib.sha256("".join(seen).encode()).hexdigest())


def _labelled(row: Row) -> tuple[int, str, bool] | Problem:
    if row.reason is not None:
        return Problem(row.number, row.reason)
    path, label = (str(row.cells[name]) for name in COLUMNS)
    if not path.strip() or "\0" in path:
        return Problem(row.number, "no path")
    unsafe = _LABELS.get(label.strip().lower())
    if unsafe is None:
        return Problem(row.number, "unsafe: expected 1 or 0, true or false, yes or no, unsafe or safe")
    return row.number, path, unsafe


def _again(before: tuple[int, bool] | None, *, unsafe: bool) -> str | None:
    """Return what is wrong with a picture that was there before: a second time it says nothing new."""
    if before is None:
        return None
    number, other = before
    return f"the same picture as in row {number}{', with another label' * (other != unsafe)}"


def _stop_at(problems: list[Problem], file: Path, on_error: Literal["skip", "stop"]) -> None:
    if problems and on_error == "stop":
        last = problems[-1]
        raise BadInputError(f"{file}, row {last.row}: {last.reason}. Mend or delete the row, or leave out --on-error "
                            "stop")  # fmt: skip


def _check_both(file: Path, labels: list[bool], problems: tuple[Problem, ...]) -> None:
    """Refuse labels of one kind only: half of what a calibration is would be unknown."""
    unsafe = sum(labels)
    if 0 < unsafe < len(labels):
        return
    got = f"{unsafe} unsafe and {len(labels) - unsafe} safe ones"
    if problems:
        got += f" and {len(problems)} rows that cannot be used, such as row {problems[0].row} ({problems[0].reason})"
    raise BadInputError(f"expected unsafe and safe pictures in {file}, got {got}; add pictures of the other kind")
