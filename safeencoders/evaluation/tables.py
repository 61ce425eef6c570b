"""One table model, printed three ways: plain text for the terminal, Markdown, and HTML. All text is escaped."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Cell = str | int | float | None | Mapping[str, Any]
"""What a table cell may hold: text, a number, a rate, or None (nothing measured)."""


def is_rate(value: object) -> bool:
    """Whether `value` has the form ``{"value": …, "n": …, "interval": [low, high]}``."""
    return isinstance(value, Mapping) and {"value", "n", "interval"} <= value.keys()


def percent(rate: Mapping[str, Any], digits: int = 1) -> str:
    """A rate in percent with its interval: ``54.1 [51.5, 56.7]``; ``no cases`` for a null rate.

    Args:
        rate: ``{"value": 0..1 or None, "n": int, "interval": [low, high]}``.
        digits: Decimals.
    """
    if rate["value"] is None:
        return "no cases"
    low, high = (f"{100 * bound:.{digits}f}" for bound in rate["interval"])
    return f"{100 * rate['value']:.{digits}f} [{low}, {high}]"


def cell_text(cell: Cell) -> str:
    """A cell as one line of printable text: rates by `percent`, floats to 3 significant digits, None as ``-``."""
    if cell is None:
        return "-"
    if isinstance(cell, Mapping):
        if not is_rate(cell):
            raise TypeError(f"A cell may hold a rate (value, n, interval), got a mapping with keys {sorted(cell)}.")
        return percent(cell)
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return f"{cell:.3g}" if math.isfinite(cell) else str(cell)
    return one_line(str(cell))


def one_line(text: str) -> str:
    """Collapse white space and replace what cannot be printed (control and escape characters) by ``?``."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))


@dataclass(frozen=True)
class Table:
    """A titled table.

    Attributes:
        title: The caption; may be empty.
        columns: Heads, one per column; the first column holds the row names and is set left, the others right.
        rows: Cells, one per column in each row.
        note: What a reader must know to read the numbers; may be empty.

    Raises:
        ValueError: At construction, if there is no column or a row has another number of cells.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        """Check that every row fills every column."""
        if not self.columns:
            raise ValueError("A table needs at least one column.")
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"Row {number} has {len(row)} cells, expected {len(self.columns)}: {list(row)!r}.")

    def text(self) -> str:
        """Plain text with aligned columns, for a terminal; no line ends in a space."""
        lines = self._lines()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
        body = ["  ".join(_pad(line, widths)) for line in ruled]
        above = [one_line(self.title), ""] if self.title else []
        below = ["", one_line(self.note)] if self.note else []
        return "\n".join(line.rstrip() for line in [*above, *body, *below])

    def markdown(self) -> str:
        """A GitHub-flavoured Markdown table, the title in bold above, the note below."""
        lines = [[_markdown(cell) for cell in line] for line in self._lines()]
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        body = [f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]]]
        above = [f"**{_markdown(one_line(self.title))}**", ""] if self.title else []
        below = ["", _markdown(one_line(self.note))] if self.note else []
        return "\n".join([*above, *body, *below])

    def html(self) -> str:
        """A ``<figure class="table">`` with a real ``<table>``: column and row headers carry their scope."""
        head, *rows = [[html.escape(cell) for cell in line] for line in self._lines()]
        top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
        body = "".join(
            f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>\n' for row in rows
        )
        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        note = f"<figcaption>{html.escape(self.note)}</figcaption>" if self.note else ""
        table = f"<table>{caption}<thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table>"
        return f'<figure class="table"><div class="scroll" tabindex="0">{table}</div>{note}</figure>'

    def _lines(self) -> list[list[str]]:
        return [[one_line(name) for name in self.columns], *[[cell_text(cell) for cell in row] for row in self.rows]]


def flatten(results: Mapping[str, Any]) -> dict[str, Cell]:
    """The leaves of nested results by their path: ``{"T-V": {"R@1": rate}}`` gives ``{"T-V R@1": rate}``.

    Rates stay whole; numbers, strings and None are leaves too; lists are left out.
    """
    leaves: dict[str, Cell] = {}
    for name, value in results.items():
        if is_rate(value) or value is None or isinstance(value, str | int | float):
            leaves[name] = value
        elif isinstance(value, Mapping):
            leaves.update({f"{name} {inner}": leaf for inner, leaf in flatten(value).items()})
    return leaves


def results_table(
    title: str,
    systems: Mapping[str, Mapping[str, Any]],
    *,
    names: Mapping[str, str] | None = None,
    note: str = "",
) -> Table:
    """Systems side by side: one row per measured number, one column per system, and a column of case numbers.

    Args:
        title: The caption.
        systems: Name of the system (``"before"``, ``"after"``, ``"word filter"``) to its nested results.
        names: Path of a number (as in `flatten`) to the row's name, which also chooses and orders the rows;
            None: every number found, in the order of its first appearance, by its path.
        note: As in `Table`; the meaning of the brackets is added.

    Returns:
        The table; a number that a system lacks is shown as ``-``, a row whose n differs between systems as ``a/b``.

    Raises:
        ValueError: If a path in `names` is in no system's results.
    """
    flat = {system: flatten(results) for system, results in systems.items()}
    found = list(dict.fromkeys(path for leaves in flat.values() for path in leaves))
    chosen = {path: path for path in found} if names is None else dict(names)
    unknown = [path for path in chosen if path not in found]
    if unknown:
        raise ValueError(f"No system has a result named {unknown[0]!r}; found: {', '.join(found) or 'nothing'}.")
    rows = [
        [name, *(leaves.get(path) for leaves in flat.values()), _cases(path, flat)] for path, name in chosen.items()
    ]
    brackets = "Percent [95 % interval]; n: number of cases."
    return Table(title, ["", *flat, "n"], rows, f"{note} {brackets}".strip())


def _cases(path: str, flat: Mapping[str, Mapping[str, Cell]]) -> str | None:
    leaves = (results.get(path) for results in flat.values())
    counts = dict.fromkeys(str(leaf["n"]) for leaf in leaves if isinstance(leaf, Mapping))
    return "/".join(counts) or None


def _pad(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    aligned = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
    return [line[0].ljust(widths[0]), *aligned[1:]]


def _markdown(text: str) -> str:
    """Escape what Markdown would read as markup; brackets only where they could be a link, so intervals stay plain."""
    special = r"([\\|*`<>\[\]])" if re.search(r"\]\s*[(\[:]", text) else r"([\\|*`<>])"
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", re.sub(special, r"\\\1", text))
