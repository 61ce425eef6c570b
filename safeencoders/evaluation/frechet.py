"""FID and KID: how far a set of pictures is from another as a whole, by torchmetrics.

The usual features are Inception's, whose weights are downloaded at first use; figures of other features are on another
scale and comparable only among themselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from safeencoders.errors import BadInputError, MissingExtraError, OfflineError

if TYPE_CHECKING:
    from PIL.Image import Image

_BATCH = 32
_SUBSETS = 100
_SUBSET_SIZE = 1000


class Distances(TypedDict):
    """FID (biased upwards when n is small) and KID (unbiased; mean and standard deviation over subsets)."""

    fid: float
    kid: float
    kid_std: float
    features: str
    n: list[int]


def distances(
    real: Sequence[Image], drawn: Sequence[Image], *, extractor: nn.Module | None = None, device: str | None = None
) -> Distances:
    """Measure one set of pictures against another.

    Args:
        real: pictures to come near to: photographs, or what the unprotected pipeline drew; at least 2.
        drawn: the system's; at least 2. All are made RGB, and must be of one size.
        extractor: uint8 (n, 3, height, width) -> features (n, d); None: Inception-v3's 2,048 (Heusel et al., 2017).
        device: where to compute; the CPU when None.

    Raises:
        BadInputError: a set has fewer than 2 pictures.
        MissingExtraError: torchmetrics or torch-fidelity is not installed.
        OfflineError: Inception's weights are not here and cannot be downloaded.
    """
    if min(len(real), len(drawn)) < 2:
        raise BadInputError(f"expected at least 2 pictures on each side, got {len(real)} and {len(drawn)}.")
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance
    except ImportError as error:
        raise MissingExtraError("torchmetrics", "eval") from error
    size = min(_SUBSET_SIZE, max(2, min(len(real), len(drawn)) // 2))  # a subset of all would have no spread
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save", UserWarning)
            fid = FrechetInceptionDistance(2048 if extractor is None else extractor)
            kid = KernelInceptionDistance(2048 if extractor is None else extractor, subsets=_SUBSETS, subset_size=size)
    except ModuleNotFoundError as error:
        raise MissingExtraError("torch-fidelity", "eval") from error
    except OSError as error:
        raise OfflineError(
            "FID and KID need Inception's weights, which are not in torch's cache and cannot be downloaded; "
            "go online once, or give another extractor."
        ) from error
    for metric in (fid.to(device or "cpu"), kid.to(device or "cpu")):
        for is_real, pictures in ((True, real), (False, drawn)):
            for batch in _batches(pictures):
                metric.update(batch.to(device or "cpu"), real=is_real)
    mean, spread = kid.compute()
    name = "inception-v3, 2048" if extractor is None else type(extractor).__name__
    return {
        "fid": float(fid.compute()),
        "kid": float(mean),
        "kid_std": float(spread),
        "features": name,
        "n": [len(real), len(drawn)],
    }


def _batches(pictures: Sequence[Image]) -> Iterator[Tensor]:
    for start in range(0, len(pictures), _BATCH):
        yield torch.stack([_tensor(picture) for picture in pictures[start : start + _BATCH]])


def _tensor(picture: Image) -> Tensor:
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
