"""Detectors: what says whether a picture is unsafe. Each is a lazy entry of one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from safeencoders.registry import Registry

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Verdict:
    """What a detector says of one picture.

    Attributes:
        unsafe: the decision, by the detector's own threshold.
        score: 0..1, how sure it is that the picture is unsafe.
        labels: what was found, in the detector's own words; empty when nothing was.
        scores: every label's highest score, 0..1, found or not: what another threshold needs.
    """

    unsafe: bool
    score: float
    labels: tuple[str, ...]
    scores: Mapping[str, float] = field(default_factory=dict, hash=False)


class Detector(Protocol):
    """Looks at RGB pictures and gives one verdict for each, in their order.

    A picture that it cannot judge raises BadInputError; whatever else it raises is a fault of the detector's own.
    """

    def __call__(self, images: Sequence[Image], /) -> list[Verdict]:
        """Return one verdict per picture."""

    def identity(self) -> dict[str, Any]:
        """Return what makes it this judge and no other, for a manifest: sha256, version, channels, labels."""


detectors: Registry[Callable[..., Detector]] = Registry(
    "detector",
    {
        "nudenet": "safeencoders.evaluation.detectors.nudenet:NudeNet",
        "pictoworld": "safeencoders.evaluation.detectors.pictoworld:PictoworldDetector",
        "q16": "safeencoders.evaluation.detectors.q16:Q16",
    },
)
"""Name -> factory: ``detectors.get("pictoworld")()`` is a Detector; options are keywords, each with a default."""
