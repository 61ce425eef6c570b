"""The objectives by name: one small file per method, each a sum of shared terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from safeencoders.registry import Registry

if TYPE_CHECKING:
    from safeencoders.training.objectives.terms import Objective

objectives: Registry[Callable[..., Objective]] = Registry(
    "objective",
    {
        "pictoworld": "safeencoders.training.objectives.pictoworld:objective",
        "safe-clip": "safeencoders.training.objectives.safe_clip:objective",
        "text-pairs": "safeencoders.training.objectives.text_pairs:objective",
    },
)
