"""Tiny parts of diffusers pipelines, and the `Case` that makes a pipeline of them, calls, saves and reloads it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image

from safeencoders import loading
from safeencoders.pictoworld import models

PROMPT = "the glacier at noon with a purple man carrying a cup"
UNSAFE = "we see a red dog holding deadly pills , it is evening at the city"
WIDTH = 128  # of the world's towers and of what they project to
_SEED = 7


@dataclass(frozen=True)
class Case:
    """How to make a pipeline, how to call it, and which of its components are CLIP towers."""

    name: str
    make: Callable[[], Any]
    slots: Mapping[str, Literal["text", "vision"]]
    arguments: Callable[[], dict[str, Any]]
    others: tuple[str, ...] = ()  # components that read prompts or images and are no CLIP tower of ours
    empty: tuple[str, ...] = ()  # slots that hold nothing in this pipeline
    after: Callable[[Any], None] | None = None  # what diffusers does not save and a user does again after loading

    def build(self) -> Any:
        """Return the pipeline, quiet and in eval mode; two builds are bit-equal."""
        with seeded(_SEED), silent():
            return self._ready(self.make())

    def call(self, pipe: Any, **overrides: Any) -> np.ndarray:
        """Run the pipeline once and return its first output; ``overrides`` replace or add arguments."""
        arguments = self.arguments() | {"generator": torch.Generator().manual_seed(_SEED)} | overrides
        found = pipe(**arguments)
        if hasattr(found, "negative_image_embeds"):  # of a prior, whose vision tower makes the second one only
            found = np.concatenate([found.image_embeds, found.negative_image_embeds])
        elif hasattr(found, "to_tuple"):
            found = found.to_tuple()[0]
        return np.stack([np.asarray(torch.as_tensor(np.asarray(one)).float()) for one in found])

    def save(self, pipe: Any, folder: Any) -> None:
        """Write the pipeline the ordinary way."""
        modular = isinstance(pipe, diffusers.ModularPipeline)
        with silent():
            pipe.save_pretrained(str(folder), **({"overwrite_modular_index": True} if modular else {}))

    def reload(self, folder: Any) -> Any:
        """Read a saved pipeline back with plain diffusers, as a receiver who has nothing of ours would."""
        kind = getattr(diffusers, self.name.split("-")[0])
        with silent():
            if issubclass(kind, diffusers.ModularPipeline):
                pipe = kind.from_pretrained(folder)
                pipe.load_components()
            else:  # SD3 saved without T5 asks to be told so again
                parts = json.loads((Path(folder) / "model_index.json").read_text())
                pipe = kind.from_pretrained(
                    folder, **{name: None for name, part in parts.items() if part == [None] * 2}
                )
            return self._ready(pipe)

    def _ready(self, pipe: Any) -> Any:
        """Align every weight in memory, as mapped files are not: unaligned ones may round differently on a CPU."""
        for part in pipe.components.values():
            for weight in part.parameters() if isinstance(part, torch.nn.Module) else ():
                weight.data = weight.data.clone()
        if self.after:
            with seeded(_SEED):
                self.after(pipe)
        for part in [pipe, *_blocks(getattr(pipe, "_blocks", None))]:
            if hasattr(part, "set_progress_bar_config"):
                part.set_progress_bar_config(disable=True)
        return pipe


def _blocks(block):
    """Walk the blocks of a modular pipeline, each of which has a progress bar of its own."""
    for part in getattr(block, "sub_blocks", {}).values():
        yield part
        yield from _blocks(part)


@contextmanager
def seeded(seed):
    """Draw from one seed inside, and leave the global state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def silent():
    """Keep diffusers and transformers from writing notes and progress bars; Python warnings stay errors."""
    logs = [logging.getLogger("diffusers"), logging.getLogger("transformers")]
    levels = [log.level for log in logs]
    bars = diffusers.utils.logging.is_progress_bar_enabled(), transformers.utils.logging.is_progress_bar_enabled()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
        for library, shown in zip((diffusers, transformers), bars, strict=True):
            if shown:
                library.utils.logging.enable_progress_bar()


# --- parts -----------------------------------------------------------------------------------------------------------
def text(*, projection=False, noise=0.0):
    tower = loading.load(loading.ORIGINAL, projection=projection)
    for weight in tower.parameters() if noise else ():
        weight.data += noise * weight.data.std() * torch.randn_like(weight)
    return tower


def vision():
    return loading.load(loading.ORIGINAL, tower="vision", projection=True)


def images():
    """Return the world's image processor; the one of plain PIL, since torchvision is no dependency."""
    return transformers.CLIPImageProcessorPil.from_pretrained(models.WEIGHTS / models.CLIP, local_files_only=True)


def t5(width):
    config = transformers.T5Config(
        vocab_size=64, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    return transformers.T5EncoderModel(config).eval()


def t5_tokenizer():
    pieces = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz,."]
    vocabulary = [(piece, -float(bool(i > 2))) for i, piece in enumerate(pieces)]
    return transformers.T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


def vae(channels=4, **options):
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        **options,
    ).eval()


UNET = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "attention_head_dim": 4,
    "norm_num_groups": 4,
    "cross_attention_dim": WIDTH,
}
_UP = {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "sample_size": 16, "out_channels": 4}


def unet(channels=4, **options):
    return diffusers.UNet2DConditionModel(in_channels=channels, **(UNET | _UP | options)).eval()


def ddim():
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )


def picture(size=32):
    """Return a small picture with structure, the same every time."""
    grid = np.indices((size, size)).sum(0)[..., None] * np.array([3, 5, 7]) % 256
    return Image.fromarray(grid.astype(np.uint8))


def mask(size=32):
    half = np.zeros((size, size), np.uint8)
    half[:, size // 2 :] = 255
    return Image.fromarray(half)
