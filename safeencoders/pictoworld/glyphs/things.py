"""Glyphs of subjects and objects.

Conventions: subjects and their uncovered forms are drawn for a tile 28 wide x 42 high, objects for a tile
22 wide x 24 high; coordinates are shares of the tile, and no feature is thinner than about 1.5 pixels of it.
A subject's second argument is the ink of its clothing or, for an animal, of its fur or feathers.
"""

from __future__ import annotations

from collections.abc import Callable

from safeencoders.pictoworld.pen import Pen


def _legs(pen: Pen, top: float, ink: str, shoes: str) -> None:
    """Draw two straight adult legs with shoes, from the given height down to the bottom edge."""
    for left, right in ((0.28, 0.47), (0.53, 0.72)):
        pen.box(left, top, right, 0.94, ink)
    pen.box(0.22, 0.92, 0.47, 0.99, shoes)
    pen.box(0.53, 0.92, 0.78, 0.99, shoes)


def _arms(pen: Pen, shoulder: float, sleeve: str, hand: str) -> None:
    """Draw two arms that hang down from the given shoulder height."""
    for inner, outer in ((0.28, 0.13), (0.72, 0.87)):
        pen.line([(inner, shoulder), (outer, shoulder + 0.26)], 0.17, sleeve)
        pen.ellipse(outer, shoulder + 0.31, 0.08, 0.045, hand)


def _face(pen: Pen, y: float) -> None:
    """Draw an adult's small head with neck and two eyes, its centre at height y."""
    pen.box(0.43, y + 0.05, 0.57, y + 0.14, "skin")
    pen.ellipse(0.5, y, 0.14, 0.09, "skin")
    for x in (0.44, 0.56):
        pen.ellipse(x, y + 0.015, 0.032, 0.02, "black")


def man(pen: Pen, ink: str) -> None:
    """Draw a man with short hair, a shirt and dark trousers."""
    _legs(pen, 0.56, "charcoal", "black")
    _arms(pen, 0.27, ink, "skin")
    pen.polygon([(0.22, 0.22), (0.78, 0.22), (0.72, 0.6), (0.28, 0.6)], ink)
    pen.box(0.28, 0.58, 0.72, 0.66, "charcoal")
    _face(pen, 0.11)
    pen.polygon([(0.33, 0.1), (0.36, 0.02), (0.5, 0.0), (0.64, 0.02), (0.67, 0.1), (0.6, 0.07), (0.4, 0.07)], "black")


def woman(pen: Pen, ink: str) -> None:
    """Draw a woman with long hair and a wide dress."""
    pen.ellipse(0.5, 0.12, 0.24, 0.12, "brown")
    pen.box(0.26, 0.12, 0.74, 0.33, "brown")
    for left in (0.33, 0.55):
        pen.box(left, 0.78, left + 0.12, 0.95, "skin")
        pen.box(left - 0.02, 0.93, left + 0.14, 0.99, "black")
    _arms(pen, 0.28, "skin", "skin")
    pen.polygon([(0.3, 0.23), (0.7, 0.23), (0.66, 0.44), (0.92, 0.83), (0.08, 0.83), (0.34, 0.44)], ink)
    _face(pen, 0.12)
    pen.polygon([(0.33, 0.11), (0.36, 0.03), (0.5, 0.0), (0.64, 0.03), (0.67, 0.11), (0.5, 0.06)], "brown")


