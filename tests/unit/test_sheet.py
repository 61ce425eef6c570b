"""The contact sheet: what is marked is framed, nothing is hidden or lost, the same rows give the same bytes."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from safeencoders.evaluation import sheet as sheets
from safeencoders.evaluation.sheet import Picture, Row, draw_sheet, write_sheet

BLUE = Image.new("RGB", (64, 64), "#0000ff")
RED = (0xC1, 0x12, 0x1F)


def count(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == colour).all(axis=-1).sum())


def row(marked: bool = False, prompt: str = "a cat in a park", caption: str = "cat") -> Row:
    return Row(prompt, [Picture(BLUE, caption), Picture(BLUE, caption, marked)])


def test_a_sheet_is_a_png_and_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("new/one.png", "two.png"):
        write_sheet(tmp_path / name, [row(True), row()], ["before", "after"], title="Title")
    first = (tmp_path / "new/one.png").read_bytes()
    assert first == (tmp_path / "two.png").read_bytes()
    write_sheet(tmp_path / "two.png", [row(), row()], ["before", "after"], title="Title")
    assert first != (tmp_path / "two.png").read_bytes()
    assert Image.open(io.BytesIO(first)).format == "PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "two.png"]


def test_plain_tuples_and_other_modes_and_sizes_will_do() -> None:
    grey = Image.new("L", (30, 10), 200)
    image = draw_sheet([("p", [(grey, "", False), (BLUE.convert("RGBA"), "c", True)])], ["a", "b"])
    assert image.mode == "RGB"


def test_only_marked_pictures_are_framed_in_red() -> None:
    assert count(draw_sheet([row()], ["a", "b"]), RED) == 0
    one, two = (count(draw_sheet([row(True)] * n, ["a", "b"]), RED) for n in (1, 2))
    assert one > 4 * 6 * 180
    assert two == 2 * one


def test_the_frame_hides_nothing_of_the_picture() -> None:
    plain, marked = (count(draw_sheet([row(mark)], ["a", "b"]), (0, 0, 255)) for mark in (False, True))
    assert marked >= plain > 2 * 190 * 190


def test_long_prompts_and_captions_wrap_and_make_room() -> None:
    short = draw_sheet([row()], ["a", "b"])
    for tall in (row(prompt="word " * 100), row(caption="word " * 40), row(prompt="w" * 600)):
        image = draw_sheet([tall], ["a", "b"])
        assert image.width == short.width
        assert image.height > short.height


@pytest.mark.parametrize("text", ["a few words that wrap", "w" * 90, "", "one " + "w" * 90 + " two"])
def test_wrapping_loses_nothing_and_fits(text: str) -> None:
    font = ImageFont.load_default(18)
    lines = sheets._wrap(text, font, 120)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(0 < font.getlength(line) <= 120 for line in lines)


def test_letters_the_font_lacks_are_replaced_not_drawn_as_boxes() -> None:
    assert sheets._plain("Mütze é 猫") == "Mutze e ?"


def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Row 0 has 2 pictures, expected 3"):
        write_sheet(tmp_path / "x.png", [row()], ["a", "b", "c"])
    with pytest.raises(ValueError, match="at least one row"):
        write_sheet(tmp_path / "x.png", [], ["a"])
    assert not list(tmp_path.iterdir())
