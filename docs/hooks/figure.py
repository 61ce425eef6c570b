"""An objective as a picture: what is tuned on the left, what it is drawn to or kept from on the right.

The terms alone decide what is drawn, so a figure cannot say something else than the loss. Colours of boxes: what is
safe, what is unsafe, what only looks unsafe; colours of lines: the kind of the term.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safeencoders.training.objectives.terms import Objective, Source

ROW, BOX_WIDTH, BOX_HEIGHT, LEFT, RIGHT, WIDTH = 46, 74, 28, 8, 398, 480
KINDS = {
    "Align": "drawn together in angle",
    "NCE": "drawn together against the rest of the batch",
    "Hidden": "states that a host reads, drawn together",
    "not": "kept apart: a negative of the contrast",
}


@dataclass(frozen=True)
class Line:
    """A line of the figure: from the tuned side to what a term compares it with."""

    start: Source
    end: Source
    kind: str
    weight: float


def lines(objective: Objective) -> list[Line]:
    """Return the lines of an objective, in the order of its terms; a contrast against a role is a line more."""
    found = []
    for term in objective.terms:
        any_term: Any = term
        found.append(Line(any_term.first, any_term.second, type(term).__name__, term.weight))
        if getattr(term, "against", None):
            found.append(Line(any_term.first, any_term.against, "not", term.weight))
    return found


def draw(objective: Objective) -> str:
    """Return the figure as one line of SVG, to stand in a page as it is; its colours follow the page's theme."""
    found = lines(objective)
    left = list(dict.fromkeys(line.start for line in found))
    right = sorted(dict.fromkeys(line.end for line in found), key=lambda end: _middle(end, found, left))
    height = ROW * max(len(left), len(right)) + 8
    at_left = {source: _height(place, len(left), height) for place, source in enumerate(left)}
    at_right = {source: _height(place, len(right), height) for place, source in enumerate(right)}
    parts = [*_lines(found, at_left, at_right)]
    parts += [_box(source, LEFT, y) for source, y in at_left.items()]
    parts += [_box(source, RIGHT, y) for source, y in at_right.items()]
    title = f"The terms of the objective {objective.name}"
    return (
        f'<figure class="objective"><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg><figcaption>{_legend(found)}</figcaption></figure>"
    )


def _middle(end: Source, found: list[Line], left: list[Source]) -> float:
    """Return the mean place of what a box is joined to: sorted by it, fewer lines cross."""
    places = [left.index(line.start) for line in found if line.end == end]
    return sum(places) / len(places)


def _height(place: int, count: int, height: float) -> float:
    return height * (place + 0.5) / count


def _lines(found: list[Line], at_left: dict[Source, float], at_right: dict[Source, float]) -> Iterator[str]:
    for line in found:
        beside = [other.kind for other in found if (other.start, other.end) == (line.start, line.end)]
        shift = 6 * (beside.index(line.kind) - (len(beside) - 1) / 2)
        start, end = at_left[line.start] + shift, at_right[line.end] + shift
        first, last = LEFT + BOX_WIDTH, RIGHT
        curve = f"M{first} {start:.1f}C{first + 130} {start:.1f} {last - 130} {end:.1f} {last} {end:.1f}"
        yield f'<path class="term-{line.kind.lower()}" d="{curve}"><title>{line.weight:g} {line.kind}</title></path>'


def _box(source: Source, x: float, y: float) -> str:
    kind = "unsafe" if "*" in source.role or source.role == "a" else "benign" if "b" in source.role else "safe"
    style = f"{kind} {'tuned' if source.tuned else 'frozen'}"
    name = str(source).replace("0(", "₀(")
    return (
        f'<rect class="{style}" x="{x}" y="{y - BOX_HEIGHT / 2:.1f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>'
        f'<text x="{x + BOX_WIDTH / 2}" y="{y + 5:.1f}">{escape(name)}</text>'
    )


def _legend(found: list[Line]) -> str:
    kinds = {line.kind for line in found}
    items = [
        f'<span><svg viewBox="0 0 28 8" aria-hidden="true"><path class="term-{kind.lower()}" d="M0 4H28"/></svg>'
        f"{'' if kind == 'not' else f'{kind}: '}{text}</span>"
        for kind, text in KINDS.items()
        if kind in kinds
    ]
    return "".join([*items, "<span>dashed box: the frozen original</span>"])
