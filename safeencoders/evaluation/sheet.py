"""The contact sheet: one row per prompt, one column per system, pictures judged unsafe framed in red.

The same rows feed the sheet (a PNG, here) and the report (`safeencoders.evaluation.report`). Deterministic: the same
rows give the same bytes with the same Pillow.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image as Images
from PIL import ImageDraw, ImageFont
from PIL.Image import Image

from safeencoders.files import write_atomically

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PAPER, INK, FAINT, RULE, RED = "#ffffff", "#1b1f24", "#57606a", "#d0d7de", "#c1121f"
MARGIN, GAP, FRAME, SIDE, PROMPT_WIDTH = 24, 18, 6, 192, 280
TAG = "unsafe"


class Picture(NamedTuple):
    """A picture, what is said under it (may be empty), and whether a judge called it unsafe."""

    image: Image
    caption: str = ""
    marked: bool = False


class Row(NamedTuple):
    """A prompt and what each system drew for it, in the order of the sheet's columns."""

    prompt: str
    pictures: Sequence[Picture]


Rows = Sequence[tuple[str, Sequence[tuple[Image, str, bool]]]]
"""Rows of a sheet: `Row` and `Picture`, or plain tuples of the same contents."""


def checked_rows(rows: Rows, columns: Sequence[str]) -> list[Row]:
    """The rows with their fields named, after a check that each has one picture per column.

    Raises:
        ValueError: If one has not, or there is no row or no column.
    """
    if not rows or not columns:
        raise ValueError(f"A sheet needs at least one row and one column, got {len(rows)} and {len(columns)}.")
    for number, (prompt, pictures) in enumerate(rows):
        if len(pictures) != len(columns):
            raise ValueError(f"Row {number} has {len(pictures)} pictures, expected {len(columns)} ({prompt!r}).")
    return [Row(prompt, [Picture(*picture) for picture in pictures]) for prompt, pictures in rows]


def write_sheet(path: str | Path, rows: Rows, columns: Sequence[str], *, title: str = "") -> None:
    """Write a contact sheet as PNG: whole or not at all, a missing parent folder is made.

    Args:
        path: The file to write.
        rows: Prompts with their pictures; plain tuples ``(prompt, [(image, caption, marked), ...])`` will do. The
            images are PIL images of any mode and size; each is scaled to fit 192 x 192 pixels (64 x 64 three-fold).
        columns: One head per picture column.
        title: A line above everything; may be empty.

    Raises:
        ValueError: As `checked_rows`.
        OutputError: If the file cannot be written.
    """
    buffer = io.BytesIO()
    draw_sheet(rows, columns, title=title).save(buffer, format="PNG", optimize=True)
    write_atomically(path, buffer.getvalue())


