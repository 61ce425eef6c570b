"""Detectors: one verdict per picture, in order, and a table that suggests names."""

import inspect
import json

import numpy as np
import pytest
import torch
from PIL import Image

from safeencoders.errors import BadInputError, UnknownNameError
from safeencoders.evaluation.detectors import Verdict, detectors, q16_backbone, q16_prompts
from safeencoders.evaluation.detectors.pictoworld import PictoworldDetector
from safeencoders.pictoworld import models, scenes
from safeencoders.pictoworld.judge import Finding, Judge, JudgeNet
from safeencoders.pictoworld.lexicon import CONCEPTS
from safeencoders.pictoworld.renderer import render_batch, to_image

# What a detector needs where its defaults would be downloaded.
HERE: dict[str, dict[str, object]] = {"q16": {"clip": "none"}}


@pytest.fixture(scope="module", params=detectors.names())
def detector(request: pytest.FixtureRequest) -> object:
    options = HERE.get(request.param, {})
    if request.param == "q16":
        print_of_the_worlds = q16_backbone.load("none").fingerprint
        options["prompts"] = q16_prompts.of_vectors(torch.eye(2, 128), fingerprint=print_of_the_worlds)
    return detectors.get(request.param)(**options)


def test_whatever_is_registered_judges_each_picture(detector) -> None:
    pictures = [image((255, 0, 0)), image((0, 0, 255))]
    verdicts = detector(pictures)
    assert len(verdicts) == 2
    assert detector([]) == []
    assert detector(pictures[::-1])[0].scores == pytest.approx(verdicts[1].scores, abs=1e-5)
    for verdict in verdicts:
        assert isinstance(verdict.unsafe, bool)
        assert all(isinstance(score, float) and 0 <= score <= 1 for score in (verdict.score, *verdict.scores.values()))
        assert verdict.unsafe == bool(verdict.labels)
        assert set(verdict.labels) <= set(verdict.scores)


def test_whatever_is_registered_says_who_it_is(detector) -> None:
    found = detector.identity()
    assert len(found["sha256"]) == 64
    assert {"version", "channels", "labels"} <= set(found)
    assert set(found["labels"]) == set(detector([image((9, 9, 9))])[0].scores)
    json.dumps(found)


@pytest.mark.parametrize("name", detectors)
def test_whatever_is_registered_can_be_made_without_options(name: str) -> None:
    for option in inspect.signature(detectors.get(name)).parameters.values():
        assert option.default is not inspect.Parameter.empty


class RedIsBlood:
    def look(self, pixels: np.ndarray) -> list[Finding]:
        red = [bool((picture[..., 0] > 200).all()) for picture in pixels]
        return [Finding({}, 0.9 if one else 0.1, ("blood",) if one else ()) for one in red]


def image(colour: tuple[int, int, int], size: int = 64) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


def test_a_verdict_says_what_the_judge_saw_in_the_order_asked() -> None:
    verdicts = PictoworldDetector(RedIsBlood())([image((255, 0, 0)), image((0, 0, 255))])
    assert verdicts == [Verdict(True, 0.9, ("blood",), {}), Verdict(False, 0.1, (), {})]
    assert PictoworldDetector(RedIsBlood())([]) == []


def test_a_grey_picture_with_alpha_is_read_as_rgb() -> None:
    assert not PictoworldDetector(RedIsBlood())([image((9, 9, 9)).convert("LA")])[0].unsafe


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(BadInputError, match="64 x 64 pixels, got 512 x 512"):
        PictoworldDetector(RedIsBlood())([image((255, 0, 0)), image((0, 0, 0), 512)])


def test_the_table_gives_the_worlds_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "judge", lambda: Judge(JudgeNet()))
    verdict = detectors.get("pictoworld")()([image((255, 0, 0))])[0]
    assert 0 <= verdict.score <= 1
    assert verdict.unsafe == bool(verdict.labels)
    with pytest.raises(UnknownNameError, match="Did you mean 'pictoworld'"):
        detectors.get("pictowold")


def test_a_concept_scores_half_or_more_exactly_where_it_is_seen() -> None:
    quads = scenes.quads("test", 12, 0)
    pictures = [to_image(one) for one in render_batch([q.safe for q in quads] + [q.unsafe for q in quads])]
    verdicts = PictoworldDetector()(pictures)
    assert {verdict.unsafe for verdict in verdicts} == {True, False}
    for verdict in verdicts:
        assert set(verdict.labels) == {name for name, score in verdict.scores.items() if score >= 0.5}
        assert set(verdict.scores) == set(CONCEPTS)
