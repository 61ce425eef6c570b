"""The judge that has learnt nothing names what renders of another palette and variant show, clean or spoilt."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from safeencoders.pictoworld.renderer import SLOTS, render_batch
from safeencoders.pictoworld.scenes import PALETTES, VARIANTS, Picture, benigns, quads
from safeencoders.pictoworld.template_judge import NOTHING, TemplateJudge
from safeencoders.pictoworld.template_judge import PALETTES as JUDGE_PALETTES
from safeencoders.pictoworld.template_judge import VARIANTS as JUDGE_VARIANTS


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    rows = [*quads("test", 40, 2), *quads("test", 40, 2, "concept"), *quads("test", 20, 2, "two")]
    return [q.unsafe for q in rows] + [q.safe for q in rows[:40]] + [b.picture for b in benigns("test", 48, 2)]


def blurred(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    padded = np.pad(pixels.astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    size = pixels.shape[1]
    mean = sum(padded[:, i : i + size, j : j + size] for i in range(3) for j in range(3)) / 9
    return np.asarray(mean).round().astype(np.uint8)


def test_it_knows_the_glyphs_of_train_only() -> None:
    assert {*JUDGE_PALETTES} <= {*PALETTES["train"]}
    assert {*JUDGE_VARIANTS} <= {*VARIANTS["train"]}


def test_it_names_every_concept_of_clean_renders_and_no_other(pictures: list[Picture]) -> None:
    seen = TemplateJudge().look(render_batch(pictures))
    assert [(p, s) for p, s in zip(pictures, seen, strict=True) if s.concepts != frozenset(p.concepts)] == []
    assert len({name for s in seen for name in s.concepts}) >= 15


def test_it_names_objects_subjects_and_look_alikes(pictures: list[Picture]) -> None:
    for picture, seen in zip(pictures, TemplateJudge().look(render_batch(pictures)), strict=True):
        kept = picture.surviving()
        if "object" in kept:
            assert seen.slots["object"] == picture.scene.object
        if "colour" in kept:
            assert seen.slots["subject"] == picture.scene.subject
        if picture.lookalike:
            assert picture.lookalike in seen.slots.values()


def test_blur_and_noise_seldom_mislead_it(pictures: list[Picture]) -> None:
    noise = np.random.default_rng(0).normal(0, 25, (len(pictures), 64, 64, 3))
    spoilt = (blurred(render_batch(pictures)) + noise).clip(0, 255).astype(np.uint8)
    seen = TemplateJudge().look(spoilt)
    unsafe = [bool(s.concepts) for p, s in zip(pictures, seen, strict=True) if p.concepts]
    flagged = [bool(s.concepts) for p, s in zip(pictures, seen, strict=True) if not p.concepts]
    assert np.mean(unsafe) >= 0.95
    assert np.mean(flagged) <= 0.02


def test_an_empty_slot_shows_nothing() -> None:
    rows = quads("test", 20, 3)
    pixels, bare = render_batch(q.unsafe for q in rows), render_batch(q.safe for q in rows)
    left, top, width, height = SLOTS["overlay"]
    assert {s.slots["overlay"] for s in TemplateJudge().look(bare)} == {NOTHING}
    pixels[:, top - 1 : top + height + 1, left - 1 : left + width + 1] = bare[
        :, top - 1 : top + height + 1, left - 1 : left + width + 1
    ]
    for quad, seen in zip(rows, TemplateJudge().look(pixels), strict=True):
        assert (quad.concept.name in seen.concepts) == (quad.concept.mode != "add")


def test_the_threshold_decides() -> None:
    pixels = render_batch(q.unsafe for q in quads("test", 10, 0))
    assert not any(s.concepts for s in TemplateJudge(threshold=0.0).look(pixels))
    assert {s.slots["object"] for s in TemplateJudge(threshold=0.0).look(pixels)} == {NOTHING}


def test_no_picture_gives_no_finding() -> None:
    assert TemplateJudge().look(np.zeros((0, 64, 64, 3), dtype=np.uint8)) == []


def test_it_loads_no_learning_and_not_the_other_judge() -> None:
    code = (
        "import sys, safeencoders.pictoworld.template_judge; "
        "print([m for m in ('torch', 'transformers', 'safeencoders.pictoworld.judge') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
