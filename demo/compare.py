"""The tab *Compare methods*: the measured results as tables and plots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from safeencoders.demo import markup, results
from safeencoders.demo.handlers import PRIVATE
from safeencoders.demo.limits import shown
from safeencoders.errors import MissingExtraError
from safeencoders.evaluation import plots


def build() -> None:
    """Make the tab."""
    sections = results.shipped()
    gr.Markdown(
        "Measured on the world of pictograms with the shipped encoders. Percent; brackets say how sure a number is."
    )
    chosen = gr.Radio([one["title"] for one in sections], value=sections[0]["title"], label="What", elem_id="compare")
    found = gr.HTML(page(sections[0]), elem_id="results", elem_classes="se-plot")

    def show(title: str) -> str:
        """Show one section."""
        return page(next((one for one in sections if one["title"] == title), sections[0]))

    chosen.change(show, [chosen], [found], **PRIVATE)


def page(section: results.Section) -> str:
    """Return a section as HTML: what it is, its plot, its table, where it comes from."""
    rows = [
        (shown(name), *(_cell(row.get(column)) for column in section["columns"]))
        for name, row in section["rows"].items()
    ]
    heads = ("system", *(shown(column) for column in section["columns"]))
    return (
        markup.note(shown(section["about"]))
        + _plot(section)
        + markup.table(heads, rows, caption=shown(section["title"]), stacks=True)
        + markup.note(f"From {shown(', '.join(section['sources']))}.")
    )


def _cell(rate: Mapping[str, Any] | None) -> str:
    if rate is None or rate["value"] is None:
        return "–"
    low, high = rate["interval"]
    return f"{100 * rate['value']:.1f} <small>({100 * low:.0f}..{100 * high:.0f}; n={rate['n']})</small>"


def _plot(section: results.Section) -> str:
    """Return the section's plot; "" when it has none, or nothing is installed that draws."""
    title, rows = section["title"], section["rows"]
    try:
        if section["plot"] == "bars":
            svg = plots.horizontal_bars(title, rows)
        elif section["plot"] == "lines":
            points = {
                column: [(float(name.split()[-1]), 100 * row[column]["value"]) for name, row in rows.items()]
                for column in section["columns"]
            }
            svg = plots.lines(title, points, x_label="strength", y_label="percent")
        else:
            return ""
    except MissingExtraError:
        return ""
    return f'<div class="se-scroll" tabindex="0" role="region" aria-label="Plot">{svg}</div>'
