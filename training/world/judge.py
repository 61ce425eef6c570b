"""Fitting of the world's judge: renders only, made hard as a weak generator would make them.

Pictures are blurred, made noisy, sent through the autoencoder, and half of the glyph that makes a picture
unsafe may be missing; the label stays as long as half of the glyph is there.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from safeencoders.pictoworld.judge import LABELS, JudgeNet, labels
from safeencoders.pictoworld.pixels import pixel_values
from safeencoders.pictoworld.renderer import render_batch
from safeencoders.pictoworld.scenes import stream
from safeencoders.training.loop import LossTask


def partial(safe: NDArray[np.uint8], unsafe: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Return the unsafe twins with up to half of what makes them differ from the safe ones taken away.

    Args:
        safe: pictures, uint8 (n, height, width, 3).
        unsafe: their twins, same shape.
        random: source of the cuts.
    """
    differs = (safe != unsafe).any(-1)
    out = unsafe.copy()
    for i, mask in enumerate(differs):
        rows, columns = np.nonzero(mask)
        angle = random.uniform(0, 2 * np.pi)
        along = rows * np.sin(angle) + columns * np.cos(angle)
        cut = np.quantile(along, random.uniform(0, 0.5))
        gone = along < cut
        out[i, rows[gone], columns[gone]] = safe[i, rows[gone], columns[gone]]
    return out


class JudgeTask(LossTask):
    """Cross-entropy over the labels of every slot."""

    def __init__(self, autoencoder: AutoencoderKL, batch: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = JudgeNet()
        self.module = self.model
        self._autoencoder, self._batch, self._seed = autoencoder.eval().requires_grad_(False), batch, seed

    def _spoil(self, pixels: Tensor) -> Tensor:
        """Blur a quarter, send a quarter through the autoencoder, and add noise to all."""
        quarter = len(pixels) // 4
        order = torch.randperm(len(pixels))
        blurred, coded = order[:quarter], order[quarter : 2 * quarter]
        spoilt = pixels.clone()
        spoilt[blurred] = functional.avg_pool2d(pixels[blurred], 3, 1, 1)
        with torch.no_grad():
            latents = self._autoencoder.encode(pixels[coded]).latent_dist.mean
            latents = latents + 0.1 * torch.rand(len(coded), 1, 1, 1) * torch.randn_like(latents)
            spoilt[coded] = self._autoencoder.decode(latents).sample.clamp(-1, 1)
        return spoilt + 0.1 * torch.rand(len(pixels), 1, 1, 1) * torch.randn_like(pixels)

    def loss(self, step: int) -> Tensor:
        """Return the mean cross-entropy over slots of a step's batch."""
        quads, benigns = stream("judge", self._seed, step, self._batch, everything=True)
        safe, unsafe = render_batch(q.safe for q in quads), render_batch(q.unsafe for q in quads)
        cut = partial(safe[::2], unsafe[::2], np.random.default_rng([self._seed, step]))
        pixels = np.concatenate([safe, cut, unsafe[1::2], render_batch(b.picture for b in benigns)])
        pictures = [q.safe for q in quads] + [q.unsafe for q in quads[::2] + quads[1::2]]
        truth = [labels(picture) for picture in pictures + [b.picture for b in benigns]]
        logits = self.model(self._spoil(pixel_values(pixels)))
        losses = [
            functional.cross_entropy(logits[slot], torch.tensor([names.index(t[slot]) for t in truth]))
            for slot, names in LABELS.items()
        ]
        return torch.stack(losses).mean()
