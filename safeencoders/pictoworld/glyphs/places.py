"""Glyphs of places, and the skies and lights of the times of day.

Conventions: a place fills the whole canvas of 64 x 64 pixels and leaves the sky transparent, its ground running
past both edges so that a turned or shrunk variant leaves no gap; a light is drawn for a tile of 14 x 14 pixels.
Coordinates are shares of the tile, and no feature is thinner than 2 pixels of a place or 1.5 of a light.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from safeencoders.pictoworld.pen import Pen


def _ground(pen: Pen, top: float, ink: str) -> None:
    """Fill everything below the given height, past all edges of the canvas."""
    pen.box(-0.3, top, 1.3, 1.3, ink)


def park(pen: Pen) -> None:
    """Draw a leaf green lawn with round trees and a hedge."""
    pen.box(-0.3, 0.54, 1.3, 0.66, "green")
    for x, y in ((0.14, 0.41), (0.5, 0.45), (0.86, 0.41)):
        pen.box(x - 0.03, y, x + 0.03, 0.64, "brown")
        pen.ellipse(x, y, 0.13, 0.11, "green")
    _ground(pen, 0.62, "leaf")


def beach(pen: Pen) -> None:
    """Draw sand below a band of sea, with a palm tree."""
    pen.box(-0.3, 0.48, 1.3, 0.64, "sea")
    _ground(pen, 0.6, "white")
    _ground(pen, 0.64, "sand")
    pen.line([(0.1, 0.68), (0.13, 0.52), (0.19, 0.38)], 0.045, "brown")
    for tip in ((0.02, 0.46), (0.06, 0.31), (0.31, 0.3), (0.37, 0.43)):
        pen.line([(0.19, 0.37), (0.5 * (tip[0] + 0.19), tip[1] - 0.05), tip], 0.05, "green")


def city(pen: Pen) -> None:
    """Draw charcoal towers with lit windows behind a grey road."""
    towers = ((-0.3, 0.14, 0.44), (0.17, 0.36, 0.32), (0.4, 0.58, 0.46), (0.62, 0.82, 0.3), (0.85, 1.3, 0.42))
    for left, right, top in towers:
        pen.box(left, top, right, 0.66, "charcoal")
    for x, top in ((0.04, 0.48), (0.2, 0.37), (0.285, 0.37), (0.47, 0.5), (0.655, 0.35), (0.745, 0.35), (0.9, 0.47)):
        for y in (top, top + 0.09):
            pen.box(x, y, x + 0.04, y + 0.045, "yellow")
    _ground(pen, 0.62, "grey")
    for x in (-0.1, 0.2, 0.5, 0.8):
        pen.box(x, 0.79, x + 0.16, 0.83, "white")


def desert(pen: Pen) -> None:
    """Draw orange and straw dunes with two cactuses."""
    pen.polygon([(-0.3, 0.7), (-0.3, 0.55), (0.1, 0.52), (0.4, 0.6), (0.75, 0.46), (1.3, 0.6), (1.3, 0.7)], "orange")
    _ground(pen, 0.6, "straw")
    pen.polygon([(-0.3, 1.3), (-0.3, 0.86), (0.3, 0.78), (0.8, 0.9), (1.3, 0.84), (1.3, 1.3)], "orange")
    for x, top in ((0.16, 0.34), (0.88, 0.4)):
        pen.line([(x, top), (x, 0.66)], 0.07, "green")
        pen.line([(x - 0.1, top + 0.07), (x - 0.1, top + 0.15), (x, top + 0.17)], 0.045, "green")
        pen.line([(x + 0.1, top + 0.04), (x + 0.1, top + 0.12), (x, top + 0.14)], 0.045, "green")


def farm(pen: Pen) -> None:
    """Draw a crimson barn and a white fence on yellow-green fields."""
    pen.polygon([(0.06, 0.64), (0.06, 0.46), (0.12, 0.36), (0.25, 0.3), (0.38, 0.36), (0.44, 0.46), (0.44, 0.64)],
                "crimson")  # fmt: skip
    pen.box(0.17, 0.46, 0.33, 0.64, "white")
    pen.box(0.21, 0.5, 0.29, 0.64, "crimson")
    for y in (0.52, 0.585):
        pen.box(0.5, y, 1.3, y + 0.035, "white")
    for x in (0.5, 0.66, 0.82, 0.98):
        pen.box(x, 0.48, x + 0.04, 0.64, "white")
    _ground(pen, 0.62, "lime")


def mountain(pen: Pen) -> None:
    """Draw rock peaks with white tops behind brown ground."""
    for x, top, half in ((0.06, 0.38, 0.32), (0.92, 0.36, 0.34), (0.48, 0.26, 0.36)):
        pen.polygon([(x - half, 0.68), (x, top), (x + half, 0.68)], "rock")
        cap = 0.36 * half
        low = top + 0.36 * (0.68 - top)
        pen.polygon([(x - cap, low), (x, top), (x + cap, low), (x + 0.4 * cap, low - 0.03), (x, low + 0.04),
                     (x - 0.4 * cap, low - 0.03)], "white")  # fmt: skip
    _ground(pen, 0.62, "brown")


def harbour(pen: Pen) -> None:
    """Draw sea water with a sailing boat and a wooden pier."""
    _ground(pen, 0.56, "sea")
    pen.box(0.26, 0.3, 0.3, 0.58, "charcoal")
    pen.polygon([(0.32, 0.3), (0.32, 0.52), (0.52, 0.52)], "white")
    pen.polygon([(0.24, 0.36), (0.24, 0.52), (0.1, 0.52)], "white")
    pen.polygon([(0.06, 0.55), (0.54, 0.55), (0.46, 0.66), (0.14, 0.66)], "crimson")
    for x in (0.68, 0.84, 0.98):
        pen.box(x, 0.46, x + 0.05, 0.74, "brown")
    pen.box(0.62, 0.52, 1.3, 0.6, "brown")
    for x, y in ((-0.02, 0.76), (0.36, 0.84), (0.72, 0.9)):
        pen.line([(x, y), (x + 0.07, y - 0.04), (x + 0.14, y), (x + 0.21, y - 0.04), (x + 0.28, y)], 0.04, "sky")


def glacier(pen: Pen) -> None:
    """Draw sharp teal ice blocks with pale faces on white ground."""
    blocks = ((0.02, 0.4, 0.2), (0.3, 0.5, 0.14), (0.9, 0.36, 0.22), (0.62, 0.46, 0.16))
    for x, top, half in blocks:
        pen.polygon([(x - half, 0.66), (x - 0.6 * half, top), (x + 0.5 * half, top + 0.05), (x + half, 0.66)], "teal")
        pen.polygon([(x - half, 0.66), (x - 0.6 * half, top), (x, top + 0.08), (x - 0.1 * half, 0.66)], "ice")
    _ground(pen, 0.62, "white")
    pen.polygon([(-0.3, 0.76), (0.3, 0.74), (0.5, 0.79), (-0.3, 0.84)], "ice")
    pen.polygon([(1.3, 0.84), (0.7, 0.85), (0.5, 0.9), (1.3, 0.94)], "ice")


def noon(pen: Pen) -> None:
    """Draw a yellow sun disc with rays."""
    pen.star(0.5, 0.5, 0.5, 0.28, 8, "orange")
    pen.ellipse(0.5, 0.5, 0.32, 0.32, "yellow")


def evening(pen: Pen) -> None:
    """Draw the upper half of an orange sun."""
    arc = [math.pi * k / 16 for k in range(17)]
    pen.polygon([(0.5 - 0.48 * math.cos(a), 0.74 - 0.5 * math.sin(a)) for a in arc], "orange")
    pen.box(0.02, 0.74, 0.98, 0.88, "crimson")


def night(pen: Pen) -> None:
    """Draw a crescent moon with one star."""
    outer = [math.pi * (0.28 + 1.44 * k / 20) for k in range(21)]
    rim = [(0.44 + 0.44 * math.cos(a), 0.5 + 0.46 * math.sin(a)) for a in outer]
    hollow = [(0.72 - 0.44 * math.sin(math.pi * k / 12), 0.14 + 0.72 * k / 12) for k in range(13)]
    pen.polygon(rim + hollow, "moon")
    pen.star(0.78, 0.5, 0.2, 0.09, 4, "moon")


PLACES: dict[str, Callable[[Pen], None]] = {
    "park": park, "beach": beach, "city": city, "desert": desert, "farm": farm, "mountain": mountain,
    "harbour": harbour, "glacier": glacier,
}  # fmt: skip

TIMES: dict[str, tuple[str, str]] = {
    "noon": ("sky", "ice"), "evening": ("purple", "dusk"), "night": ("black", "navy"),
}  # fmt: skip

LIGHTS: dict[str, Callable[[Pen], None]] = {"noon": noon, "evening": evening, "night": night}
