"""Plots of rates and losses as SVG text, for reports that need neither script nor network.

Colours are Okabe and Ito's, which colour-blind readers can tell apart, and every bar carries its value. Ink is
``currentColor``, so an inlined plot follows the page's light or dark theme. The same input gives the same text.
matplotlib is imported inside the functions; it comes with the extra ``eval``.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

from safeencoders.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#999999")
"""Vermilion comes first, for "before", and blue second, for "after"; then the baselines."""

_INK = "#123457"  # a colour used by nothing else, turned into currentColor afterwards
_BAR = 0.39  # inches for one bar

Rates = Mapping[str, Mapping[str, Any] | None]


def bars(title: str, series: Mapping[str, Rates], *, label: str = "percent") -> str:
    """Upright grouped bars: one group per measured number, one bar per system, whiskers for the 95 % interval.

    Args:
        title: The title, also the plot's accessible name.
        series: System (at most 7) to ``{group: rate}``; a group that a system lacks, or a null rate, has no bar.
        label: What the value axis says.

    Returns:
        A stand-alone ``<svg>`` element.

    Raises:
        ValueError: If there is no system or no group, or there are more than 7 systems.
        MissingExtraError: If matplotlib is not installed.
    """
    groups = _groups(series)
    with _style(title, series):
        step = len(series) + 1
        figure, axes = _figure(max(5.5, 0.9 + _BAR * step * len(groups)), 3.9)
        for number, (name, rates) in enumerate(series.items()):
            places = [i * step + number for i, group in enumerate(groups) if _measured(rates, group)]
            values, below, above = _heights(rates, groups)
            axes.bar(places, values, width=0.9, color=COLOURS[number], label=name)
            axes.errorbar(places, values, [below, above], fmt="none", ecolor=_INK, elinewidth=1, capsize=2.5)
            for x, value, up in zip(places, values, above, strict=True):
                axes.text(x, value + up + 1.2, f"{value:.1f}", ha="center", va="bottom", fontsize=8)
        axes.set_xticks([i * step + (len(series) - 1) / 2 for i in range(len(groups))], groups)
        axes.set_xlim(-1, len(groups) * step - 1)
        axes.set_ylim(0, 108)
        axes.set_yticks(range(0, 101, 20))
        axes.set_ylabel(label)
        return _finish(figure, axes, title, grid="y", legend=len(series) > 1)


def horizontal_bars(title: str, series: Mapping[str, Rates], *, label: str = "percent") -> str:
    """Lying bars with the names written out in full: by category, by mode, by held-out kind.

    Args, returns and raises as `bars`; n is written behind each name (``hate (n=42)``; several when systems differ).
    """
    groups = _groups(series)
    with _style(title, series):
        step = len(series) + 0.7
        figure, axes = _figure(7.5, 1.1 + 0.27 * step * len(groups))
        for number, (name, rates) in enumerate(series.items()):
            places = [i * step + number for i, group in enumerate(groups) if _measured(rates, group)]
            values, below, above = _heights(rates, groups)
            axes.barh(places, values, height=0.85, color=COLOURS[number], label=name)
            axes.errorbar(values, places, xerr=[below, above], fmt="none", ecolor=_INK, elinewidth=1, capsize=2)
            for y, value, up in zip(places, values, above, strict=True):
                axes.text(value + up + 1.2, y, f"{value:.1f}", ha="left", va="center", fontsize=8)
        names = [_with_cases(group, series) for group in groups]
        axes.set_yticks([i * step + (len(series) - 1) / 2 for i in range(len(groups))], names)
        axes.set_ylim(len(groups) * step - 0.7, -1)
        axes.set_xlim(0, 108)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel(label)
        return _finish(figure, axes, title, grid="x", legend=len(series) > 1)


def lines(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str = "step",
    y_label: str = "loss",
) -> str:
    """Curves such as a training loss; the last value of each is printed beside its name.

    Args:
        title: The title, also the plot's accessible name.
        series: Name of the curve (at most 7) to its (x, y) points, at least one, in order of x.
        x_label: What the horizontal axis says.
        y_label: What the vertical axis says.

    Returns:
        A stand-alone ``<svg>`` element.

    Raises:
        ValueError: If there is no curve, one without points, or more than 7.
        MissingExtraError: If matplotlib is not installed.
    """
    _check_count(series)
    for name, points in series.items():
        if len(points) == 0:
            raise ValueError(f"The curve {name!r} has no points.")
    with _style(title, series):
        figure, axes = _figure(6.5, 3.4)
        for number, (name, points) in enumerate(series.items()):
            xs, ys = zip(*points, strict=True)
            label = f"{name} (last: {ys[-1]:.3g})"
            axes.plot(xs, ys, color=COLOURS[number], linewidth=1.6, label=label, marker="o" if len(xs) == 1 else None)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return _finish(figure, axes, title, grid="y", legend=True)


def curves(
    title: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    marks: Sequence[float] = (),
) -> str:
    """Curves of shares over a threshold, each with a line style of its own beside its colour.

    Args:
        title: The title, also the plot's accessible name.
        series: Name of the curve (at most 7) to its x and its y, both in 0..1; y is shown in percent.
        x_label: What the horizontal axis says.
        y_label: What the vertical axis says.
        marks: Places on the horizontal axis to mark: the thresholds in use.

    Returns:
        A stand-alone ``<svg>`` element.

    Raises:
        ValueError: If there is no curve, or more than 7.
        MissingExtraError: If matplotlib is not installed.
    """
    _check_count(series)
    with _style(title, [series, marks]):
        figure, axes = _figure(6.5, 3.6)
        for number, (name, (xs, ys)) in enumerate(series.items()):
            style = ("-", "--", "-.", ":")[number % 4]
            axes.plot(xs, [100 * y for y in ys], style, color=COLOURS[number], linewidth=1.8, label=name)
        for mark in marks:
            axes.axvline(mark, color=_INK, linewidth=1, alpha=0.6)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 104)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return _finish(figure, axes, title, grid="both", legend=True)


def front(
    title: str,
    points: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str,
    y_label: str,
) -> str:
    """Points of several systems in two measures that are both better when larger; each is numbered, named beside.

    Args:
        title: The title, also the plot's accessible name.
        points: Name of the system to its (x, y) points, one for each seed, at least one.
        x_label: What the horizontal axis says.
        y_label: What the vertical axis says.

    Returns:
        A stand-alone ``<svg>`` element.

    Raises:
        ValueError: If there is no system.
        MissingExtraError: If matplotlib is not installed.
    """
    if not points:
        raise ValueError("A front needs at least one system, got none.")
    with _style(title, points):
        figure, axes = _figure(7.5, 3.8)
        for number, (name, found) in enumerate(points.items()):
            xs, ys = zip(*found, strict=True)
            colour = COLOURS[number % len(COLOURS)]
            marker = "os^Dv"[number // len(COLOURS) % 5]
            axes.scatter(xs, ys, color=colour, marker=marker, s=28, label=name)
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return _finish(figure, axes, title, grid="both", legend=False)


def _check_count(series: Mapping[str, object]) -> None:
    if not 1 <= len(series) <= len(COLOURS):
        raise ValueError(f"A plot shows 1 to {len(COLOURS)} series, got {len(series)}.")


def _groups(series: Mapping[str, Rates]) -> list[str]:
    _check_count(series)
    groups = list(dict.fromkeys(group for rates in series.values() for group in rates))
    if not groups:
        raise ValueError("There is nothing to plot: no series has a rate.")
    return groups


def _measured(rates: Rates, group: str) -> bool:
    rate = rates.get(group)
    return rate is not None and rate["value"] is not None


def _heights(rates: Rates, groups: Sequence[str]) -> tuple[list[float], list[float], list[float]]:
    """Values in percent, and how far the interval reaches below and above each."""
    found = [rate for group in groups if (rate := rates.get(group)) is not None and rate["value"] is not None]
    values = [100 * float(rate["value"]) for rate in found]
    below = [max(0.0, value - 100 * rate["interval"][0]) for value, rate in zip(values, found, strict=True)]
    above = [max(0.0, 100 * rate["interval"][1] - value) for value, rate in zip(values, found, strict=True)]
    return values, below, above


def _with_cases(group: str, series: Mapping[str, Rates]) -> str:
    found = [rate for rates in series.values() if (rate := rates.get(group)) is not None]
    counts = dict.fromkeys(str(rate["n"]) for rate in found)
    return f"{group} (n={'/'.join(counts)})" if counts else group


def _style(title: str, data: object) -> AbstractContextManager[None]:
    """Our settings for one plot; text stays text, names are never read as formulas, ids depend on the content only."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("matplotlib", "eval") from error
    salt = hashlib.sha256(f"{title}{data!r}".encode()).hexdigest()
    context: AbstractContextManager[None] = mpl.rc_context({
        "svg.fonttype": "none", "svg.hashsalt": salt, "text.parse_math": False, "font.family": "sans-serif",
        "font.size": 9.5, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
        "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK, "xtick.color": _INK,
        "ytick.color": _INK, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    })  # fmt: skip
    return context


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _finish(figure: Figure, axes: Axes, title: str, *, grid: Literal["x", "y", "both"], legend: bool) -> str:
    axes.set_title(title, pad=12)
    axes.grid(axis=grid, color="#8c959f", alpha=0.35, linewidth=0.7)
    axes.set_axisbelow(True)
    if legend:
        figure.legend(loc="outside lower center", ncols=max(1, int(figure.get_figwidth() / 2)), fontsize=9)
    buffer = io.StringIO()
    names = ("Creator", "Date", "Format", "Type")
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(names))
    return _clean(buffer.getvalue(), title)


def _clean(svg: str, title: str) -> str:
    """Keep the ``<svg>`` element: no metadata, style sheet or unused ids; name it, let its ink follow the page."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"\s*(<(metadata|style)\b.*?</\2>|<!--.*?-->)", "", svg, flags=re.DOTALL).replace(_INK, "currentColor")
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda match: match[0] if match[1] in used else "", svg)
    joins = "stroke-linejoin: round; stroke-linecap: butt"  # what the style element said, which would leak into a page
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" style="{joins}" ', 1)