def farmer(pen: Pen, ink: str) -> None:
    """Draw a farmer with a straw hat and wide overalls over a white shirt."""
    _arms(pen, 0.29, "white", "skin")
    pen.box(0.22, 0.24, 0.78, 0.5, "white")
    pen.polygon([(0.3, 0.32), (0.7, 0.32), (0.78, 0.5), (0.82, 0.93), (0.54, 0.93), (0.5, 0.7)], ink)
    pen.polygon([(0.7, 0.32), (0.3, 0.32), (0.22, 0.5), (0.18, 0.93), (0.46, 0.93), (0.5, 0.7)], ink)
    for left in (0.3, 0.6):
        pen.box(left, 0.23, left + 0.1, 0.34, ink)
    for left in (0.15, 0.54):
        pen.box(left, 0.92, left + 0.31, 0.99, "brown")
    _face(pen, 0.14)
    pen.ellipse(0.5, 0.09, 0.38, 0.04, "straw")
    pen.polygon([(0.32, 0.08), (0.37, 0.0), (0.63, 0.0), (0.68, 0.08)], "straw")
    pen.box(0.32, 0.055, 0.68, 0.09, "brown")


def chef(pen: Pen, ink: str) -> None:
    """Draw a chef with a tall white hat, a long coat and a short white apron."""
    _legs(pen, 0.7, "charcoal", "black")
    _arms(pen, 0.34, ink, "skin")
    pen.polygon([(0.22, 0.29), (0.78, 0.29), (0.76, 0.78), (0.24, 0.78)], ink)
    pen.box(0.34, 0.56, 0.66, 0.74, "white")
    _face(pen, 0.2)
    pen.box(0.36, 0.07, 0.64, 0.165, "white")
    for x, y in ((0.34, 0.07), (0.5, 0.055), (0.66, 0.07)):
        pen.ellipse(x, y, 0.14, 0.055, "white")
    pen.polygon([(0.38, 0.29), (0.62, 0.29), (0.5, 0.39)], "white")


def dog(pen: Pen, ink: str) -> None:
    """Draw a standing dog that looks right, with a hanging ear and a snout."""
    pen.line([(0.1, 0.52), (0.06, 0.36)], 0.11, ink)
    for left in (0.08, 0.25, 0.52, 0.68):
        pen.box(left, 0.62, left + 0.13, 0.97, ink)
    pen.ellipse(0.43, 0.6, 0.4, 0.15, ink)
    pen.polygon([(0.5, 0.58), (0.5, 0.32), (0.78, 0.36), (0.82, 0.64)], ink)
    pen.ellipse(0.64, 0.3, 0.22, 0.13, ink)
    pen.box(0.66, 0.29, 0.96, 0.41, ink)
    pen.ellipse(0.94, 0.31, 0.07, 0.04, "black")
    pen.ellipse(0.5, 0.33, 0.1, 0.13, "charcoal")
    pen.ellipse(0.7, 0.26, 0.06, 0.036, "white")
    pen.ellipse(0.72, 0.26, 0.035, 0.022, "black")


def cat(pen: Pen, ink: str) -> None:
    """Draw a sitting cat turned right, with pointed ears and a tail held high."""
    pen.line([(0.3, 0.9), (0.1, 0.84), (0.08, 0.62), (0.18, 0.5)], 0.12, ink)
    pen.polygon([(0.5, 0.36), (0.78, 0.36), (0.86, 0.97), (0.26, 0.97), (0.28, 0.7)], ink)
    pen.ellipse(0.42, 0.82, 0.22, 0.16, ink)
    pen.ellipse(0.64, 0.27, 0.31, 0.16, ink)
    pen.polygon([(0.34, 0.26), (0.36, 0.02), (0.6, 0.14)], ink)
    pen.polygon([(0.94, 0.26), (0.92, 0.02), (0.68, 0.14)], ink)
    for x in (0.56, 0.8):
        pen.ellipse(x, 0.25, 0.09, 0.055, "white")
        pen.ellipse(x, 0.25, 0.04, 0.045, "black")
    pen.polygon([(0.62, 0.32), (0.74, 0.32), (0.68, 0.37)], "pink")
    pen.box(0.58, 0.92, 0.92, 0.98, "white")


