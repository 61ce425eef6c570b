"""A report as ONE self-contained HTML file: no script, no request to anywhere, readable in light and dark.

Pictures judged unsafe are blurred until the reader clicks them (a checkbox and CSS, nothing else). A content security
policy in the file forbids scripts and outside resources, so a report is safe to open even when its prompts are hostile.
Every text is escaped; the only markup taken as it is are the SVG plots, which are checked.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from safeencoders.evaluation.sheet import Picture, Rows, checked_rows
from safeencoders.evaluation.tables import Table
from safeencoders.files import write_atomically

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --faint: #57606a; --rule: #d0d7de; --band: #f6f8fa;
  --red: #b00f1c; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e6edf3; --faint: #9aa4af; --rule: #3a424c;
  --band: #1c2229; --red: #ff7b7b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--rule); }
p { max-width: 46rem; } figure { margin: 1.2rem 0; }
figcaption { color: var(--faint); font-size: .9rem; max-width: 46rem; margin-top: .4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .3rem .8rem; white-space: nowrap; text-align: right; border-bottom: 1px solid var(--rule); }
thead th { border-bottom: 2px solid var(--faint); vertical-align: bottom; }
th:first-child { text-align: left; } tbody th { font-weight: 400; }
tbody tr:nth-child(even) { background: var(--band); }
svg { display: block; font-family: system-ui, sans-serif; }
.sheet th, .sheet td { white-space: normal; text-align: left; vertical-align: top; }
.sheet tbody th { min-width: 11rem; max-width: 20rem; overflow-wrap: anywhere; }
.sheet img { display: block; width: 12rem; height: 12rem; object-fit: contain; }
.sheet .note { display: block; max-width: 12rem; color: var(--faint); font-size: .85rem; }
.veil { display: inline-block; position: relative; cursor: pointer; }
.veil .frame { display: block; overflow: hidden; border: 4px solid var(--red); }
.veil img { filter: blur(16px); }
.veil input { position: absolute; opacity: 0; }
.veil input:checked ~ .frame img, .sheet:has(.all:checked) .veil img { filter: none; }
.veil input:focus-visible ~ .frame { outline: 3px solid var(--ink); outline-offset: 2px; }
.veil .tag { display: block; color: var(--red); font-weight: 600; font-size: .85rem; }
details { margin-top: 2.5rem; } summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; padding: .8rem; background: var(--band); font-size: .82rem; }
"""


@dataclass(frozen=True)
class Plot:
    """A plot from `safeencoders.evaluation.plots`, with an optional line of text below."""

    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Pictures:
    """Prompts with one picture per column, as for `safeencoders.evaluation.sheet.write_sheet`."""

    columns: Sequence[str]
    rows: Rows
    caption: str = ""


@dataclass(frozen=True)
class Details:
    """Data shown as JSON, folded away: the manifest, a configuration."""

    summary: str
    data: Mapping[str, Any]


Part = str | Table | Plot | Pictures | Details
"""What a section is made of; a plain string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A heading (empty for none) and the parts below it, in order."""

    heading: str
    parts: Sequence[Part]


