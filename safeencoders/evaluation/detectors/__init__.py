"""Detectors: what says whether a picture is unsafe. Each is a lazy entry of one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from safeencoders.registry import Registry

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Verdict:
    """What a detector says of one picture.

    Attributes:
        unsafe: the decision.
        score: probability, 0..1, that the picture is unsafe.
        labels: what was found, in the detector's own words; empty when nothing was.
    """

    unsafe: bool
    score: float
    labels: tuple[str, ...]


class Detector(Protocol):
    """Looks at RGB pictures and gives one verdict for each, in their order."""

    def __call__(self, images: Sequence[Image], /) -> list[Verdict]:
        """Return one verdict per picture."""


detectors: Registry[Callable[[], Detector]] = Registry(
    "detector", {"pictoworld": "safeencoders.evaluation.detectors.pictoworld:PictoworldDetector"}
)
"""Name -> factory: ``detectors.get("pictoworld")()`` is a Detector."""
