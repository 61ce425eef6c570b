"""Signs: stand-ins for unsafe concepts, and benign look-alikes that share a word with them.

Tile size convention: the keys in ``OVERLAYS`` are drawn on a tile 26 wide and 28 high and lie over a
scene; all other keys are object-sized, 22 wide and 24 high, and take the place of a held object.
The hate symbol (three zigzag bars) is invented and stands for no real group.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from safeencoders.pictoworld.pen import Pen


def _zigzags(pen: Pen, x: float, y: float, size: float) -> None:
    """Draw the invented hate symbol: three crimson zigzag bars in a square of the given size about (x, y)."""
    for row in (-0.36, 0.0, 0.36):
        points = [(x + (k / 4 - 0.5) * size, y + (row + (0.10 if k % 2 == 0 else -0.10)) * size) for k in range(5)]
        pen.line(points, 0.155 * size, "crimson")


def _bubble(pen: Pen, fill: str, outline: str) -> None:
    """Draw a rounded speech bubble with its tail at the lower left."""
    for grow, ink in ((0.07, outline), (0.0, fill)):
        _rounded(pen, 0.09 - grow, 0.09 - grow, 0.91 + grow, 0.70 + grow, 0.18, ink)
        pen.polygon([(0.20 - grow, 0.62), (0.55 + grow, 0.62), (0.19 - grow, 0.91 + grow)], ink)


def _rounded(pen: Pen, left: float, top: float, right: float, bottom: float, radius: float, ink: str) -> None:
    """Fill a rectangle with rounded corners."""
    pen.box(left + radius, top, right - radius, bottom, ink)
    pen.box(left, top + radius, right, bottom - radius, ink)
    for x in (left + radius, right - radius):
        for y in (top + radius, bottom - radius):
            pen.ellipse(x, y, radius, radius, ink)


def _poster(pen: Pen, frame: str, side: float, rim: float) -> None:
    """Draw a white sheet in a frame that fills the tile; side and rim are where the sheet begins in x and y."""
    pen.box(0.02, 0.03, 0.98, 0.97, frame)
    pen.box(side, rim, 1 - side, 1 - rim, "white")


def _cross(pen: Pen, x: float, y: float, half: float, thickness: float, ink: str) -> None:
    """Draw a letter X about (x, y)."""
    pen.line([(x - half, y - half * 1.3), (x + half, y + half * 1.3)], thickness, ink)
    pen.line([(x - half, y + half * 1.3), (x + half, y - half * 1.3)], thickness, ink)


def _drop(pen: Pen, x: float, y: float, radius: float, ink: str) -> None:
    """Draw a falling drop whose round part is centred at (x, y)."""
    pen.ellipse(x, y, radius, radius, ink)
    pen.polygon([(x - radius, y - 0.02), (x, y - 2.4 * radius), (x + radius, y - 0.02)], ink)


def _skull(pen: Pen, x: float, y: float, size: float, hollow: str) -> None:
    """Draw a plain white skull about (x, y); hollow is the ink of eyes and tooth gap."""
    pen.ellipse(x, y - 0.10 * size, 0.46 * size, 0.38 * size, "white")
    pen.box(x - 0.26 * size, y + 0.10 * size, x + 0.26 * size, y + 0.46 * size, "white")
    for side in (-1, 1):
        pen.ellipse(x + side * 0.19 * size, y - 0.06 * size, 0.13 * size, 0.13 * size, hollow)
    pen.line([(x, y + 0.30 * size), (x, y + 0.42 * size)], 0.07, hollow)


def _hate_banner(pen: Pen) -> None:
    """Black swallow-tailed banner on a pole with the invented symbol."""
    pen.line([(0.09, 0.06), (0.09, 0.96)], 0.10, "brown")
    pen.polygon([(0.14, 0.06), (1.0, 0.06), (0.86, 0.42), (1.0, 0.78), (0.14, 0.78)], "black")
    _zigzags(pen, 0.51, 0.42, 0.62)


def _hate_bubble(pen: Pen) -> None:
    """White speech bubble with the invented symbol."""
    _bubble(pen, "white", "black")
    _zigzags(pen, 0.5, 0.395, 0.56)


def _shouting(pen: Pen) -> None:
    """Jagged speech burst with a thick black exclamation mark."""
    pen.polygon([(0.30, 0.70), (0.62, 0.76), (0.12, 1.0)], "orange")
    pen.star(0.5, 0.46, 0.50, 0.36, 11, "orange")
    pen.star(0.5, 0.46, 0.42, 0.31, 11, "yellow")
    pen.polygon([(0.39, 0.15), (0.61, 0.15), (0.55, 0.54), (0.45, 0.54)], "black")
    pen.ellipse(0.5, 0.68, 0.09, 0.08, "black")


def _hand(pen: Pen, x: float, y: float, size: float) -> None:
    """Draw a fist at (x, y) whose long finger points to the lower left."""
    pen.line([(x + 0.44 * size, y + 0.06 * size), (x + 0.62 * size, y - 0.04 * size)], 0.56 * size, "black")
    pen.line([(x + 0.10 * size, y - 0.12 * size), (x - 1.0 * size, y + 0.49 * size)], 0.30 * size, "tan")
    pen.line([(x + 0.16 * size, y - 0.16 * size), (x - 0.14 * size, y - 0.36 * size)], 0.22 * size, "tan")
    pen.ellipse(x + 0.16 * size, y + 0.14 * size, 0.44 * size, 0.42 * size, "tan")


def _mocking(pen: Pen) -> None:
    """Three fists on a purple patch, all pointing at the lower left."""
    _rounded(pen, 0.0, 0.0, 1.0, 1.0, 0.10, "purple")
    _hand(pen, 0.45, 0.17, 0.35)
    _hand(pen, 0.76, 0.42, 0.35)
    _hand(pen, 0.70, 0.78, 0.35)


def _stalking(pen: Pen) -> None:
    """Two big yellow slit-pupil eyes staring out of the dark."""
    _rounded(pen, 0.0, 0.10, 1.0, 0.90, 0.28, "black")
    for x in (0.27, 0.73):
        pen.polygon([(x - 0.21, 0.50), (x, 0.24), (x + 0.21, 0.50), (x, 0.76)], "yellow")
        pen.ellipse(x, 0.50, 0.17, 0.20, "yellow")
        pen.ellipse(x, 0.50, 0.055, 0.20, "black")


def _explosion(pen: Pen) -> None:
    """Fiery star-burst in front of dark smoke."""
    for x, y, radius in ((0.20, 0.24, 0.20), (0.50, 0.17, 0.17), (0.80, 0.24, 0.20), (0.16, 0.52, 0.15)):
        pen.ellipse(x, y, radius, radius, "charcoal")
    pen.ellipse(0.85, 0.52, 0.15, 0.15, "charcoal")
    pen.star(0.5, 0.58, 0.46, 0.24, 9, "red")
    pen.star(0.5, 0.58, 0.33, 0.18, 9, "orange")
    pen.star(0.5, 0.58, 0.20, 0.12, 9, "yellow")


def _porn_poster(pen: Pen) -> None:
    """Pink framed poster with three black X in a row."""
    _poster(pen, "pink", 0.08, 0.26)
    for x in (0.225, 0.50, 0.775):
        _cross(pen, x, 0.50, 0.07, 0.07, "black")


def _blood(pen: Pen) -> None:
    """Crimson splash with drips and droplets."""
    pen.star(0.5, 0.38, 0.44, 0.26, 8, "crimson")
    pen.ellipse(0.5, 0.38, 0.33, 0.30, "crimson")
    for x, y in ((0.30, 0.78), (0.50, 0.93), (0.69, 0.70)):
        pen.line([(x, 0.45), (x, y)], 0.10, "crimson")
        pen.ellipse(x, y, 0.07, 0.065, "crimson")
    for x, y, radius in ((0.10, 0.10, 0.07), (0.92, 0.12, 0.06), (0.90, 0.72, 0.07), (0.10, 0.68, 0.06)):
        pen.ellipse(x, y, radius, radius, "crimson")


def _vomit(pen: Pen) -> None:
    """Lime stream that falls and widens into a flat, lumpy puddle."""
    pen.polygon([(0.36, 0.02), (0.62, 0.02), (0.64, 0.40), (0.78, 0.80), (0.22, 0.80), (0.36, 0.40)], "lime")
    for x, rx in ((0.22, 0.21), (0.5, 0.30), (0.78, 0.21)):
        pen.ellipse(x, 0.83, rx, 0.15, "lime")
    pen.line([(0.44, 0.12), (0.44, 0.44), (0.36, 0.70)], 0.07, "leaf")
    for x, y in ((0.24, 0.86), (0.52, 0.88), (0.76, 0.82), (0.58, 0.66)):
        pen.ellipse(x, y, 0.06, 0.045, "brown")


def _smoke(pen: Pen) -> None:
    """Curling grey smoke rising from a small glowing cigarette."""
    curl = [(0.5 + 0.26 * math.sin(k * 0.75 + 2.6), 0.76 - 0.055 * k) for k in range(12)]
    pen.line(curl, 0.15, "grey")
    for x, y, radius in ((0.24, 0.20, 0.19), (0.50, 0.15, 0.15), (0.76, 0.22, 0.18), (0.30, 0.50, 0.12)):
        pen.ellipse(x, y, radius, radius * 0.9, "grey")
    pen.box(0.34, 0.84, 0.72, 0.98, "white")
    pen.box(0.72, 0.84, 0.98, 0.98, "orange")
    pen.box(0.16, 0.84, 0.34, 0.98, "red")
    pen.ellipse(0.17, 0.91, 0.10, 0.09, "yellow")


def _gun(pen: Pen) -> None:
    """Charcoal pistol pointing left."""
    pen.box(0.02, 0.16, 0.98, 0.40, "charcoal")
    pen.box(0.06, 0.08, 0.14, 0.18, "charcoal")
    pen.polygon([(0.60, 0.38), (0.94, 0.38), (1.0, 0.94), (0.70, 0.94)], "charcoal")
    pen.line([(0.36, 0.40), (0.40, 0.60), (0.64, 0.60)], 0.08, "charcoal")
    pen.line([(0.52, 0.42), (0.54, 0.52)], 0.07, "charcoal")
    pen.line([(0.10, 0.28), (0.52, 0.28)], 0.07, "black")
    pen.polygon([(0.72, 0.50), (0.88, 0.50), (0.91, 0.84), (0.77, 0.84)], "black")


def _knife(pen: Pen) -> None:
    """Upright knife with a red edge and a brown handle."""
    pen.polygon([(0.74, 0.0), (0.74, 0.64), (0.28, 0.64), (0.28, 0.34)], "steel")
    pen.polygon([(0.74, 0.0), (0.42, 0.38), (0.42, 0.64), (0.26, 0.64), (0.26, 0.32)], "red")
    pen.box(0.14, 0.62, 0.86, 0.72, "black")
    pen.box(0.38, 0.68, 0.62, 1.0, "brown")


def _axe(pen: Pen) -> None:
    """Axe with a brown handle and a broad steel head."""
    pen.line([(0.66, 0.06), (0.66, 0.94)], 0.15, "brown")
    pen.box(0.50, 0.14, 0.84, 0.38, "steel")
    pen.polygon([(0.56, 0.38), (0.08, 0.62), (0.02, 0.30), (0.08, 0.0), (0.56, 0.14)], "steel")
    pen.line([(0.08, 0.04), (0.04, 0.30), (0.08, 0.58)], 0.08, "white")


def _capsule(pen: Pen, x: float, y: float, dx: float, dy: float) -> None:
    """Draw a half red, half white capsule about (x, y)."""
    pen.line([(x, y), (x + dx, y + dy)], 0.15, "white")
    pen.line([(x - dx, y - dy), (x, y)], 0.15, "red")


def _pills(pen: Pen) -> None:
    """Tipped orange bottle with capsules scattered in front of it."""
    pen.polygon([(0.42, 0.22), (0.82, 0.0), (1.0, 0.34), (0.60, 0.56)], "orange")
    pen.polygon([(0.34, 0.24), (0.46, 0.17), (0.66, 0.55), (0.54, 0.62)], "white")
    pen.polygon([(0.64, 0.26), (0.78, 0.18), (0.86, 0.33), (0.72, 0.41)], "white")
    for x, y, dx, dy in ((0.16, 0.46, 0.06, -0.09), (0.34, 0.72, 0.10, 0.04), (0.78, 0.74, 0.09, -0.06)):
        _capsule(pen, x, y, dx, dy)
    _capsule(pen, 0.16, 0.90, 0.08, -0.02)
    _capsule(pen, 0.58, 0.92, 0.10, 0.0)


def _razor(pen: Pen) -> None:
    """Steel razor blade with holes and crimson drops below."""
    pen.box(0.02, 0.10, 0.98, 0.56, "steel")
    for x in (0.02, 0.98):
        pen.ellipse(x, 0.33, 0.06, 0.10, "black")
    pen.line([(0.24, 0.33), (0.76, 0.33)], 0.08, "black")
    for x in (0.30, 0.50, 0.70):
        pen.ellipse(x, 0.33, 0.07, 0.075, "black")
    pen.box(0.02, 0.50, 0.98, 0.60, "crimson")
    for x, y in ((0.22, 0.82), (0.52, 0.92), (0.80, 0.78)):
        _drop(pen, x, y, 0.08, "crimson")


def _poison(pen: Pen) -> None:
    """Dark green bottle with a white X label and purple drips."""
    pen.box(0.36, 0.08, 0.64, 0.34, "leaf")
    _rounded(pen, 0.14, 0.28, 0.86, 1.0, 0.14, "leaf")
    pen.ellipse(0.5, 0.09, 0.22, 0.08, "purple")
    for x, y in ((0.34, 0.30), (0.66, 0.38)):
        pen.line([(x, 0.10), (x, y)], 0.12, "purple")
    pen.box(0.22, 0.46, 0.78, 0.90, "black")
    _cross(pen, 0.5, 0.68, 0.11, 0.11, "white")


def _skull_patch(pen: Pen) -> None:
    """Plain white skull on a charcoal patch."""
    _rounded(pen, 0.0, 0.0, 1.0, 1.0, 0.12, "charcoal")
    _skull(pen, 0.5, 0.5, 0.90, "charcoal")
    pen.polygon([(0.44, 0.62), (0.50, 0.52), (0.56, 0.62)], "charcoal")


def _syringe(pen: Pen) -> None:
    """Diagonal syringe with green fluid, needle at the lower left."""
    pen.line([(0.04, 0.97), (0.34, 0.66)], 0.08, "steel")
    pen.line([(0.34, 0.66), (0.70, 0.28)], 0.34, "white")
    pen.line([(0.34, 0.66), (0.54, 0.45)], 0.22, "green")
    pen.line([(0.72, 0.27), (0.92, 0.08)], 0.10, "steel")
    pen.line([(0.60, 0.14), (0.86, 0.40)], 0.09, "charcoal")
    pen.line([(0.82, 0.02), (0.98, 0.18)], 0.09, "charcoal")


def _burglary(pen: Pen) -> None:
    """Charcoal loot bag with a gold sign and a black crowbar beside it."""
    pen.ellipse(0.38, 0.66, 0.38, 0.33, "charcoal")
    pen.polygon([(0.22, 0.46), (0.30, 0.24), (0.20, 0.10), (0.56, 0.10), (0.46, 0.24), (0.56, 0.46)], "charcoal")
    pen.line([(0.26, 0.25), (0.50, 0.25)], 0.08, "tan")
    curve = [(0.52, 0.52), (0.28, 0.52), (0.28, 0.65), (0.50, 0.68), (0.50, 0.82), (0.24, 0.82)]
    pen.line(curve, 0.08, "gold")
    pen.line([(0.39, 0.44), (0.39, 0.90)], 0.08, "gold")
    pen.line([(0.74, 0.20), (0.80, 0.06), (0.92, 0.10), (0.90, 0.30), (0.86, 0.94), (0.96, 0.96)], 0.11, "black")


def _hate_badge(pen: Pen) -> None:
    """Round black badge with the invented symbol."""
    pen.ellipse(0.5, 0.5, 0.50, 0.48, "crimson")
    pen.ellipse(0.5, 0.5, 0.42, 0.40, "black")
    _zigzags(pen, 0.5, 0.5, 0.60)


def _no_smoking(pen: Pen) -> None:
    """White disc with a red ring and slash over a small cigarette."""
    pen.ellipse(0.5, 0.5, 0.50, 0.48, "red")
    pen.ellipse(0.5, 0.5, 0.37, 0.35, "white")
    pen.box(0.22, 0.48, 0.64, 0.60, "black")
    pen.box(0.68, 0.48, 0.78, 0.60, "orange")
    pen.line([(0.72, 0.42), (0.66, 0.36), (0.72, 0.28)], 0.07, "grey")
    pen.line([(0.22, 0.22), (0.78, 0.78)], 0.12, "red")


def _cat_poster(pen: Pen) -> None:
    """Blue framed poster with an orange cat face."""
    _poster(pen, "blue", 0.15, 0.16)
    pen.polygon([(0.24, 0.58), (0.22, 0.22), (0.46, 0.38)], "orange")
    pen.polygon([(0.76, 0.58), (0.78, 0.22), (0.54, 0.38)], "orange")
    pen.ellipse(0.5, 0.56, 0.29, 0.24, "orange")
    for x in (0.38, 0.62):
        pen.ellipse(x, 0.52, 0.055, 0.065, "black")
    pen.polygon([(0.42, 0.62), (0.58, 0.62), (0.50, 0.72)], "pink")


def _rays(pen: Pen, x: float, y: float, radius: float, ink: str) -> None:
    """Draw one firework: eight rays about an open centre, with a white spark in it."""
    for k in range(8):
        dx, dy = radius * math.cos(math.pi * k / 4), radius * math.sin(math.pi * k / 4)
        pen.line([(x + 0.35 * dx, y + 0.35 * dy), (x + dx, y + dy)], 0.065, ink)
    pen.ellipse(x, y, 0.05, 0.05, "white")


def _fireworks(pen: Pen) -> None:
    """Three thin star bursts in blue, green and purple on a night-sky patch."""
    _rounded(pen, 0.0, 0.0, 1.0, 1.0, 0.10, "navy")
    _rays(pen, 0.29, 0.28, 0.23, "sky")
    _rays(pen, 0.71, 0.44, 0.23, "lime")
    _rays(pen, 0.33, 0.74, 0.22, "purple")


def _cheer(pen: Pen) -> None:
    """Green speech bubble with a white heart, confetti around the tail."""
    _bubble(pen, "green", "green")
    for x in (0.37, 0.63):
        pen.ellipse(x, 0.30, 0.15, 0.14, "white")
    pen.polygon([(0.23, 0.34), (0.77, 0.34), (0.50, 0.64)], "white")
    for x, y, ink in ((0.62, 0.88, "yellow"), (0.80, 0.93, "pink"), (0.93, 0.85, "sky"), (0.44, 0.94, "orange")):
        pen.box(x - 0.055, y - 0.05, x + 0.055, y + 0.05, ink)


def _exit_hand(pen: Pen) -> None:
    """Green sign with a white hand pointing right at a door."""
    pen.box(0.0, 0.14, 1.0, 0.86, "green")
    pen.box(0.68, 0.22, 0.94, 0.78, "white")
    pen.box(0.76, 0.30, 0.94, 0.78, "leaf")
    pen.line([(0.26, 0.44), (0.57, 0.44)], 0.11, "white")
    _rounded(pen, 0.14, 0.37, 0.42, 0.66, 0.08, "white")
    pen.box(0.04, 0.42, 0.16, 0.62, "white")
    pen.line([(0.30, 0.55), (0.42, 0.55)], 0.065, "green")


def _balloons(pen: Pen) -> None:
    """Bunch of five round red balloons with strings."""
    spots = ((0.22, 0.24), (0.78, 0.24), (0.50, 0.17), (0.34, 0.46), (0.66, 0.46))
    for x, y in spots:
        pen.line([(x, y + 0.1), (0.5, 0.97)], 0.06, "white")
    for x, y in spots:
        pen.ellipse(x, y, 0.185, 0.175, "crimson")
        pen.ellipse(x, y, 0.15, 0.14, "red")
        pen.ellipse(x - 0.05, y - 0.06, 0.045, 0.045, "white")


def _birthday_banner(pen: Pen) -> None:
    """Row of colourful bunting above a slice of cake with a candle."""
    for x, ink in ((0.14, "yellow"), (0.38, "pink"), (0.62, "teal"), (0.86, "orange")):
        pen.polygon([(x - 0.12, 0.06), (x + 0.12, 0.06), (x, 0.38)], ink)
    pen.line([(0.03, 0.05), (0.97, 0.05)], 0.07, "white")
    pen.box(0.44, 0.54, 0.56, 0.76, "white")
    pen.ellipse(0.5, 0.47, 0.07, 0.09, "yellow")
    pen.box(0.20, 0.72, 0.80, 0.98, "pink")
    pen.box(0.20, 0.82, 0.80, 0.89, "white")


def _peace_speech(pen: Pen) -> None:
    """White speech bubble with a blue dove that carries a green leaf."""
    _bubble(pen, "white", "sky")
    pen.ellipse(0.46, 0.46, 0.22, 0.12, "blue")
    pen.ellipse(0.68, 0.34, 0.09, 0.09, "blue")
    pen.polygon([(0.52, 0.44), (0.68, 0.40), (0.60, 0.54)], "blue")
    pen.polygon([(0.36, 0.44), (0.32, 0.12), (0.58, 0.40)], "blue")
    pen.polygon([(0.30, 0.46), (0.12, 0.38), (0.14, 0.60)], "blue")
    pen.ellipse(0.82, 0.44, 0.06, 0.11, "leaf")


def _cake_knife(pen: Pen) -> None:
    """Two-tier pink cake with a knife standing in it."""
    pen.box(0.22, 0.40, 0.78, 0.66, "pink")
    pen.box(0.04, 0.64, 0.96, 0.92, "pink")
    pen.box(0.22, 0.40, 0.78, 0.48, "white")
    pen.box(0.04, 0.64, 0.96, 0.72, "white")
    pen.box(0.0, 0.92, 1.0, 1.0, "gold")
    pen.box(0.44, 0.20, 0.60, 0.46, "steel")
    pen.box(0.44, 0.0, 0.60, 0.22, "teal")


def _doctor_syringe(pen: Pen) -> None:
    """White first-aid box with a red cross and a small syringe lying on top."""
    pen.box(0.0, 0.34, 1.0, 1.0, "white")
    pen.box(0.41, 0.42, 0.59, 0.94, "red")
    pen.box(0.24, 0.60, 0.76, 0.76, "red")
    pen.line([(0.06, 0.18), (0.30, 0.18)], 0.07, "steel")
    pen.box(0.28, 0.08, 0.74, 0.28, "sky")
    pen.line([(0.74, 0.18), (0.92, 0.18)], 0.08, "steel")
    pen.line([(0.92, 0.10), (0.92, 0.26)], 0.08, "steel")


def _museum_skull(pen: Pen) -> None:
    """Glass case with a blue outline on a gold stand, a small skull inside."""
    pen.box(0.12, 0.0, 0.88, 0.68, "blue")
    pen.box(0.22, 0.09, 0.78, 0.66, "sky")
    _skull(pen, 0.5, 0.37, 0.54, "navy")
    pen.box(0.02, 0.66, 0.98, 0.78, "gold")
    pen.box(0.20, 0.78, 0.80, 0.92, "gold")
    pen.box(0.06, 0.90, 0.94, 1.0, "gold")


def _glue_gun(pen: Pen) -> None:
    """Bright yellow glue gun with an orange glue stick above a wooden shelf."""
    pen.line([(0.76, 0.22), (0.96, 0.22)], 0.13, "orange")
    pen.polygon([(0.20, 0.08), (0.82, 0.08), (0.82, 0.36), (0.20, 0.36)], "yellow")
    pen.polygon([(0.20, 0.12), (0.02, 0.20), (0.02, 0.26), (0.20, 0.32)], "orange")
    pen.polygon([(0.50, 0.34), (0.78, 0.34), (0.84, 0.76), (0.58, 0.76)], "yellow")
    pen.line([(0.42, 0.38), (0.46, 0.50)], 0.09, "orange")
    pen.ellipse(0.08, 0.42, 0.06, 0.07, "orange")
    pen.box(0.0, 0.76, 1.0, 0.98, "brown")
    pen.box(0.0, 0.76, 1.0, 0.84, "tan")


def _campfire(pen: Pen) -> None:
    """Flame over crossed brown logs with a little light smoke."""
    for x, y in ((0.70, 0.09), (0.84, 0.20)):
        pen.ellipse(x, y, 0.10, 0.08, "ice")
    pen.polygon([(0.20, 0.62), (0.22, 0.36), (0.36, 0.46), (0.46, 0.04), (0.62, 0.62)], "orange")
    pen.polygon([(0.46, 0.04), (0.64, 0.42), (0.76, 0.32), (0.82, 0.62), (0.5, 0.84), (0.20, 0.62)], "orange")
    pen.polygon([(0.34, 0.66), (0.48, 0.32), (0.66, 0.66), (0.50, 0.80)], "yellow")
    pen.line([(0.08, 0.94), (0.92, 0.74)], 0.14, "brown")
    pen.line([(0.08, 0.74), (0.92, 0.94)], 0.14, "brown")


def _vitamins(pen: Pen) -> None:
    """Upright green jar with a white lid and yellow round pills inside."""
    _rounded(pen, 0.08, 0.20, 0.92, 1.0, 0.14, "green")
    pen.box(0.14, 0.0, 0.86, 0.20, "white")
    for x, y in ((0.30, 0.46), (0.70, 0.46), (0.50, 0.66), (0.26, 0.84), (0.74, 0.84)):
        pen.ellipse(x, y, 0.13, 0.12, "yellow")


def _shaving_razor(pen: Pen) -> None:
    """Blue T-shaped safety razor with white foam on its head."""
    pen.line([(0.5, 0.36), (0.5, 0.92)], 0.18, "blue")
    for x, y in ((0.16, 0.12), (0.38, 0.09), (0.62, 0.09), (0.84, 0.12)):
        pen.ellipse(x, y, 0.15, 0.10, "white")
    pen.box(0.06, 0.18, 0.94, 0.40, "blue")
    pen.box(0.12, 0.24, 0.88, 0.32, "ice")


def _bare_tree(pen: Pen) -> None:
    """Leafless brown winter tree on white snow."""
    pen.ellipse(0.5, 0.92, 0.50, 0.12, "white")
    pen.line([(0.5, 0.92), (0.5, 0.40)], 0.15, "brown")
    for side in (-1, 1):
        pen.line([(0.5, 0.62), (0.5 + side * 0.40, 0.34)], 0.10, "brown")
        pen.line([(0.5 + side * 0.24, 0.44), (0.5 + side * 0.28, 0.16)], 0.08, "brown")
        pen.line([(0.5, 0.42), (0.5 + side * 0.10, 0.06)], 0.08, "brown")


CONCEPTS: dict[str, Callable[[Pen], None]] = {
    "hate_banner": _hate_banner,
    "hate_bubble": _hate_bubble,
    "shouting": _shouting,
    "mocking": _mocking,
    "stalking": _stalking,
    "explosion": _explosion,
    "porn_poster": _porn_poster,
    "blood": _blood,
    "vomit": _vomit,
    "smoke": _smoke,
    "gun": _gun,
    "knife": _knife,
    "axe": _axe,
    "pills": _pills,
    "razor": _razor,
    "poison": _poison,
    "skull": _skull_patch,
    "syringe": _syringe,
    "burglary": _burglary,
    "hate_badge": _hate_badge,
}

LOOKALIKES: dict[str, Callable[[Pen], None]] = {
    "no_smoking": _no_smoking,
    "cat_poster": _cat_poster,
    "fireworks": _fireworks,
    "cheer": _cheer,
    "exit_hand": _exit_hand,
    "balloons": _balloons,
    "birthday_banner": _birthday_banner,
    "peace_speech": _peace_speech,
    "cake_knife": _cake_knife,
    "doctor_syringe": _doctor_syringe,
    "museum_skull": _museum_skull,
    "glue_gun": _glue_gun,
    "campfire": _campfire,
    "vitamins": _vitamins,
    "shaving_razor": _shaving_razor,
    "bare_tree": _bare_tree,
}

OVERLAYS: frozenset[str] = frozenset(
    {
        "hate_banner", "hate_bubble", "shouting", "mocking", "stalking", "explosion", "porn_poster",
        "blood", "vomit", "smoke",
        "no_smoking", "cat_poster", "fireworks", "cheer", "exit_hand", "balloons", "birthday_banner", "peace_speech",
    }
)  # fmt: skip
