"""Shipping: float16 safetensors with configurations that say float32, and the sha256 of every weight file."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from safeencoders.errors import BadInputError
from safeencoders.files import sha256_file, write_json
from safeencoders.pictoworld import models
from safeencoders.pictoworld.pixels import image_processor
from safeencoders.pictoworld.renderer import SIZE

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from torch import nn
    from transformers import CLIPModel, CLIPTokenizer


def _say_float32(folder: Path) -> None:
    """Replace every dtype of the folder's configurations; a plain load on a CPU is then consistent."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        for part in (config, config.get("text_config"), config.get("vision_config")):
            if isinstance(part, dict) and "dtype" in part:
                part["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n")


def save_clip(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Save a CLIP with its tokenizer and PIL image processor."""
    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor(SIZE).save_pretrained(folder)
    _say_float32(folder)


def save_text_tower(model: CLIPModel, tower: nn.Module, folder: Path) -> None:
    """Save a text tower with the CLIP's projection, under the ``text_model.`` prefix that all readers know.

    Args:
        model: the CLIP it belongs to; its text projection goes along.
        tower: the tuned text tower.
        folder: where to write config.json and model.safetensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = copy.deepcopy(model.config.text_config)  # annotated as dict or None too
    config.architectures = ["CLIPTextModelWithProjection"]
    config.save_pretrained(folder)
    state = {f"text_model.{name}": value for name, value in tower.state_dict().items()}
    state["text_projection.weight"] = model.text_projection.weight
    save_file(
        {name: value.detach().half().contiguous() for name, value in state.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    _say_float32(folder)


def save_pipeline(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Save a pipeline in float16 without changing it."""
    parts = dict(pipeline.components)
    for name in ("vae", "unet", "text_encoder"):
        parts[name] = copy.deepcopy(parts[name]).half()
    type(pipeline)(**parts, requires_safety_checker=False).save_pretrained(folder, safe_serialization=True)
    _say_float32(folder)


def save_judge(net: nn.Module, folder: Path) -> None:
    """Save the judge's weights."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().half() for name, value in net.state_dict().items()}, folder / "model.safetensors")


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
