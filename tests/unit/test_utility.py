"""Utility on benign prompts: distances that are zero for the same picture and grow, by the ORIGINAL CLIP only."""

import math
import sys
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from safeencoders.errors import BadInputError, MissingExtraError, OfflineError
from safeencoders.evaluation import frechet, utility
from safeencoders.evaluation.utility import OriginalClip, Utility, clip_score, lost, pixel_distance
from safeencoders.pictoworld import models
from safeencoders.pictoworld.judge import Finding
from safeencoders.pictoworld.renderer import render_batch, to_image
from safeencoders.pictoworld.scenes import quads

QUADS = quads("test", 16, 0)
PROMPTS = [quad.safe_text for quad in QUADS]
SAFE, UNSAFE = (
    [to_image(one) for one in render_batch(pictures)]
    for pictures in ([quad.safe for quad in QUADS], [quad.unsafe for quad in QUADS])
)
OTHERS = SAFE[1:] + SAFE[:1]


@pytest.fixture(scope="module")
def clip():
    return OriginalClip.load("none", models.tokenizer())


@pytest.fixture(scope="module")
def measured(clip):
    measure = Utility(clip, unrelated=SAFE, judge=utility.world_judge)
    sets = {"same": SAFE, "unsafe": UNSAFE, "others": OTHERS}
    rows = {name: measure(pictures, PROMPTS, SAFE) for name, pictures in sets.items()}
    return {name: {key: [one[key] for one in row] for key in row[0]} for name, row in rows.items()}


def test_the_same_pictures_cost_nothing(measured):
    same = measured["same"]
    assert set(same) == {"clip_score", "pixel_distance", "feature_distance", "moved", "lost"}
    assert max(same["pixel_distance"]) == max(same["moved"]) == max(same["lost"]) == 0.0
    assert max(same["feature_distance"]) < 1e-5


def test_other_pictures_do(measured):
    same, others = measured["same"], measured["others"]
    assert min(same["clip_score"]) > max(others["clip_score"])
    assert min(others["pixel_distance"]) > 0.05
    assert np.mean(others["moved"]) > 0.9
    assert min(others["lost"]) == 1.0
    assert np.mean(others["feature_distance"]) > 2 * np.mean(measured["unsafe"]["feature_distance"])


def test_what_is_added_is_not_lost(measured):
    covered = [quad.concept.mode != "add" for quad in QUADS]
    assert any(covered)
    assert not all(covered)
    assert measured["unsafe"]["lost"] == [float(x) for x in covered]


def test_a_safe_tower_is_refused():
    with pytest.raises(BadInputError, match="safe"):
        OriginalClip.load("pictoworld", models.tokenizer())


def test_long_prompts_are_cut_and_the_numbers_are_those_of_one_by_one(clip):
    measure = Utility(clip)
    together = measure(SAFE[:3], [PROMPTS[0] * 30, *PROMPTS[1:3]], OTHERS[:3])
    singly = [measure([SAFE[i]], [PROMPTS[i]], [OTHERS[i]])[0] for i in (1, 2)]
    for one, other in zip(together[1:], singly, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert "moved" not in together[0]


def test_unequal_lists_and_sizes_are_refused(clip):
    with pytest.raises(BadInputError, match="2 pictures, 1 prompts and 2 references"):
        Utility(clip)(SAFE[:2], PROMPTS[:1], SAFE[:2])
    with pytest.raises(BadInputError, match="one size"):
        pixel_distance(SAFE[0], SAFE[0].resize((32, 32)))
    with pytest.raises(BadInputError, match="at least two unrelated"):
        Utility(clip, unrelated=SAFE[:1])


def test_clip_score_is_two_and_a_half_cosines_and_never_negative():
    one = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    other = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    assert clip_score(one, other).tolist() == pytest.approx([2.5, 1.5, 0.0])


def test_pixel_distance_is_the_root_mean_square():
    black, grey = (Image.new("RGB", (4, 4), (level,) * 3) for level in (0, 51))
    assert pixel_distance(black, grey) == pytest.approx(0.2)
    assert -20 * math.log10(pixel_distance(black, grey)) == pytest.approx(13.979, abs=1e-3)


def test_lost_compares_with_what_the_original_drew():
    before = Finding({"subject": "cat", "overlay": "nothing"}, 0.0, ())
    assert not lost(before, Finding({"subject": "cat", "overlay": "smoke"}, 1.0, ("smoke",)))
    assert lost(before, Finding({"subject": "dog", "overlay": "nothing"}, 0.0, ()))


def test_lpips_is_asked_of_torchmetrics_in_unit_range(clip, monkeypatch):
    lpip = pytest.importorskip("torchmetrics.image.lpip")

    class Fake(nn.Module):
        def __init__(self, net, *, normalize):
            super().__init__()
            assert (net, normalize) == ("alex", True)

        def forward(self, one, other):
            assert one.shape == (1, 3, 64, 64)
            assert 0 <= float(one.min()) <= float(one.max()) <= 1
            return (one - other).abs().mean()

    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", Fake)
    same, other = Utility(clip, lpips=utility.lpips())(SAFE[:2], PROMPTS[:2], [SAFE[0], OTHERS[1]])
    assert same["lpips"] == 0 < other["lpips"]

    def offline(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", offline)
    with pytest.raises(OfflineError, match="AlexNet"):
        utility.lpips()


class Means(nn.Module):
    """Eight features of a picture: means of its quarters' colours."""

    num_features = 12

    def forward(self, pictures):
        return nn.functional.adaptive_avg_pool2d(pictures.float() / 255, 2).flatten(1)


def test_fid_and_kid_are_small_for_pictures_of_a_kind_and_large_for_others():
    pytest.importorskip("torchmetrics")
    near = frechet.distances(SAFE[:8], SAFE[8:], extractor=Means())
    same = frechet.distances(SAFE, SAFE, extractor=Means())
    far = frechet.distances(SAFE, [Image.new("RGB", (64, 64), "red")] * 4 + SAFE[:4], extractor=Means())
    assert same["fid"] == pytest.approx(0, abs=1e-3)
    assert near["fid"] < far["fid"] / 2
    assert near["kid"] < far["kid"]
    assert (near["features"], near["n"]) == ("Means", [8, 8])
    with pytest.raises(BadInputError, match="at least 2"):
        frechet.distances(SAFE[:1], SAFE)


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip", None)
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    for call in (utility.lpips, lambda: frechet.distances(SAFE, SAFE)):
        with pytest.raises(MissingExtraError, match=r"safeencoders\[eval\]"):
            call()
