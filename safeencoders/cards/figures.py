"""Two small plots as SVG text, the same bytes on every machine.

What ``cards --check`` compares must not depend on a plotting library's version or on installed fonts.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; shapes differ too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Rate = Mapping[str, Any]

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#E69F00")
_LEFT, _WIDTH, _ROW, _TOP = 190, 400, 30, 60
_STYLE = "font-family='sans-serif' font-size='12' fill='#222'"


def dots(title: str, rows: Mapping[str, Mapping[str, Rate]]) -> str:
    """Draw rates in percent as points with their intervals: a row for each name, a colour for each system.

    Args:
        title: stands above, and is what a screen reader says.
        rows: name of the row -> system -> rate; at most four systems.

    Returns:
        A whole SVG file.
    """
    systems = list(dict.fromkeys(system for row in rows.values() for system in row))
    height = _TOP + _ROW * len(rows) + 34
    parts = _frame(title, _LEFT + _WIDTH + 30, height)
    parts += _legend(systems)
    parts += _percent_axis(_TOP - 8, _TOP + _ROW * len(rows))
    for place, (name, row) in enumerate(rows.items()):
        y = _TOP + _ROW * place + _ROW / 2
        parts.append(f"<text x='{_LEFT - 12}' y='{_n(y + 4)}' text-anchor='end'>{escape(name)}</text>")
        for index, system in enumerate(systems):
            if row.get(system) and row[system]["value"] is not None:
                offset = (index - (len(systems) - 1) / 2) * 9
                parts += _dot(row[system], y + offset, index)
    return "\n".join([*parts, "</g></svg>", ""])


def curve(title: str, label: str, lines: Mapping[str, Sequence[tuple[float, Rate]]]) -> str:
    """Draw rates in percent against a number in 0..1, with their intervals.

    Args:
        title: stands above, and is what a screen reader says.
        label: of the horizontal axis.
        lines: name -> points (x, rate), in the order of x; at most four lines.

    Returns:
        A whole SVG file.
    """
    height, bottom = 320, 270
    parts = _frame(title, _LEFT + _WIDTH + 30, height) + _legend(list(lines))
    top, left = _TOP, 60
    width = _LEFT + _WIDTH - left

    def place(x: float, value: float) -> tuple[float, float]:
        return left + width * x, bottom - (bottom - top) * min(value, 1.0)

    for tick in range(0, 101, 20):
        x, y = place(tick / 100, tick / 100)
        parts.append(f"<line x1='{left}' y1='{_n(y)}' x2='{left + width}' y2='{_n(y)}' stroke='#ddd'/>")
        parts.append(f"<text x='{left - 8}' y='{_n(y + 4)}' text-anchor='end'>{tick}</text>")
        parts.append(f"<text x='{_n(x)}' y='{bottom + 18}' text-anchor='middle'>{tick / 100:g}</text>")
    parts.append(f"<text x='{left + width / 2:g}' y='{bottom + 38}' text-anchor='middle'>{escape(label)}</text>")
    for index, points in enumerate(lines.values()):
        colour = COLOURS[index]
        path = " ".join("{},{}".format(*map(_n, place(x, rate["value"]))) for x, rate in points)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        for x, rate in points:
            (at, low), (_, high) = (place(x, bound) for bound in rate["interval"])
            parts.append(f"<line x1='{_n(at)}' y1='{_n(low)}' x2='{_n(at)}' y2='{_n(high)}' stroke='{colour}'/>")
            parts.append(_mark(*place(x, rate["value"]), index))
    return "\n".join([*parts, "</g></svg>", ""])


def _frame(title: str, width: int, height: int) -> list[str]:
    sizes = f"width='{width}' height='{height}' viewBox='0 0 {width} {height}'"
    said = escape(title, quote=True)
    return [
        f"<svg xmlns='http://www.w3.org/2000/svg' {sizes} role='img' aria-label='{said}'>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{width}' height='{height}' fill='#fff'/><g {_STYLE}>",
        f"<text x='12' y='20' font-weight='bold'>{escape(title)}</text>",
    ]


def _legend(systems: Sequence[str]) -> list[str]:
    parts, x = [], 24.0
    for index, system in enumerate(systems):
        parts.append(_mark(x, 38, index))
        parts.append(f"<text x='{_n(x + 10)}' y='42'>{escape(system)}</text>")
        x += 30 + 7 * len(system)
    return parts


def _percent_axis(top: float, bottom: float) -> list[str]:
    parts = []
    for tick in range(0, 101, 20):
        x = _n(_LEFT + _WIDTH * tick / 100)
        parts.append(f"<line x1='{x}' y1='{_n(top)}' x2='{x}' y2='{_n(bottom)}' stroke='#ddd'/>")
        parts.append(f"<text x='{x}' y='{_n(bottom + 18)}' text-anchor='middle'>{tick} %</text>")
    return parts


def _dot(rate: Rate, y: float, index: int) -> list[str]:
    low, value, high = (_LEFT + _WIDTH * min(number, 1.0) for number in (
        rate["interval"][0], rate["value"], rate["interval"][1]))  # fmt: skip
    line = (
        f"<line x1='{_n(low)}' y1='{_n(y)}' x2='{_n(high)}' y2='{_n(y)}' stroke='{COLOURS[index]}' stroke-width='2'/>"
    )
    return [line, _mark(value, y, index)]


def _mark(x: float, y: float, index: int) -> str:
    """Draw a circle, a square, a diamond or a triangle, by the system's place."""
    colour = COLOURS[index]
    if index == 0:
        return f"<circle cx='{_n(x)}' cy='{_n(y)}' r='4.5' fill='{colour}'/>"
    shapes = {1: "-4,-4 4,-4 4,4 -4,4", 2: "0,-5 5,0 0,5 -5,0", 3: "0,-5 5,4 -5,4"}
    return f"<polygon points='{shapes[index]}' transform='translate({_n(x)} {_n(y)})' fill='{colour}'/>"


def _n(number: float) -> str:
    return f"{number:.1f}"
