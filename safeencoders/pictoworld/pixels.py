"""Pixels in and out of the models: 0..255 for people, -1..1 for CLIP, the autoencoder and the judge alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    import torch
    from transformers import CLIPImageProcessorPil

MEAN = STD = (0.5, 0.5, 0.5)


def pixel_values(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Turn RGB pixels, uint8 (n, height, width, 3), into float32 (n, 3, height, width) in -1..1."""
    import torch

    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def from_images(images: Sequence[Image.Image]) -> NDArray[np.uint8]:
    """Stack PIL images of one size into RGB pixels, uint8 (n, height, width, 3)."""
    return np.stack([np.asarray(image.convert("RGB"), dtype=np.uint8) for image in images])


def image_processor(size: int) -> CLIPImageProcessorPil:
    """Return the PIL image processor that is saved with the world's CLIP; it equals ``pixel_values``."""
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"height": size, "width": size},
        crop_size={"height": size, "width": size},
        do_center_crop=False,
        image_mean=list(MEAN),
        image_std=list(STD),
    )
