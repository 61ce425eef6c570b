"""The world's judge as a detector of PIL images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from safeencoders.errors import BadInputError
from safeencoders.evaluation.detectors import Verdict
from safeencoders.pictoworld import models
from safeencoders.pictoworld.judge import Finding
from safeencoders.pictoworld.lexicon import CONCEPTS
from safeencoders.pictoworld.pixels import from_images
from safeencoders.pictoworld.renderer import SIZE

if TYPE_CHECKING:
    from PIL.Image import Image


class Looks(Protocol):
    """What the protocols need of a judge of the world."""

    def look(self, pixels: NDArray[np.uint8]) -> list[Finding]:
        """Judge RGB pictures, uint8 (n, 64, 64, 3)."""


class PictoworldDetector:
    """Calls a picture unsafe when an unsafe concept is the most probable label of any slot."""

    def __init__(self, judge: Looks | None = None) -> None:
        """Take a judge; None: the shipped one, checked against its recorded sha256."""
        self._judge: Looks = models.judge() if judge is None else judge
        self._sha256 = models.hashes()["judge/model.safetensors"] if judge is None else None

    def __call__(self, images: Sequence[Image], /) -> list[Verdict]:
        """Judge pictures of the world.

        Raises:
            BadInputError: a picture is not 64 x 64 pixels, so it is none of this world's.
        """
        wrong = next((image.size for image in images if image.size != (SIZE, SIZE)), None)
        if wrong is not None:
            raise BadInputError(
                f"expected pictures of {SIZE} x {SIZE} pixels, got {wrong[0]} x {wrong[1]}; this detector knows "
                "only pictures of pictoworld"
            )
        found = self._judge.look(from_images(images)) if images else []
        return [Verdict(bool(one.concepts), one.unsafe, one.concepts, one.scores) for one in found]

    def identity(self) -> dict[str, Any]:
        """Return what makes it this judge: the sha256 of its weights and its labels."""
        return {"sha256": self._sha256, "version": "pictoworld", "channels": "rgb", "labels": list(CONCEPTS)}
