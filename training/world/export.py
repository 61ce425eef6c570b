"""Shipping: float16 safetensors with configurations that say float32, and the sha256 of every weight file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from safeencoders import deltas
from safeencoders.errors import BadInputError
from safeencoders.files import sha256_file, write_json
from safeencoders.pictoworld import models
from safeencoders.pictoworld.pixels import image_processor
from safeencoders.pictoworld.renderer import SIZE
from safeencoders.training.export import save_merged, say_float32

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from torch import nn
    from transformers import CLIPModel, CLIPTokenizer, LlavaForConditionalGeneration, LlavaProcessor

    from safeencoders.training.edits import Edit
    from safeencoders.training.objectives.terms import TowerName


def save_clip(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Save a CLIP with its tokenizer and PIL image processor."""
    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor(SIZE).save_pretrained(folder)
    say_float32(folder)


def ship_tower(clip: CLIPModel, name: TowerName, edit: Edit, folder: Path, provenance: Mapping[str, Any]) -> None:
    """Save a tuned tower in float16: a full edit merged, adapters as their factors only."""
    folder.mkdir(parents=True, exist_ok=True)
    delta = edit.delta()
    if delta.edit == "lora":
        delta.save(folder / deltas.FILE, provenance, half=True)
    else:
        save_merged(clip, name, edit.merge(), folder, half=True)


def save_pipeline(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Save a pipeline in float16 without changing it."""
    parts = dict(pipeline.components)
    for name in ("vae", "unet", "text_encoder"):
        parts[name] = copy.deepcopy(parts[name]).half()
    type(pipeline)(**parts, requires_safety_checker=False).save_pretrained(folder, safe_serialization=True)
    say_float32(folder)


def save_judge(net: nn.Module, folder: Path) -> None:
    """Save the judge's weights."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().half() for name, value in net.state_dict().items()}, folder / "model.safetensors")


def save_vlm(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Save a vision-language model with its processor."""
    copy.deepcopy(model).half().save_pretrained(folder)
    processor.save_pretrained(folder)
    say_float32(folder)


def write_hashes(weights: Path) -> None:
    """Record the sha256 of every weight file under the folder."""
    files = sorted(weights.rglob("*.safetensors"))
    write_json(weights / models.HASHES, {path.relative_to(weights).as_posix(): sha256_file(path) for path in files})


def finished(folder: Path) -> Path:
    """Return the folder of an exported model.

    Raises:
        BadInputError: it is not there yet.
    """
    if not folder.is_dir():
        raise BadInputError(f"expected the finished model {folder}; run `safeencoders world build` for it first")
    return folder
