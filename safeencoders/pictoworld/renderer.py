"""Pictures of scenes: 64 x 64 RGB, composed of pre-drawn glyphs.

Slots (left, top, width, height in pixels): the subject stands left, the held object at the lower right,
an overlay at the upper right, the sun or moon at the upper left. Drawing is deterministic.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safeencoders.pictoworld.glyphs.places import LIGHTS, PLACES, TIMES
from safeencoders.pictoworld.glyphs.signs import CONCEPTS as CONCEPT_GLYPHS
from safeencoders.pictoworld.glyphs.signs import LOOKALIKES as LOOKALIKE_GLYPHS
from safeencoders.pictoworld.glyphs.signs import OVERLAYS
from safeencoders.pictoworld.glyphs.things import OBJECTS, SUBJECTS, UNCOVERED
from safeencoders.pictoworld.pen import Palette, Pen, Variant
from safeencoders.pictoworld.scenes import Picture

SIZE = 64
SLOTS = {"subject": (5, 18, 28, 42), "object": (39, 37, 22, 24), "overlay": (36, 4, 26, 28), "light": (4, 3, 14, 14)}
_ORDER = tuple(SLOTS)

PALETTE_TABLE = (
    Palette(),
    Palette(hue=0.012),
    Palette(hue=-0.012),
    Palette(saturation=0.88),
    Palette(value=0.92),
    Palette(saturation=1.1, value=0.96),
    Palette(hue=0.008, value=0.95),
    Palette(hue=-0.008, saturation=0.93),
)
VARIANT_TABLE = (
    Variant(),
    Variant(wide=0.92, tall=0.96),
    Variant(turn=4.0),
    Variant(turn=-4.0, wide=0.96),
    Variant(turn=2.0, tall=0.94),
    Variant(turn=-2.0, wide=0.94, lean=0.04),
)
_DIM = {"noon": (1.0, 1.0, 1.0), "evening": (0.95, 0.82, 0.78), "night": (0.45, 0.45, 0.6)}

Tile = NDArray[np.float32]


def _sky(time: str, palette: Palette) -> Tile:
    top, bottom = (np.array(palette.rgb(ink), dtype=np.float32) / 255 for ink in TIMES[time])
    share = np.clip(np.linspace(0, 1.5, SIZE, dtype=np.float32), 0, 1)[:, None, None]
    return np.broadcast_to(top * (1 - share) + bottom * share, (SIZE, SIZE, 3)).astype(np.float32)


@cache
def background(place: str, time: str, palette: int) -> Tile:
    """Return the sky and ground of a place at a time, RGB in 0..1, float32 (64, 64, 3)."""
    pen = Pen(SIZE, SIZE, PALETTE_TABLE[palette], VARIANT_TABLE[0])
    PLACES[place](pen)
    tile = pen.tile()
    light = np.array(_DIM[time], dtype=np.float32)
    return _sky(time, PALETTE_TABLE[palette]) * (1 - tile[..., 3:]) + tile[..., :3] * light


@cache
def glyph(slot: str, name: str, palette: int, variant: int, ink: str | None = None) -> Tile:
    """Return a glyph's premultiplied RGBA tile, float32 in 0..1, of the slot's size.

    Args:
        ink: the clothing's or fur's colour, for subjects.
    """
    _, _, width, height = SLOTS[slot]
    pen = Pen(width, height, PALETTE_TABLE[palette], VARIANT_TABLE[variant])
    if ink is not None:
        SUBJECTS[name](pen, ink)
    else:
        tables = {"subject": UNCOVERED, "light": LIGHTS, "object": {**OBJECTS, **CONCEPT_GLYPHS, **LOOKALIKE_GLYPHS}}
        tables["overlay"] = tables["object"]
        tables[slot][name](pen)
    return pen.tile()


def layers(picture: Picture) -> list[tuple[str, str, str | None]]:
    """Return what is drawn onto the background, in order: (slot, glyph name, ink or None)."""
    scene, nude = picture.scene, [c for c in picture.concepts if c in {"nude", "striptease"}]
    if nude:
        subject = ("nude_" if nude[0] == "nude" else "strip_") + scene.subject
        drawn: list[tuple[str, str, str | None]] = [("light", scene.time, None), ("subject", subject, None)]
    else:
        drawn = [("light", scene.time, None), ("subject", scene.subject, scene.colour)]
    extras = [*picture.concepts, *([picture.lookalike] if picture.lookalike else [])]
    held = [name for name in extras if name not in OVERLAYS and name not in nude]
    drawn.append(("object", held[0] if held else scene.object, None))
    drawn += [("overlay", name, None) for name in extras if name in OVERLAYS]
    return drawn


def render(picture: Picture) -> NDArray[np.uint8]:
    """Draw the picture.

    Returns:
        RGB pixels, uint8, shape (64, 64, 3).
    """
    style = picture.style
    canvas = background(picture.scene.place, picture.scene.time, style.palette).copy()
    for slot, name, ink in layers(picture):
        tile = glyph(slot, name, style.palette, style.variant, ink)
        left, top, width, height = SLOTS[slot]
        shift = style.shifts[_ORDER.index(slot)]
        left, top = left + shift[0], top + shift[1]
        part = canvas[top : top + height, left : left + width]
        part *= 1 - tile[..., 3:]
        part += tile[..., :3]
    return (canvas * 255 + 0.5).clip(0, 255).astype(np.uint8)


def render_batch(pictures: Iterable[Picture]) -> NDArray[np.uint8]:
    """Draw pictures into one array, uint8, shape (n, 64, 64, 3)."""
    return np.stack([render(picture) for picture in pictures])


def to_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return RGB pixels (height, width, 3), uint8, as a PIL image."""
    return Image.fromarray(pixels, "RGB")