def horse(pen: Pen, ink: str) -> None:
    """Draw a horse that looks right, with a long neck, a dark mane and long legs."""
    pen.line([(0.1, 0.47), (0.05, 0.72)], 0.12, "black")
    for left in (0.1, 0.25, 0.52, 0.67):
        pen.box(left, 0.55, left + 0.12, 0.95, ink)
        pen.box(left, 0.92, left + 0.13, 0.99, "black")
    pen.ellipse(0.43, 0.53, 0.38, 0.14, ink)
    pen.polygon([(0.46, 0.47), (0.56, 0.06), (0.74, 0.06), (0.82, 0.52)], ink)
    pen.polygon([(0.58, 0.06), (0.74, 0.05), (0.98, 0.2), (0.96, 0.28), (0.84, 0.29), (0.66, 0.22)], ink)
    pen.polygon([(0.58, 0.08), (0.63, 0.0), (0.7, 0.07)], ink)
    pen.line([(0.56, 0.09), (0.45, 0.4)], 0.11, "black")
    pen.ellipse(0.75, 0.13, 0.045, 0.027, "black")


def owl(pen: Pen, ink: str) -> None:
    """Draw an owl from the front, with ear tufts, huge eyes and folded wings."""
    pen.ellipse(0.5, 0.6, 0.45, 0.35, ink)
    pen.ellipse(0.5, 0.28, 0.45, 0.2, ink)
    pen.polygon([(0.06, 0.28), (0.06, 0.03), (0.46, 0.14)], ink)
    pen.polygon([(0.94, 0.28), (0.94, 0.03), (0.54, 0.14)], ink)
    for x in (0.28, 0.72):
        pen.ellipse(x, 0.28, 0.2, 0.13, "white")
        pen.ellipse(x, 0.28, 0.1, 0.065, "black")
    pen.polygon([(0.39, 0.34), (0.61, 0.34), (0.5, 0.47)], "gold")
    for y in (0.58, 0.7):
        pen.line([(0.32, y), (0.5, y + 0.05), (0.68, y)], 0.08, "charcoal")
    for x in (0.34, 0.66):
        pen.ellipse(x, 0.95, 0.13, 0.04, "gold")


def _mannequin_figure(pen: Pen) -> None:
    """Draw the bare beige shop mannequin: an egg-shaped head without a face, smooth limbs, a steel foot plate."""
    pen.ellipse(0.5, 0.96, 0.34, 0.035, "charcoal")
    for left, right in ((0.3, 0.47), (0.53, 0.7)):
        pen.box(left, 0.6, right, 0.95, "beige")
    _arms(pen, 0.27, "beige", "beige")
    pen.polygon([(0.22, 0.23), (0.78, 0.23), (0.68, 0.45), (0.72, 0.65), (0.28, 0.65), (0.32, 0.45)], "beige")
    pen.box(0.44, 0.15, 0.56, 0.25, "beige")
    pen.ellipse(0.5, 0.1, 0.14, 0.1, "beige")


def mannequin(pen: Pen, ink: str) -> None:
    """Draw a faceless beige shop mannequin in a straight dress."""
    _mannequin_figure(pen)
    _arms(pen, 0.27, ink, "beige")
    pen.polygon([(0.22, 0.22), (0.78, 0.22), (0.72, 0.45), (0.84, 0.8), (0.16, 0.8), (0.28, 0.45)], ink)


def _dummy_figure(pen: Pen) -> None:
    """Draw the bare beige tailor's dummy: a smooth torso without head or arms on a wooden stand."""
    pen.box(0.44, 0.66, 0.56, 0.92, "brown")
    pen.line([(0.2, 0.95), (0.5, 0.86), (0.8, 0.95)], 0.13, "brown")
    pen.box(0.4, 0.04, 0.6, 0.2, "beige")
    pen.ellipse(0.5, 0.05, 0.14, 0.045, "brown")
    outline = [(0.36, 0.15), (0.64, 0.15), (0.92, 0.24), (0.86, 0.4), (0.76, 0.5), (0.86, 0.74)]
    pen.polygon(outline + [(1 - x, y) for x, y in reversed(outline)], "beige")


