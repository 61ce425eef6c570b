"""Loading: a name becomes a plain transformers tower with merged weights, ready to be assigned to a host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safeencoders import deltas
from safeencoders.errors import BadInputError, UnknownNameError
from safeencoders.files import read_json
from safeencoders.pictoworld import models

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import (
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPVisionModel,
        CLIPVisionModelWithProjection,
    )

    Tower = CLIPTextModel | CLIPTextModelWithProjection | CLIPVisionModel | CLIPVisionModelWithProjection

TowerName = Literal["text", "vision"]
DEFAULT = "pictoworld"
ORIGINAL = "none"
_MODEL_TYPES = {"text": "clip_text_model", "vision": "clip_vision_model"}
_PROJECTIONS = {"text": "text_projection.weight", "vision": "visual_projection.weight"}
WEIGHTS = "model.safetensors"


def encoder_folder(name: str, tower: TowerName = "text") -> Path:
    """Return the checked folder of a tower: shipped, or a local folder written by safeencoders.

    Raises:
        UnknownNameError: neither; it suggests the nearest shipped name.
        BadInputError: the encoder has no such tower.
        IntegrityError: a shipped file does not have its recorded sha256.
    """
    if name == ORIGINAL:
        return models.checked(f"{models.GENERATOR}/text_encoder" if tower == "text" else models.CLIP)
    if name in models.tower_names():
        folder = models.WEIGHTS / models.TOWERS / name / tower
        return models.checked(f"{models.TOWERS}/{name}/{tower}") if folder.is_dir() else _no_tower(name, tower)
    folder = Path(name)
    if (folder / "config.json").is_file():
        found = read_json(folder / "config.json").get("model_type")
        if found != _MODEL_TYPES[tower]:
            raise BadInputError(f"expected a CLIP {tower} tower in {folder}; its config.json says {found!r}")
        return folder
    if (folder / tower / "config.json").is_file():
        return encoder_folder(str(folder / tower), tower)
    if any((folder / other / "config.json").is_file() for other in _MODEL_TYPES):
        return _no_tower(name, tower)
    raise UnknownNameError("encoder", name, (ORIGINAL, *models.tower_names()))


def _no_tower(name: str, tower: TowerName) -> Path:
    raise BadInputError(f"expected an encoder with a {tower} tower, got {name!r}, which has none; choose another one")


def load(
    name: str = DEFAULT,
    *,
    tower: TowerName = "text",
    projection: bool = False,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    strength: float = 1.0,
) -> Tower:
    """Return a tower as a plain transformers model: merged, in eval mode, gradients off.

    Args:
        name: a shipped encoder ("pictoworld", "pictoworld/safe-clip"), "none" for the original, or a folder.
        tower: "text" or "vision".
        projection: return the class with the projection head (SDXL's second encoder and IP-Adapter read it).
        dtype: of the weights; float32 when None.
        device: where to put it; the CPU when None.
        strength: how much of what training added counts, in 0..1; 0 is the original up to rounding.

    Returns:
        A ``CLIPTextModel`` (last_hidden_state (n, tokens, width)) or ``CLIPVisionModel``, or its class with projection.

    Raises:
        UnknownNameError: the name is neither shipped nor a folder; it suggests the nearest.
        BadInputError: the tower is not one of this encoder's, the folder holds no CLIP tower, or a strength below 1
            was asked of a folder without a delta.
        IntegrityError: a shipped file is missing, truncated or changed; it names both hashes.

    Example:
        >>> pipe.text_encoder = safeencoders.load("pictoworld")
    """
    if tower not in _MODEL_TYPES:
        raise BadInputError(f"expected tower 'text' or 'vision', got {tower!r}")
    if not 0 <= strength <= 1:
        raise BadInputError(f"expected strength in 0..1, got {strength}")
    import torch

    folder = encoder_folder(name, tower)
    if projection and name == ORIGINAL:  # the pipeline's own text tower has no projection
        folder = models.checked(models.CLIP)
    if (folder / WEIGHTS).is_file():
        model = _model(folder, tower, projection=projection)
        if strength < 1 and name != ORIGINAL:
            deltas.add(model, _delta(name, folder, tower, model, projection=projection), strength - 1)
    elif name not in models.tower_names():
        raise BadInputError(f"expected {WEIGHTS} in {folder}, found none; copy or download the encoder again")
    else:  # shipped as adapters only
        model = _model(models.checked(models.CLIP), tower, projection=projection)
        deltas.add(model, deltas.read(folder / deltas.FILE), strength)
    loaded: Tower = model.to(device or "cpu", dtype or torch.float32).eval().requires_grad_(False)
    return loaded


def _delta(name: str, folder: Path, tower: TowerName, model: nn.Module, *, projection: bool) -> deltas.Delta:
    """Return what training added to a merged tower: from its file, or for a shipped one from the shipped original."""
    if (folder / deltas.FILE).is_file():
        return deltas.read(folder / deltas.FILE)
    if name in models.tower_names():
        return deltas.between(model, _model(models.checked(models.CLIP), tower, projection=projection))
    raise BadInputError(f"expected {deltas.FILE} in {folder} for a strength below 1, found none; load it at 1")


def _model(folder: Path, tower: TowerName, *, projection: bool) -> Any:  # noqa: ANN401
    """Load through from_pretrained, which knows both forms of the keys and keeps the prefix when saved again."""
    import torch
    import transformers
    from safetensors.torch import load_file

    side = "Text" if tower == "text" else "Vision"
    config = getattr(transformers, f"CLIP{side}Config").from_pretrained(folder, local_files_only=True)
    kind = getattr(transformers, f"CLIP{side}Model{'WithProjection' if projection else ''}")
    wanted = (f"{tower}_model.", *([_PROJECTIONS[tower]] if projection else []))
    other = (*(f"{name}_model." for name in _MODEL_TYPES), *_PROJECTIONS.values(), "logit_scale")
    state = load_file(folder / WEIGHTS)
    state = {key: value for key, value in state.items() if key.startswith(wanted) or not key.startswith(other)}
    if projection and _PROJECTIONS[tower] not in state:
        raise BadInputError(f"expected {_PROJECTIONS[tower]} in {folder / WEIGHTS}, found none; load projection=False")
    return models.quiet(kind, None, config=config, state_dict=state, dtype=torch.float32)
