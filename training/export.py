"""Export: a tuned tower as a folder that plain transformers loads, with what was added to it beside."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from safeencoders import deltas

if TYPE_CHECKING:
    from torch import nn
    from transformers import CLIPModel

    from safeencoders.training.edits import Edit
    from safeencoders.training.objectives.terms import TowerName

CLASSES = {"text": "CLIPTextModelWithProjection", "vision": "CLIPVisionModelWithProjection"}
PROJECTIONS = {"text": "text_projection", "vision": "visual_projection"}


def say_float32(folder: Path) -> None:
    """Replace every dtype of the folder's configurations; a plain load on a CPU is then consistent."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        for part in (config, config.get("text_config"), config.get("vision_config")):
            if isinstance(part, dict) and "dtype" in part:
                part["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n")


def save_tower(clip: CLIPModel, name: TowerName, edit: Edit, folder: Path, provenance: Mapping[str, Any]) -> None:
    """Save a merged tower and its delta.

    Args:
        clip: the CLIP it belongs to; its projection goes along.
        edit: the tuned tower.
        folder: where to write config.json, model.safetensors and delta.safetensors.
        provenance: kept in the delta: recipe, seed, steps, sha256 of the start.
    """
    save_merged(clip, name, edit.merge(), folder)
    edit.delta().save(folder / deltas.FILE, provenance)


def save_merged(clip: CLIPModel, name: TowerName, tower: nn.Module, folder: Path, *, half: bool = False) -> None:
    """Save a tower with the CLIP's projection, under the prefix that all readers know; float16 for shipping."""
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = copy.deepcopy(clip.config.text_config if name == "text" else clip.config.vision_config)
    projection = PROJECTIONS[name]
    head = getattr(clip, projection).weight
    config.architectures = [CLASSES[name]]
    config.projection_dim = head.shape[0]  # a full CLIP's own may stand in its outer configuration only
    config.save_pretrained(folder)
    state = {f"{name}_model.{key}": value for key, value in tower.state_dict().items()}
    state[f"{projection}.weight"] = head
    save_file(
        {key: (value.half() if half else value).detach().cpu().contiguous() for key, value in state.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    say_float32(folder)