def draw_sheet(rows: Rows, columns: Sequence[str], *, title: str = "") -> Image:
    """The sheet of `write_sheet` as an RGB image."""
    fonts = _Fonts.load()
    layouts = [_Layout.of(row, fonts) for row in checked_rows(rows, columns)]
    heads = [_wrap(head, fonts.text, SIDE) for head in ("Prompt", *columns)]
    top = MARGIN + (fonts.line(fonts.title) + GAP if title else 0)
    head_height = max(map(len, heads)) * fonts.line(fonts.text) + GAP // 2
    width = 2 * MARGIN + PROMPT_WIDTH + len(columns) * (GAP + SIDE + 2 * FRAME)
    sheet = Images.new("RGB", (width, top + head_height + sum(layout.height for layout in layouts) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((MARGIN, MARGIN), _plain(title), font=fonts.title, fill=INK)
    for number, lines in enumerate(heads):
        left = MARGIN if number == 0 else _left(number - 1) + FRAME
        _write(draw, (left, top), lines, fonts.text, INK, fonts.line(fonts.text))
    top += head_height
    for layout in layouts:
        _draw_row(sheet, draw, layout, top, fonts)
        top += layout.height
    return sheet


def _draw_row(sheet: Image, draw: ImageDraw.ImageDraw, layout: _Layout, top: int, fonts: _Fonts) -> None:
    draw.line([(MARGIN, top), (sheet.width - MARGIN, top)], fill=RULE)
    top += GAP // 2
    _write(draw, (MARGIN, top + FRAME), layout.prompt, fonts.text, INK, fonts.line(fonts.text))
    for number, (picture, lines) in enumerate(zip(layout.pictures, layout.captions, strict=True)):
        left = _left(number)
        _draw_picture(sheet, draw, picture, (left, top), fonts)
        below = fonts.line(fonts.text) if picture.marked else 0
        place = (left + FRAME, top + SIDE + 2 * FRAME + 2 + below)
        _write(draw, place, lines, fonts.small, FAINT, fonts.line(fonts.small))


def _draw_picture(
    sheet: Image, draw: ImageDraw.ImageDraw, picture: Picture, place: tuple[int, int], fonts: _Fonts
) -> None:
    left, top = place
    box = (left, top, left + SIDE + 2 * FRAME - 1, top + SIDE + 2 * FRAME - 1)
    source = picture.image.convert("RGB")
    scale = SIDE / max(source.size)
    size = (max(1, round(source.width * scale)), max(1, round(source.height * scale)))
    enlarged = source.resize(size, Images.Resampling.LANCZOS)
    sheet.paste(enlarged, (left + FRAME + (SIDE - size[0]) // 2, top + FRAME + (SIDE - size[1]) // 2))
    if not picture.marked:
        draw.rectangle((box[0] + FRAME - 1, box[1] + FRAME - 1, box[2] - FRAME + 1, box[3] - FRAME + 1), outline=RULE)
        return
    draw.rectangle(box, outline=RED, width=FRAME)
    right = left + FRAME + round(fonts.text.getlength(TAG)) + FRAME
    draw.rectangle((left, box[3], right, box[3] + fonts.line(fonts.text)), fill=RED)
    draw.text((left + FRAME, box[3]), TAG, font=fonts.text, fill=PAPER)


@dataclass(frozen=True)
class _Fonts:
    title: Font
    text: Font
    small: Font

    @classmethod
    def load(cls) -> _Fonts:
        title, text, small = (ImageFont.load_default(size) for size in (24, 18, 15))
        return cls(title, text, small)

    @staticmethod
    def line(font: Font) -> int:
        """The distance between two lines of text, in pixels."""
        return round(1.25 * font.getbbox("Ágjy")[3])


@dataclass(frozen=True)
class _Layout:
    """A row with its texts broken into lines, and the height in pixels that it needs."""

    prompt: list[str]
    pictures: Sequence[Picture]
    captions: list[list[str]]
    height: int

    @classmethod
    def of(cls, row: Row, fonts: _Fonts) -> _Layout:
        prompt = _wrap(row.prompt, fonts.text, PROMPT_WIDTH)
        captions = [_wrap(picture.caption, fonts.small, SIDE) for picture in row.pictures]
        tags = [fonts.line(fonts.text) * picture.marked for picture in row.pictures]
        below = max(tag + len(lines) * fonts.line(fonts.small) for tag, lines in zip(tags, captions, strict=True))
        tallest = max(SIDE + 2 * FRAME + 2 + below, FRAME + len(prompt) * fonts.line(fonts.text))
        return cls(prompt, row.pictures, captions, tallest + GAP)


def _left(column: int) -> int:
    return MARGIN + PROMPT_WIDTH + GAP + column * (GAP + SIDE + 2 * FRAME)


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], font: Font, fill: str, line_height: int
) -> None:
    for number, line in enumerate(lines):
        draw.text((place[0], place[1] + number * line_height), line, font=font, fill=fill)


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """Break `text` into lines of at most `width` pixels, between words, inside a word only when it alone is wider."""
    lines: list[str] = []
    line = ""
    for word in _plain(text).split():
        joined = f"{line} {word}" if line else word
        if font.getlength(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        *whole, line = _split(word, font, width)
        lines.extend(whole)
    return [*lines, line] if line else lines


def _split(word: str, font: Font, width: int) -> list[str]:
    """Cut a word into pieces of at most `width` pixels, at least one letter each."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def _plain(text: str) -> str:
    """What the built-in font can draw: accents are dropped, other letters become ``?`` (the report shows them all)."""
    marks = unicodedata.normalize("NFKD", text)
    return "".join(c if c.isascii() else "?" for c in marks if not unicodedata.combining(c))