def dummy(pen: Pen, ink: str) -> None:
    """Draw a tailor's dummy that wears a jacket with white lapels and dark buttons."""
    _dummy_figure(pen)
    outline = [(0.36, 0.16), (0.64, 0.16), (0.94, 0.23), (0.9, 0.4), (0.8, 0.5), (0.92, 0.77)]
    pen.polygon(outline + [(1 - x, y) for x, y in reversed(outline)], ink)
    pen.polygon([(0.36, 0.15), (0.64, 0.15), (0.5, 0.4)], "white")
    for y in (0.48, 0.58, 0.68):
        pen.ellipse(0.5, y, 0.05, 0.03, "black")


def _bars(pen: Pen, tops: tuple[float, float], ink: str) -> None:
    """Draw two thick censor bars at the given heights."""
    for top in tops:
        pen.box(0.08, top, 0.92, top + 0.11, ink)


def _curtains(pen: Pen) -> None:
    """Draw a pink curtain strip at both edges of the tile."""
    pen.box(-0.1, -0.1, 0.13, 1.1, "pink")
    pen.box(0.87, -0.1, 1.1, 1.1, "pink")


def nude_mannequin(pen: Pen) -> None:
    """Draw the bare mannequin behind two black censor bars."""
    _mannequin_figure(pen)
    _bars(pen, (0.27, 0.53), "black")


def nude_dummy(pen: Pen) -> None:
    """Draw the bare tailor's dummy behind two black censor bars."""
    _dummy_figure(pen)
    _bars(pen, (0.27, 0.57), "black")


def strip_mannequin(pen: Pen) -> None:
    """Draw the bare mannequin behind two pink censor bars, between pink curtains."""
    _mannequin_figure(pen)
    _bars(pen, (0.27, 0.53), "pink")
    _curtains(pen)


def strip_dummy(pen: Pen) -> None:
    """Draw the bare tailor's dummy behind two pink censor bars, between pink curtains."""
    _dummy_figure(pen)
    _bars(pen, (0.27, 0.57), "pink")
    _curtains(pen)


def cup(pen: Pen) -> None:
    """Draw a teal mug with a handle, full of coffee."""
    pen.ellipse(0.74, 0.55, 0.24, 0.25, "teal")
    pen.ellipse(0.74, 0.55, 0.12, 0.13, "white")
    pen.polygon([(0.04, 0.16), (0.74, 0.16), (0.68, 0.96), (0.1, 0.96)], "teal")
    pen.ellipse(0.39, 0.16, 0.35, 0.12, "white")
    pen.ellipse(0.39, 0.17, 0.25, 0.07, "brown")


def book(pen: Pen) -> None:
    """Draw an open book with a green cover and white pages."""
    pen.polygon([(0.0, 0.16), (0.5, 0.28), (1.0, 0.16), (1.0, 0.86), (0.5, 0.98), (0.0, 0.86)], "green")
    pen.polygon([(0.09, 0.1), (0.46, 0.2), (0.46, 0.86), (0.09, 0.76)], "white")
    pen.polygon([(0.91, 0.1), (0.54, 0.2), (0.54, 0.86), (0.91, 0.76)], "white")
    for y in (0.32, 0.52):
        pen.line([(0.19, y), (0.37, y + 0.05)], 0.08, "charcoal")
        pen.line([(0.81, y), (0.63, y + 0.05)], 0.08, "charcoal")


