"""The world's autoencoder: pictures of 64 x 64 to latents of 32 x 4 x 4 and back (Kingma and Welling, 2014).

Look-alikes and concepts of all modes are in its diet, so that it is no filter itself. Encoder and decoder are
fitted together first, then the decoder alone: the latents the generator learns are fixed by then.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from safeencoders.pictoworld.pixels import pixel_values
from safeencoders.pictoworld.renderer import SIZE, render_batch
from safeencoders.pictoworld.scenes import stream
from safeencoders.training.loop import LossTask

LATENT_CHANNELS = 32
KL_WEIGHT = 0.01


def build() -> AutoencoderKL:
    """Return the untrained autoencoder: four halvings, no attention."""
    model: AutoencoderKL = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 5,
        up_block_types=("UpDecoderBlock2D",) * 5,
        block_out_channels=(16, 32, 64, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )
    return model


class AutoencoderTask(LossTask):
    """Absolute plus squared error of the pixels, and a small Kullback-Leibler term on the latents.

    Args:
        batch: quadruplets in a step; one picture of each is used.
        seed: of weights and batches.
        start: an autoencoder whose encoder is kept as it is; only its decoder is fitted further.
    """

    def __init__(self, batch: int, seed: int, start: AutoencoderKL | None = None) -> None:
        torch.manual_seed(seed)
        self.model = start or build()
        self.module = self.model
        self._batch, self._seed, self._name = batch, seed, "decoder" if start else "autoencoder"
        if start:
            for part in (start.encoder, start.quant_conv):
                if part is not None:
                    part.requires_grad_(requires_grad=False)

    def loss(self, step: int) -> Tensor:
        """Return the loss of a step's pictures."""
        quads, benigns = stream(self._name, self._seed, step, self._batch, everything=True)
        pictures = [q.unsafe if i % 2 else q.safe for i, q in enumerate(quads)] + [b.picture for b in benigns]
        pixels = pixel_values(render_batch(pictures))
        with torch.autocast("cpu", torch.bfloat16):
            posterior = self.model.encode(pixels).latent_dist
            latents = posterior.mean if self._name == "decoder" else posterior.sample()
            error: Tensor = self.model.decode(latents).sample.float() - pixels
        kl: Tensor = posterior.kl().float().mean() / (SIZE * SIZE * 3)
        return error.abs().mean() + error.square().mean() + KL_WEIGHT * kl
