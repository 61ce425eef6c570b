"""Drift: how far a tuned tower moved what a host reads of benign inputs, relative to the original.

A projector or UNet behind the tower was trained on the original's states; small drift is what lets it go unretrained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safeencoders.evaluation.towers import BATCH
from safeencoders.pictoworld.pixels import pixel_values
from safeencoders.pictoworld.renderer import render_batch
from safeencoders.pictoworld.scenes import Picture

if TYPE_CHECKING:
    from transformers import CLIPVisionModel

BOOTSTRAPS = 1000


class Drift(TypedDict):
    """Mean relative error over the inputs, their number, and a 95 % bootstrap interval."""

    value: float
    n: int
    interval: list[float]


def patch_drift(tuned: CLIPVisionModel, original: CLIPVisionModel, pictures: Sequence[Picture]) -> Drift:
    """Measure patch tokens at the penultimate layer, without the class token, as LLaVA reads them.

    Args:
        pictures: of the world, at least one.

    Returns:
        The mean over pictures of |x - x0| / |x0|, x being all patch tokens of a picture.
    """
    shares = []
    for start in range(0, len(pictures), BATCH):
        pixels = pixel_values(render_batch(pictures[start : start + BATCH]))
        now, before = _patches(tuned, pixels), _patches(original, pixels)
        shares.append(((now - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)).numpy())
    return mean_drift(np.concatenate(shares))


@torch.no_grad()
def _patches(tower: CLIPVisionModel, pixels: Tensor) -> Tensor:
    states: Tensor = tower(pixel_values=pixels.to(tower.device), output_hidden_states=True).hidden_states[-2]
    return states[:, 1:].float().cpu()


def mean_drift(values: NDArray[np.floating]) -> Drift:
    """Return the mean of per-input drifts with its bootstrap interval.

    Args:
        values: (n,), each >= 0.
    """
    n = len(values)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=BOOTSTRAPS)
    low, high = np.quantile(counts @ values / n, (0.025, 0.975))
    return {"value": float(values.mean()), "n": n, "interval": [float(low), float(high)]}