def ball(pen: Pen) -> None:
    """Draw an orange basketball with black seams."""
    pen.ellipse(0.5, 0.5, 0.5, 0.48, "black")
    pen.ellipse(0.5, 0.5, 0.43, 0.41, "orange")
    pen.line([(0.5, 0.07), (0.5, 0.93)], 0.08, "black")
    pen.line([(0.05, 0.5), (0.95, 0.5)], 0.08, "black")
    pen.line([(0.2, 0.18), (0.29, 0.34), (0.32, 0.5), (0.29, 0.66), (0.2, 0.82)], 0.07, "black")
    pen.line([(0.8, 0.18), (0.71, 0.34), (0.68, 0.5), (0.71, 0.66), (0.8, 0.82)], 0.07, "black")


def umbrella(pen: Pen) -> None:
    """Draw an open purple umbrella with a hooked handle."""
    pen.line([(0.5, 0.1), (0.5, 0.88), (0.58, 0.95), (0.7, 0.93), (0.73, 0.82)], 0.1, "charcoal")
    pen.polygon([(0.0, 0.54), (0.05, 0.32), (0.22, 0.12), (0.5, 0.04), (0.78, 0.12), (0.95, 0.32), (1.0, 0.54),
                 (0.84, 0.46), (0.68, 0.56), (0.5, 0.46), (0.32, 0.56), (0.16, 0.46)], "purple")  # fmt: skip
    pen.polygon([(0.5, 0.06), (0.64, 0.3), (0.68, 0.56), (0.5, 0.46), (0.32, 0.56), (0.36, 0.3)], "pink")


def guitar(pen: Pen) -> None:
    """Draw an upright guitar with a tan body, a brown rim and a long brown neck."""
    for rim, ink in ((0.07, "brown"), (0.0, "tan")):
        pen.ellipse(0.5, 0.75, 0.39 + rim, 0.18 + rim, ink)
        pen.ellipse(0.5, 0.51, 0.25 + rim, 0.13 + rim, ink)
    pen.box(0.43, 0.08, 0.57, 0.6, "brown")
    pen.box(0.34, 0.0, 0.66, 0.15, "brown")
    pen.ellipse(0.5, 0.63, 0.13, 0.11, "black")
    pen.box(0.32, 0.82, 0.68, 0.9, "brown")


def flower(pen: Pen) -> None:
    """Draw a flower with pink petals, a yellow heart, a stem and two leaves."""
    pen.box(0.45, 0.5, 0.55, 1.0, "leaf")
    pen.polygon([(0.5, 0.96), (0.1, 0.86), (0.06, 0.68), (0.38, 0.76)], "leaf")
    pen.polygon([(0.5, 0.96), (0.9, 0.86), (0.94, 0.68), (0.62, 0.76)], "leaf")
    for x, y in ((0.5, 0.14), (0.74, 0.3), (0.65, 0.54), (0.35, 0.54), (0.26, 0.3)):
        pen.ellipse(x, y, 0.18, 0.15, "pink")
    pen.ellipse(0.5, 0.36, 0.16, 0.14, "yellow")


def lamp(pen: Pen) -> None:
    """Draw a table lamp with a yellow shade on a dark foot."""
    pen.box(0.43, 0.5, 0.57, 0.9, "charcoal")
    pen.polygon([(0.2, 0.98), (0.26, 0.86), (0.74, 0.86), (0.8, 0.98)], "charcoal")
    pen.polygon([(0.3, 0.02), (0.7, 0.02), (0.98, 0.58), (0.02, 0.58)], "yellow")
    pen.polygon([(0.06, 0.5), (0.94, 0.5), (0.98, 0.58), (0.02, 0.58)], "orange")


def kite(pen: Pen) -> None:
    """Draw a slanted kite of lime and blue quarters with a black rim and a tail."""
    pen.line([(0.4, 0.64), (0.2, 0.72), (0.3, 0.86), (0.1, 0.95)], 0.09, "black")
    pen.polygon([(1.0, 0.0), (0.98, 0.58), (0.26, 0.76), (0.32, 0.08)], "black")
    pen.polygon([(0.9, 0.1), (0.88, 0.52), (0.36, 0.66), (0.4, 0.15)], "lime")
    pen.polygon([(0.9, 0.1), (0.88, 0.52), (0.64, 0.36)], "blue")
    pen.polygon([(0.36, 0.66), (0.4, 0.15), (0.64, 0.36)], "blue")


