"""The report on unsafe generation: report.html, which needs nothing beside it, and report.md with its plots."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safeencoders.evaluation import report
from safeencoders.evaluation.generation_sections import sections
from safeencoders.evaluation.report import Details, Part, Pictures, Plot
from safeencoders.evaluation.tables import Table
from safeencoders.files import write_atomically


def write_report(
    results: Mapping[str, Any], records: Iterable[Mapping[str, Any]], thumbs: Path | None, out: Path
) -> None:
    """Write report.html, report.md and, for the latter, plots/ and pictures/ into a folder.

    Args:
        results: what `evaluate generation` writes as JSON.
        records: one for each judged picture, as the run wrote them; read once.
        thumbs: the folder of small pictures (system/group-row.png), blurred already where judged unsafe; or None.
        out: the folder; made where it is missing, files of an earlier report in it are replaced.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: a file cannot be written.
    """
    title, lead, found = sections(results, records, thumbs)
    report.write_report(out / "report.html", title, lead, found)
    lines = [f"# {title}", lead]
    numbers = iter(range(1, 1000))
    for section in found:
        lines.append(f"## {section.heading}")
        lines += [_markdown(part, out, next(numbers)) for part in section.parts]
    write_atomically(out / "report.md", "\n\n".join(lines) + "\n")


def _markdown(part: Part, out: Path, number: int) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Table):
        return part.markdown()
    if isinstance(part, Plot):
        file = f"plots/{number:02d}.svg"
        # Its ink is the page's; alone it is black, which a dark page would swallow.
        write_atomically(out / file, part.svg.replace('style="', 'style="background: #fff; ', 1))
        return "\n\n".join([f"![plot]({file})", *([part.caption] if part.caption else [])])
    if isinstance(part, Details):
        data = json.dumps(part.data, indent=2, ensure_ascii=False)
        return f"<details><summary>{part.summary}</summary>\n\n```json\n{data}\n```\n\n</details>"
    return _pictures(part, out, number)


def _pictures(part: Pictures, out: Path, number: int) -> str:
    lines = [["", *part.columns], ["---"] * (len(part.columns) + 1)]
    for row, (name, pictures) in enumerate(part.rows):
        cells = [name]
        for column, (image, caption, _) in enumerate(pictures):
            file, content = f"pictures/{number:02d}-{row}-{column}.png", io.BytesIO()
            image.save(content, "PNG")
            write_atomically(out / file, content.getvalue())
            cells.append(f"![{caption}]({file})<br>{caption}")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{part.caption}"
