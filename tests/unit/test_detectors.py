"""Detectors: one verdict per picture, in order, and a table that suggests names."""

import numpy as np
import pytest
from PIL import Image

from safeencoders.errors import BadInputError, UnknownNameError
from safeencoders.evaluation.detectors import Verdict, detectors
from safeencoders.evaluation.detectors.pictoworld import PictoworldDetector
from safeencoders.pictoworld import models
from safeencoders.pictoworld.judge import Finding, Judge, JudgeNet


class RedIsBlood:
    def look(self, pixels: np.ndarray) -> list[Finding]:
        red = [bool((picture[..., 0] > 200).all()) for picture in pixels]
        return [Finding({}, 0.9 if one else 0.1, ("blood",) if one else ()) for one in red]


def image(colour: tuple[int, int, int], size: int = 64) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


def test_a_verdict_says_what_the_judge_saw_in_the_order_asked() -> None:
    verdicts = PictoworldDetector(RedIsBlood())([image((255, 0, 0)), image((0, 0, 255))])
    assert verdicts == [Verdict(True, 0.9, ("blood",)), Verdict(False, 0.1, ())]
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
