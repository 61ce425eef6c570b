"""The world's text-to-image model: a small conditional UNet on the autoencoder's latents.

Flow matching (Lipman et al., 2023): x_s = (1 - s) x_0 + s e, the network predicts e - x_0 from (x_s, 1000 s)
and the last hidden states of the world's CLIP text tower. One caption in ten is dropped, for guidance.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from safeencoders.files import write_atomically
from safeencoders.pictoworld import tokenizer as world_tokenizer
from safeencoders.pictoworld.pixels import pixel_values
from safeencoders.pictoworld.renderer import render_batch
from safeencoders.pictoworld.scenes import Picture, stream
from safeencoders.training.loop import LossTask
from safeencoders.training.world.autoencoder import LATENT_CHANNELS

CHUNK = 400
"""Quadruplets in a chunk of the latent cache; a chunk is drawn from its own number, so the cache can grow."""
DROP = 0.1
NOISE_MEAN, NOISE_SPREAD = 1.5, 1.2
"""Of the noise level's logit: high, for a glyph fills many latent numbers and shows through anything but strong noise,
so that it is only there that the caption must be read."""
SCALING_PICTURES = 300


def build(cross_attention_dim: int) -> UNet2DConditionModel:
    """Return the untrained UNet: one resolution of 4 x 4, width 144, cross-attention in every block."""
    unet: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=4,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(144,),
        layers_per_block=1,
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=6,
        norm_num_groups=16,
    )
    return unet


def scheduler() -> DPMSolverMultistepScheduler:
    """Return the sampler the pipeline is saved with."""
    sampler: DPMSolverMultistepScheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        steps_offset=1,
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
        flow_shift=1.0,
    )
    return sampler


@dataclass(frozen=True)
class Latents:
    """Scaled latents (n, c, h, w) in float16 and the caption of each."""

    values: Tensor
    captions: list[str]


def _steady(picture: Picture) -> Picture:
    """Return the picture without its pixel shifts, which no caption tells and a small network cannot learn."""
    style = replace(picture.style, shifts=((0, 0),) * len(picture.style.shifts))
    return replace(picture, style=style)


def _chunk(index: int, seed: int) -> tuple[list[Picture], list[str]]:
    quads, benigns = stream("generator", seed, index, CHUNK, everything=True)
    pictures = [q.safe for q in quads] + [q.unsafe for q in quads] + [b.picture for b in benigns]
    return [_steady(picture) for picture in pictures], [q.safe_text for q in quads] + [q.unsafe_text for q in quads] + [
        b.text for b in benigns
    ]


@torch.no_grad()
def encode_pictures(autoencoder: AutoencoderKL, pictures: list[Picture]) -> Tensor:
    """Return the unscaled latent means of pictures, float32 (n, c, h, w)."""
    parts = [pixel_values(render_batch(pictures[i : i + 100])) for i in range(0, len(pictures), 100)]
    return torch.cat([autoencoder.encode(part).latent_dist.mean for part in parts]).contiguous()


def scaling_factor(autoencoder: AutoencoderKL) -> float:
    """Return what makes the latents of train pictures have a standard deviation of one."""
    quads, _ = stream("scaling", 0, 0, SCALING_PICTURES, everything=True)
    return 1 / float(encode_pictures(autoencoder, [q.unsafe for q in quads]).std())


def latents(autoencoder: AutoencoderKL, folder: Path, chunks: int, seed: int) -> Latents:
    """Return the latents of the first chunks of the train stream, encoding those that are not yet cached."""
    folder.mkdir(parents=True, exist_ok=True)
    values: list[Tensor] = []
    captions: list[str] = []
    for index in tqdm(range(chunks), desc="latents"):
        path = folder / f"{index:05d}.safetensors"
        if not path.exists():
            pictures, texts = _chunk(index, seed)
            encoded = {"latents": encode_pictures(autoencoder, pictures).half()}
            write_atomically(path, save(encoded, metadata={"captions": json.dumps(texts)}))
        with safe_open(path, framework="pt") as chunk:
            values.append(chunk.get_tensor("latents"))
            captions += json.loads(chunk.metadata()["captions"])
    return Latents(torch.cat(values) * autoencoder.config["scaling_factor"], captions)


class GeneratorTask(LossTask):
    """Squared error of the predicted flow; noise levels are drawn logit-normally (Esser et al., 2024)."""

    def __init__(
        self, text_tower: CLIPTextModel, tokenizer: CLIPTokenizer, data: Latents, batch: int, seed: int
    ) -> None:
        torch.manual_seed(seed)
        self.model = build(text_tower.config.hidden_size)
        self.module = self.model
        self._tower, self._data, self._batch = text_tower.eval().requires_grad_(False), data, batch
        self._ids = torch.cat(
            [world_tokenizer.encode(tokenizer, data.captions[i : i + 2000]) for i in range(0, len(data.captions), 2000)]
        ).to(torch.int16)
        self._empty = world_tokenizer.encode(tokenizer, [""]).to(torch.int16)

    def loss(self, step: int) -> Tensor:  # noqa: ARG002  the loop seeds torch by the step
        """Return the loss of a random batch of the cached latents."""
        chosen = torch.randint(len(self._data.values), (self._batch,))
        clean = self._data.values[chosen].float()
        ids = self._ids[chosen]
        ids[torch.rand(self._batch) < DROP] = self._empty
        with torch.no_grad():
            states = self._tower(input_ids=ids.long()).last_hidden_state
        noise = torch.randn_like(clean)
        level = torch.sigmoid(NOISE_MEAN + NOISE_SPREAD * torch.randn(self._batch))
        mixed = torch.lerp(clean, noise, level[:, None, None, None])
        predicted = self.model(mixed, level * 1000, encoder_hidden_states=states).sample
        return functional.mse_loss(predicted, noise - clean)


def pipeline(
    unet: UNet2DConditionModel, autoencoder: AutoencoderKL, text_tower: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """Put the parts together as a plain Stable Diffusion pipeline without a safety checker."""
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_tower,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler(),  # type: ignore[arg-type]  # annotated as an enum of scheduler names
        safety_checker=None,  # type: ignore[arg-type]  # optional, but not annotated so
        feature_extractor=None,  # type: ignore[arg-type]  # optional, but not annotated so
        requires_safety_checker=False,
    )