def write_report(path: str | Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write a self-contained HTML report: whole or not at all, a missing parent folder is made.

    Args:
        path: The file to write.
        title: The heading of the page.
        lead: The paragraph below it: what was done and what came out.
        sections: What follows.

    Raises:
        ValueError: If a plot is not a clean ``<svg>`` element, or a row of pictures does not fill its columns.
        TypeError: If a part is none of the known kinds, or details hold what JSON cannot.
        OutputError: If the file cannot be written.
    """
    write_atomically(path, render_report(title, lead, sections))


def render_report(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page of `write_report` as text."""
    name = html.escape(title)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return "\n".join([
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{name}</h1>",
        f"<p>{html.escape(lead)}</p>",
        *(_section(section) for section in sections),
        "</main>\n</body>\n</html>\n",
    ])  # fmt: skip


def _section(section: Section) -> str:
    heading = [f"<h2>{html.escape(section.heading)}</h2>"] if section.heading else []
    return "\n".join(["<section>", *heading, *map(_part, section.parts), "</section>"])


def _part(part: Part) -> str:
    if isinstance(part, str):
        return f"<p>{html.escape(part)}</p>"
    if isinstance(part, Table):
        return part.html()
    if isinstance(part, Plot):
        return f'<figure><div class="scroll" tabindex="0">{_inline(part.svg)}</div>{_caption(part.caption)}</figure>'
    if isinstance(part, Pictures):
        return _pictures(part)
    if isinstance(part, Details):
        data = html.escape(json.dumps(part.data, indent=2, ensure_ascii=False), quote=False)
        return f"<details><summary>{html.escape(part.summary)}</summary><pre>{data}</pre></details>"
    raise TypeError(f"A section holds str, Table, Plot, Pictures or Details, got {type(part).__name__}.")


def _caption(text: str) -> str:
    return f"<figcaption>{html.escape(text)}</figcaption>" if text else ""


def _inline(svg: str) -> str:
    """The SVG without its namespace declarations, which HTML does not need; refuse whatever could run or load."""
    bare = re.sub(r"""\sxmlns(:\w+)?=("[^"]*"|'[^']*')""", "", svg.strip())
    fault = _SvgCheck.fault(bare)
    if fault or not (bare.startswith("<svg") and bare.endswith("</svg>")):
        raise ValueError(f"Expected a plot from safeencoders.evaluation.plots, but it {fault or 'is not one <svg>'}.")
    return bare


class _SvgCheck(HTMLParser):
    """Looks for elements that do not draw, event handlers, and references to anything but the plot itself."""

    DRAWING = frozenset("svg g defs path use text tspan rect circle line polyline polygon clippath title desc".split())

    def __init__(self) -> None:
        super().__init__()
        self.found = ""

    @classmethod
    def fault(cls, svg: str) -> str:
        """The first fault in words, or an empty string."""
        if "<!" in svg or "<?" in svg:  # where these end, browsers and this parser may disagree
            return "holds a comment or a declaration"
        check = cls()
        check.feed(svg)
        check.close()
        return check.found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Judge one element (also called for those that close themselves)."""
        if tag not in self.DRAWING:
            self.found = self.found or f"holds the element <{tag}>"
        for name, value in attrs:
            text = value or ""
            outside = name.endswith("href") and not text.startswith("#")
            if name.startswith("on") or outside or (name != "aria-label" and re.search(r"url\((?!#)", text, re.I)):
                self.found = self.found or f"holds the attribute {name}={text!r}"


def _pictures(sheet: Pictures) -> str:
    rows = checked_rows(sheet.rows, sheet.columns)
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ("Prompt", *sheet.columns))
    body = "\n".join(
        f'<tr><th scope="row">{html.escape(prompt)}</th>{"".join(f"<td>{_picture(p)}</td>" for p in pictures)}</tr>'
        for prompt, pictures in rows
    )
    hidden = any(picture.marked for row in rows for picture in row.pictures)
    switch = '<label><input type="checkbox" class="all"> Show all pictures judged unsafe</label>'
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
    return (
        f'<figure class="sheet">{switch if hidden else ""}<div class="scroll" tabindex="0">{table}</div>'
        f"{_caption(sheet.caption)}</figure>"
    )


def _picture(picture: Picture) -> str:
    buffer = io.BytesIO()
    picture.image.convert("RGB").save(buffer, format="PNG", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    caption = html.escape(picture.caption)
    note = f'<span class="note">{caption}</span>' if caption else ""
    if not picture.marked:
        return f'<img src="{source}" alt="{caption}">{note}'
    image = f'<img src="{source}" alt="judged unsafe{": " if caption else ""}{caption}">'
    tag = '<span class="tag">unsafe: click to show or hide</span>'
    box = '<input type="checkbox" aria-label="Show this picture, judged unsafe">'
    return f'<label class="veil">{box}<span class="frame">{image}</span>{tag}</label>{note}'
