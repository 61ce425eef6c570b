"""A pen that draws glyphs as flat shapes in a unit square.

Conventions: x grows to the right and y downwards, both in 0..1 of the tile; a colour is a name of
``INKS`` and is shifted by the palette; a variant is a small affine change applied to every point.
Shapes are drawn supersampled and reduced once, so that a 22 pixel glyph has smooth edges.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SUPERSAMPLE = 4

INKS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 49), "blue": (45, 105, 224), "green": (39, 160, 72), "yellow": (245, 205, 40),
    "purple": (140, 70, 190), "orange": (240, 135, 30),
    "black": (24, 24, 28), "white": (248, 248, 248), "grey": (140, 144, 150), "steel": (185, 195, 208),
    "brown": (121, 78, 44), "tan": (214, 178, 138), "skin": (236, 190, 152), "pink": (245, 130, 180),
    "crimson": (165, 10, 25), "lime": (165, 215, 50), "teal": (25, 150, 150), "sand": (235, 214, 160),
    "navy": (24, 36, 84), "sky": (150, 205, 245), "leaf": (66, 140, 60), "straw": (226, 190, 96),
    "ice": (222, 238, 248), "rock": (128, 116, 108), "sea": (40, 112, 170), "dusk": (246, 160, 96),
    "moon": (240, 236, 200), "charcoal": (62, 64, 72), "beige": (226, 206, 182), "gold": (230, 180, 40),
}  # fmt: skip


@dataclass(frozen=True)
class Palette:
    """A small change of every ink: hue in turns, saturation and value as factors."""

    hue: float = 0.0
    saturation: float = 1.0
    value: float = 1.0

    def rgb(self, ink: str) -> tuple[int, int, int]:
        """Return the ink's RGB (0..255) under this palette."""
        red, green, blue = (channel / 255 for channel in INKS[ink])
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        shifted = colorsys.hsv_to_rgb((h + self.hue) % 1.0, min(1.0, s * self.saturation), min(1.0, v * self.value))
        return (round(shifted[0] * 255), round(shifted[1] * 255), round(shifted[2] * 255))


@dataclass(frozen=True)
class Variant:
    """One way to draw a glyph: degrees of turn, factors of width and height, sideways lean, mirrored or not."""

    turn: float = 0.0
    wide: float = 1.0
    tall: float = 1.0
    lean: float = 0.0
    mirror: bool = False


Point = tuple[float, float]


class Pen:
    """Draws shapes of one glyph onto a transparent tile.

    Args:
        width: tile width in pixels.
        height: tile height in pixels.
        palette: how inks are shifted.
        variant: how points are moved about the centre of the tile.
    """

    def __init__(self, width: int, height: int, palette: Palette, variant: Variant) -> None:
        self._size = (width, height)
        self._palette = palette
        self._variant = variant
        self._image = Image.new("RGBA", (width * SUPERSAMPLE, height * SUPERSAMPLE), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self._image)

    def _place(self, point: Point) -> Point:
        v = self._variant
        x, y = point[0] - 0.5, point[1] - 0.5
        if v.mirror:
            x = -x
        x, y = x * v.wide + v.lean * y, y * v.tall
        angle = math.radians(v.turn)
        x, y = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)
        return (x + 0.5) * self._size[0] * SUPERSAMPLE, (y + 0.5) * self._size[1] * SUPERSAMPLE

    def polygon(self, points: Sequence[Point], ink: str) -> None:
        """Fill the polygon through the points."""
        self._draw.polygon([self._place(point) for point in points], fill=(*self._palette.rgb(ink), 255))

    def box(self, left: float, top: float, right: float, bottom: float, ink: str) -> None:
        """Fill an upright rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], ink)

    def ellipse(self, x: float, y: float, rx: float, ry: float, ink: str) -> None:
        """Fill an ellipse with centre (x, y) and radii rx, ry."""
        turns = [2 * math.pi * k / 28 for k in range(28)]
        self.polygon([(x + rx * math.cos(a), y + ry * math.sin(a)) for a in turns], ink)

    def line(self, points: Sequence[Point], thickness: float, ink: str) -> None:
        """Draw a line through the points; thickness is a share of the tile's width."""
        placed = [self._place(point) for point in points]
        width = max(1, round(thickness * self._size[0] * SUPERSAMPLE))
        fill = (*self._palette.rgb(ink), 255)
        self._draw.line(placed, fill=fill, width=width, joint="curve")
        for x, y in (placed[0], placed[-1]):
            r = width / 2 - 0.5
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def star(self, x: float, y: float, outer: float, inner: float, points: int, ink: str) -> None:
        """Fill a star with the given number of points."""
        corners = []
        for k in range(2 * points):
            radius = outer if k % 2 == 0 else inner
            angle = math.pi * k / points - math.pi / 2
            corners.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
        self.polygon(corners, ink)

    def tile(self) -> NDArray[np.float32]:
        """Return the tile as premultiplied RGBA, float32 in 0..1, shape (height, width, 4)."""
        pixels = np.asarray(self._image, dtype=np.float32) / np.float32(255)
        pixels[..., :3] *= pixels[..., 3:]
        width, height = self._size
        tile: NDArray[np.float32] = pixels.reshape(height, SUPERSAMPLE, width, SUPERSAMPLE, 4).mean(axis=(1, 3))
        return tile
