"""Drawing: the same picture for the same request, and twins that differ in the concept's slot alone."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest

from safeencoders.pictoworld import lexicon
from safeencoders.pictoworld.lexicon import CONCEPTS, LOOKALIKES
from safeencoders.pictoworld.renderer import SIZE, SLOTS, render, render_batch, to_image
from safeencoders.pictoworld.scenes import PALETTES, VARIANTS, Picture, Scene, Style, benigns, quads

SLOT = {"add": "overlay", "replace": "object", "nude": "subject"}
STILL = ((0, 0),) * 4
SCENE = Scene("mannequin", "red", "cup", "park", "noon")


def inside(slot: str, style: Style) -> np.ndarray:
    left, top, width, height = SLOTS[slot]
    x, y = style.shifts[list(SLOTS).index(slot)]
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[top + y : top + y + height, left + x : left + x + width] = True
    return mask


@pytest.mark.parametrize("kind", ["plain", "concept", "two"])
def test_twins_differ_inside_the_slots_of_their_concepts_only(kind: str) -> None:
    for quad in quads("test", 150, 0, kind):  # type: ignore[arg-type]
        changed = (render(quad.safe) != render(quad.unsafe)).any(-1)
        for concept in quad.unsafe.concepts:
            slot = inside(SLOT[CONCEPTS[concept].mode], quad.safe.style)
            assert changed[slot].sum() > 40, (concept, changed[slot].sum())
            changed &= ~slot
        assert not changed.any(), quad.unsafe


def test_look_alikes_differ_inside_their_slot_only_and_from_their_concept() -> None:
    for benign in benigns("test", 64, 0):
        picture = benign.picture
        entry = LOOKALIKES[picture.lookalike or ""]
        plain = render(Picture(picture.scene, picture.style))
        changed = (render(picture) != plain).any(-1)
        assert changed.sum() > 40
        assert not changed[~inside("overlay" if entry.overlay else "object", picture.style)].any()
        if CONCEPTS[entry.concept].mode != "nude":
            unsafe = render(Picture(picture.scene, picture.style, (entry.concept,)))
            assert (unsafe != render(picture)).any(-1).sum() > 40


def test_the_slots_of_two_concepts_never_touch() -> None:
    masks = {
        slot: [inside(slot, Style(0, 0, ((x, y),) * 4)) for x, y in itertools.product((-1, 0, 1), repeat=2)]
        for slot in ("subject", "object", "overlay")
    }
    for one, other in itertools.combinations(masks, 2):
        assert not any((a & b).any() for a, b in itertools.product(masks[one], masks[other]))


def test_drawing_is_deterministic_within_and_across_processes() -> None:
    pictures = [q.unsafe for q in quads("test", 40, 0)]
    first, second = render_batch(pictures), render_batch(pictures)
    assert first.dtype == np.uint8
    assert first.shape == (40, SIZE, SIZE, 3)
    assert (first == second).all()
    code = (
        "import hashlib; from safeencoders.pictoworld.renderer import render_batch; "
        "from safeencoders.pictoworld.scenes import quads; "
        "print(hashlib.sha256(render_batch([q.unsafe for q in quads('test', 40, 0)]).tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hashlib.sha256(first.tobytes()).hexdigest()


def test_rendering_leaves_the_cached_background_alone() -> None:
    style = Style(0, 0, STILL)
    before = render(Picture(SCENE, style))
    render(Picture(SCENE, style, ("blood", "gun")))
    assert (render(Picture(SCENE, style)) == before).all()


@pytest.mark.parametrize("attribute", ["subject", "colour", "object", "place", "time"])
def test_every_value_of_an_attribute_looks_different(attribute: str) -> None:
    table = {
        "subject": lexicon.SUBJECTS, "colour": lexicon.COLOURS, "object": lexicon.OBJECTS,
        "place": lexicon.PLACES, "time": lexicon.TIMES,
    }  # fmt: skip
    base = {"subject": "man", "colour": "red", "object": "cup", "place": "park", "time": "noon"}
    scenes = [Scene(**(base | {attribute: value})) for value in table[attribute]]
    pictures = render_batch(Picture(scene, Style(0, 0, STILL)) for scene in scenes)
    for one, other in itertools.combinations(pictures, 2):
        assert (one != other).any(-1).sum() > 60


def test_a_style_of_another_split_is_another_picture() -> None:
    palettes = [number for split in PALETTES.values() for number in split]
    variants = [number for split in VARIANTS.values() for number in split]
    assert (palettes, variants) == (sorted(set(palettes)), sorted(set(variants)))
    drawn = {render(Picture(SCENE, Style(p, v, STILL))).tobytes() for p, v in itertools.product(palettes, variants)}
    assert len(drawn) == len(palettes) * len(variants)


def test_nudity_hides_the_colour_and_replacing_hides_the_object() -> None:
    style = Style(0, 0, STILL)
    bare = [render(Picture(Scene("dummy", c, "cup", "park", "noon"), style, ("nude",))) for c in ("red", "blue")]
    assert (bare[0] == bare[1]).all()
    armed = [render(Picture(Scene("dog", "red", o, "park", "noon"), style, ("gun",))) for o in ("cup", "book")]
    assert (armed[0] == armed[1]).all()


def test_pixels_become_an_image() -> None:
    pixels = render(Picture(SCENE, Style(0, 0, STILL)))
    image = to_image(pixels)
    assert (image.size, image.mode) == ((SIZE, SIZE), "RGB")
    assert (np.asarray(image) == pixels).all()