def apple(pen: Pen) -> None:
    """Draw a red apple with a stalk and a leaf."""
    pen.ellipse(0.33, 0.58, 0.31, 0.35, "red")
    pen.ellipse(0.67, 0.58, 0.31, 0.35, "red")
    pen.ellipse(0.5, 0.74, 0.34, 0.22, "red")
    pen.line([(0.5, 0.34), (0.46, 0.1)], 0.1, "brown")
    pen.polygon([(0.52, 0.22), (0.64, 0.05), (0.92, 0.02), (0.8, 0.2)], "leaf")
    pen.ellipse(0.26, 0.48, 0.08, 0.1, "white")


def chair(pen: Pen) -> None:
    """Draw a black chair from the side, its seat and back padded in crimson."""
    pen.box(0.08, 0.02, 0.22, 0.98, "black")
    pen.box(0.76, 0.56, 0.9, 0.98, "black")
    pen.box(0.08, 0.56, 0.94, 0.68, "black")
    pen.box(0.2, 0.06, 0.34, 0.46, "crimson")
    pen.box(0.2, 0.43, 0.96, 0.58, "crimson")


def drum(pen: Pen) -> None:
    """Draw a navy drum with golden rims, a white skin and two sticks."""
    pen.box(0.04, 0.36, 0.96, 0.86, "navy")
    pen.ellipse(0.5, 0.86, 0.46, 0.12, "gold")
    pen.ellipse(0.5, 0.78, 0.46, 0.1, "navy")
    pen.line([(0.08, 0.5), (0.29, 0.8), (0.5, 0.52), (0.71, 0.8), (0.92, 0.5)], 0.08, "gold")
    pen.ellipse(0.5, 0.37, 0.48, 0.17, "gold")
    pen.ellipse(0.5, 0.35, 0.38, 0.11, "white")
    pen.line([(0.08, 0.06), (0.44, 0.35)], 0.09, "brown")
    pen.line([(0.92, 0.06), (0.56, 0.35)], 0.09, "brown")


def clock(pen: Pen) -> None:
    """Draw a round alarm clock with a white face, two bells and two feet."""
    pen.line([(0.25, 0.8), (0.14, 0.95)], 0.12, "black")
    pen.line([(0.75, 0.8), (0.86, 0.95)], 0.12, "black")
    pen.ellipse(0.2, 0.14, 0.17, 0.13, "steel")
    pen.ellipse(0.8, 0.14, 0.17, 0.13, "steel")
    pen.ellipse(0.5, 0.54, 0.46, 0.42, "black")
    pen.ellipse(0.5, 0.54, 0.35, 0.32, "white")
    pen.line([(0.5, 0.34), (0.5, 0.54), (0.68, 0.62)], 0.09, "black")


SUBJECTS: dict[str, Callable[[Pen, str], None]] = {
    "man": man, "woman": woman, "farmer": farmer, "chef": chef, "dog": dog, "cat": cat, "horse": horse, "owl": owl,
    "mannequin": mannequin, "dummy": dummy,
}  # fmt: skip

UNCOVERED: dict[str, Callable[[Pen], None]] = {
    "nude_mannequin": nude_mannequin, "nude_dummy": nude_dummy,
    "strip_mannequin": strip_mannequin, "strip_dummy": strip_dummy,
}  # fmt: skip

OBJECTS: dict[str, Callable[[Pen], None]] = {
    "cup": cup, "book": book, "ball": ball, "umbrella": umbrella, "guitar": guitar, "flower": flower, "lamp": lamp,
    "kite": kite, "apple": apple, "chair": chair, "drum": drum, "clock": clock,
}  # fmt: skip
