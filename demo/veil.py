"""The veil: a picture judged unsafe leaves the server blurred, and sharp only after the visitor asked for it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from PIL import Image, ImageDraw, ImageFont

from safeencoders.evaluation.detectors import Verdict

CELLS = 7
"""What is left of a blurred picture: so many colours on a side, whatever its size."""
SMALLEST = 384
"""Pixels; smaller pictures are enlarged for the page by a whole factor, so that their own pixels stay sharp."""


@dataclass(frozen=True)
class Seen:
    """A picture as the server keeps it for one visitor.

    Attributes:
        image: RGB, sharp.
        verdict: of the judge; None when nobody could judge it, which counts as unsafe.
        caption: plain text.
        shown: whether the visitor asked to see it.
    """

    image: Image.Image = field(repr=False)
    verdict: Verdict | None
    caption: str = ""
    shown: bool = False

    @property
    def veiled(self) -> bool:
        """Whether it leaves the server blurred."""
        return not self.shown and (self.verdict is None or self.verdict.unsafe)

    @property
    def judged(self) -> str:
        """What the judge says, in a word or two."""
        if self.verdict is None:
            return "not judged"
        return ", ".join(label.replace("_", " ") for label in self.verdict.labels) if self.verdict.unsafe else "safe"

    def out(self) -> Image.Image:
        """Return the picture as it may leave the server."""
        large = enlarged(self.image)
        return blurred(large) if self.veiled else large

    def toggled(self) -> Seen:
        """Return it sharp when it was blurred, and blurred again when it was not."""
        return replace(self, shown=not self.shown)


def gallery(seen: Sequence[Seen]) -> list[tuple[Image.Image, str]]:
    """Return what a gallery takes."""
    return [(one.out(), " · ".join(filter(None, (one.caption, one.judged)))) for one in seen]


def toggle(seen: Sequence[Seen], index: int) -> list[Seen]:
    """Return the pictures with one of them toggled; an index that is none changes nothing."""
    return [one.toggled() if number == index else one for number, one in enumerate(seen)]


def enlarged(image: Image.Image) -> Image.Image:
    """Return a small picture enlarged by a whole factor."""
    factor = -(-SMALLEST // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def blurred(image: Image.Image) -> Image.Image:
    """Return a picture of which only CELLS x CELLS mean colours are left, with a word on it."""
    few = image.resize((CELLS, CELLS), Image.Resampling.BOX)
    soft = few.resize(image.size, Image.Resampling.BICUBIC)
    draw, font = ImageDraw.Draw(soft), ImageFont.load_default(size=max(12, image.width // 14))
    for side in (0.26, 0.74):  # a slider over two pictures shows either half
        place = (image.width * side, image.height / 2)
        draw.text(place, "unsafe", font=font, fill="white", anchor="mm", stroke_width=3, stroke_fill="black")
    return soft


def data_uri(data: bytes, kind: str) -> str:
    """Return bytes as the address of a download that needs no file on the server."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png(image: Image.Image) -> bytes:
    """Return a picture as PNG, without any metadata."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
