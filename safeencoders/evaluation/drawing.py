"""Drawing with a diffusers pipeline so that two encoders differ by the encoder alone.

The noise of item i depends on (seed, i) only: not on the encoder, the prompt, or the batch it is drawn in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from safeencoders.fingerprint import fingerprint
from safeencoders.pictoworld import tokenizer as world_tokenizer

SAMPLER_STEPS = 12
GUIDANCE = 3.0
BATCH = 50

Pixels = NDArray[np.uint8]


def noise(seed: int, indices: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Return standard normal latents, float32 (len(indices), *shape); row j depends on (seed, indices[j]) only."""
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + i)) for i in indices]
    return torch.stack(rows)


def draw(
    pipe: Any,  # noqa: ANN401  a StableDiffusionPipeline or what behaves like one
    prompts: Sequence[str],
    seed: int,
    *,
    negative_prompt: str | None = None,
    steps: int = SAMPLER_STEPS,
    guidance: float = GUIDANCE,
    batch: int = BATCH,
    indices: Sequence[int] | None = None,
    title: str = "draw",
) -> Pixels:
    """Draw one picture for each prompt.

    Args:
        indices: number of each item, which chooses its noise; None: its place in `prompts`.
        title: stands before the progress bar.

    Returns:
        RGB, uint8 (n, height, width, 3).

    Raises:
        BadInputError: a prompt is longer than the pipeline's context.
    """
    numbers = list(range(len(prompts)) if indices is None else indices)
    for start in range(0, len(prompts), 1000):
        world_tokenizer.encode(pipe.tokenizer, [*prompts[start : start + 1000], negative_prompt or ""])
    parts: list[Pixels] = []
    with tqdm(total=len(prompts), desc=title, mininterval=2, leave=False) as bar:
        for start in range(0, len(prompts), batch):
            part = list(prompts[start : start + batch])
            latents = noise(seed, numbers[start : start + batch], _latent_shape(pipe))
            parts.append(_call(pipe, part, negative_prompt, steps, guidance, latents))
            bar.update(len(part))
    return np.concatenate(parts)


def _latent_shape(pipe: Any) -> tuple[int, int, int]:  # noqa: ANN401  as in draw
    config = pipe.unet.config
    return (config.in_channels, config.sample_size, config.sample_size)


def _call(
    pipe: Any,  # noqa: ANN401  as in draw
    prompts: list[str],
    negative_prompt: str | None,
    steps: int,
    guidance: float,
    latents: Tensor,
) -> Pixels:
    images = pipe(
        prompt=prompts,
        negative_prompt=None if negative_prompt is None else [negative_prompt] * len(prompts),
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=latents,
        output_type="np",
    ).images
    pixels: Pixels = np.rint(np.asarray(images) * 255).clip(0, 255).astype(np.uint8)
    return pixels


@contextmanager
def text_tower(pipe: Any, tower: nn.Module) -> Iterator[None]:  # noqa: ANN401  as in draw
    """Put a text tower into the pipeline for the length of a block, and the pipeline's own back afterwards."""
    own = pipe.text_encoder
    pipe.text_encoder = tower
    try:
        yield
    finally:
        pipe.text_encoder = own


@dataclass
class Artist:
    """A pipeline that remembers what it drew: the same tower, negative prompt, prompt and noise give the same picture.

    So a baseline that leaves a prompt as it is costs nothing and shows exactly the original's picture.
    """

    pipe: Any
    seed: int = 0
    steps: int = SAMPLER_STEPS
    guidance: float = GUIDANCE
    batch: int = BATCH
    _drawn: dict[tuple[str, str | None, str, int], Pixels] = field(default_factory=dict, repr=False)

    def draw(
        self, tower: nn.Module, prompts: Sequence[str], *, negative_prompt: str | None = None, title: str = "draw"
    ) -> Pixels:
        """Draw each prompt with the tower and the noise of its place; only what is new is computed."""
        weights = fingerprint(tower)
        keys = [(weights, negative_prompt, prompt, i) for i, prompt in enumerate(prompts)]
        missing = [key for key in keys if key not in self._drawn]
        if missing:
            with text_tower(self.pipe, tower):
                pixels = draw(
                    self.pipe,
                    [key[2] for key in missing],
                    self.seed,
                    negative_prompt=negative_prompt,
                    steps=self.steps,
                    guidance=self.guidance,
                    batch=self.batch,
                    indices=[key[3] for key in missing],
                    title=title,
                )
            self._drawn.update(zip(missing, pixels, strict=True))
        return np.stack([self._drawn[key] for key in keys])
