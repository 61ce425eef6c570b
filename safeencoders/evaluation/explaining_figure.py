"""The picture of an explanation: the prompt with its causes marked, shift and cause by word, categories, captions.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; every bar carries its value. matplotlib is
imported inside the functions; it comes with the extra ``eval``.
"""

from __future__ import annotations

import hashlib
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeencoders.errors import BadInputError, MissingExtraError
from safeencoders.evaluation.explanation import Explanation, Word, decimal
from safeencoders.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHIFT, CAUSE, UNSAFE, SAFE, INK, FAINT = "#56B4E9", "#D55E00", "#D55E00", "#009E73", "#1b1f24", "#57606a"
FORMATS = ("svg", "png")
WIDTH, COLUMNS = 10.0, 100
"""Of the figure in inches, and of its lines of text in characters of the monospaced font."""
_STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "font.family": "sans-serif", "font.size": 9.5,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "xtick.color": INK, "ytick.color": INK,
    "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
}  # fmt: skip


def save(explanation: Explanation, path: Path) -> None:
    """Write the picture as SVG or PNG by the ending of the path; see `Explanation.save`."""
    kind = check_ending(path)
    figure, buffer = draw(explanation), io.BytesIO()
    with _style(explanation):
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    write_atomically(path, buffer.getvalue())


def check_ending(path: Path) -> str:
    """Return the format a path asks for, "svg" or "png", or raise BadInputError."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise BadInputError(f"expected a file that ends in .svg or .png, got {path.name!r}; choose one of the two")
    return kind


def draw(explanation: Explanation) -> Figure:
    """Return the figure; see `Explanation.figure`."""
    lines = _wrapped(explanation.words)
    captions = [
        textwrap.wrap(f"{near.similarity:.2f}  {near.caption}", COLUMNS + 20, subsequent_indent=" " * 6)
        for near in explanation.nearest
    ]
    below = [line for caption in captions for line in caption]
    heights = [0.4 + 0.28 * len(lines), 0.8 + 0.27 * max(9, len(explanation.words) + 1), 0.4 + 0.2 * len(below)]
    with _style(explanation):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        engine = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08)
        figure = Figure(figsize=(WIDTH, sum(heights)), layout=engine, facecolor="white")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(3, 2, height_ratios=heights, width_ratios=(8, 5))
        _prompt(figure.add_subplot(grid[0, :]), explanation, lines)
        _words(figure.add_subplot(grid[1, 0]), explanation)
        _categories(figure.add_subplot(grid[1, 1]), explanation)
        _text(figure.add_subplot(grid[2, :]), "Safe captions nearest to where the encoder puts it", below)
    return figure


def _style(explanation: Explanation) -> Any:  # noqa: ANN401  a context manager of matplotlib
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("matplotlib", "eval") from error
    settings: Any = _STYLE | {"svg.hashsalt": hashlib.sha256(repr(explanation).encode()).hexdigest()}
    return mpl.rc_context(settings)


def _short(text: str, most: int = 18) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _wrapped(words: Sequence[Word]) -> list[list[tuple[int, str, Word]]]:
    """Break the prompt into lines of (column, what is written, word)."""
    lines: list[list[tuple[int, str, Word]]] = [[]]
    column = 0
    for word in words:
        text = _short(word.text, COLUMNS // 2)
        if column and column + len(text) > COLUMNS:
            lines.append([])
            column = 0
        lines[-1].append((column, text, word))
        column += len(text) + 1
    return lines


def _prompt(axes: Axes, explanation: Explanation, lines: Sequence[Sequence[tuple[int, str, Word]]]) -> None:
    """Write the prompt, each word on a ground as dark as its cause."""
    from matplotlib.patches import Rectangle

    _blank(axes, _short(f"{explanation.encoder}: {explanation.verdict}", COLUMNS), len(lines))
    strongest = max(explanation.shift, explanation.rule.threshold)
    for row, line in enumerate(lines):
        for column, text, word in line:
            share = min(1.0, max(0.0, word.cause / strongest))
            place, size = (column - 0.35, row + 0.08), (len(text) + 0.7, 0.84)
            axes.add_patch(Rectangle(place, *size, facecolor=CAUSE, alpha=0.75 * share, edgecolor="none"))
            middle = column + len(text) / 2
            axes.text(middle, row + 0.5, text, family="monospace", fontsize=11, ha="center", va="center")


def _words(axes: Axes, explanation: Explanation) -> None:
    """Draw two lying bars for each word, and the prompt's shift below them, with the rule's threshold."""
    words, end = explanation.words, len(explanation.words)
    series = (
        (-0.2, [*(word.shift for word in words), explanation.shift], SHIFT, "shift"),
        (0.2, [word.cause for word in words], CAUSE, "cause: shift gone without the word"),
    )
    for offset, values, colour, label in series:
        places = [place + offset for place in range(len(values))]
        axes.barh(places, values, height=0.38, color=colour, label=label)
        for place, value in zip(places, values, strict=True):
            axes.text(max(value, 0) + 0.01, place, decimal(value), va="center", fontsize=6.5, color=FAINT)
    threshold = explanation.rule.threshold
    axes.plot([threshold] * 2, [end - 0.5, end + 0.5], color=INK, linestyle=":", linewidth=1.4, label="threshold")
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set_yticks(range(end + 1), [*(_short(word.text) for word in words), "whole prompt"])
    axes.get_yticklabels()[-1].set_fontweight("bold")
    axes.set_ylim(end + 0.6, -0.6)
    axes.set_xlim(right=1.1 * max(1.0, *series[0][1]))
    axes.set_title("Word by word")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.07), ncols=3, fontsize=8, handlelength=1.2, columnspacing=1)


def _categories(axes: Axes, explanation: Explanation) -> None:
    names, scores = list(explanation.categories), list(explanation.categories.values())
    axes.barh(names, scores, height=0.6, color=[*[UNSAFE] * (len(names) - 1), SAFE])
    for place, score in enumerate(scores):
        axes.text(score + 0.01, place, decimal(score), va="center", fontsize=8, color=FAINT)
    axes.set_ylim(max(len(names), len(explanation.words)) - 0.4, -0.6)  # bars as thick as those beside
    axes.set_xlim(0, 1.12)
    axes.set_xticks([])
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.set_title("The original tower reads")


def _text(axes: Axes, title: str, lines: Sequence[str]) -> None:
    _blank(axes, title, len(lines))
    for row, line in enumerate(lines):
        axes.text(0, row + 0.5, line, family="monospace", fontsize=8.5, va="center")


def _blank(axes: Axes, title: str, rows: int) -> None:
    """Make the axes a page of rows of text, `COLUMNS` wide."""
    axes.set_axis_off()
    axes.set_xlim(-0.4, COLUMNS + 0.4)
    axes.set_ylim(max(1, rows), 0)
    axes.set_title(title)
