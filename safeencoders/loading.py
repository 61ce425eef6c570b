"""Loading: a name becomes a plain transformers tower with merged weights, ready to be assigned to a host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from safeencoders.errors import BadInputError, UnknownNameError
from safeencoders.files import read_json
from safeencoders.pictoworld import models

if TYPE_CHECKING:
    import torch
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

DEFAULT = "pictoworld"
ORIGINAL = "none"


def encoder_folder(name: str) -> Path:
    """Return the checked folder of a text tower: shipped, or a local folder written by safeencoders.

    Raises:
        UnknownNameError: neither; it suggests the nearest shipped name.
        IntegrityError: a shipped file does not have its recorded sha256.
    """
    if name == ORIGINAL:
        return models.checked(f"{models.GENERATOR}/text_encoder")
    if name in models.tower_names():
        return models.checked(f"{models.TOWERS}/{name}/text")
    folder = Path(name)
    for candidate in (folder, folder / "text"):
        if (candidate / "config.json").is_file():
            if read_json(candidate / "config.json").get("model_type") != "clip_text_model":
                raise BadInputError(f"expected a CLIP text tower in {candidate}; its config.json is of another model")
            return candidate
    raise UnknownNameError("encoder", name, (ORIGINAL, *models.tower_names()))


def load(
    name: str = DEFAULT,
    *,
    tower: Literal["text", "vision"] = "text",
    projection: bool = False,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Return a tower as a plain transformers model: merged, in eval mode, gradients off.

    Args:
        name: a shipped encoder ("pictoworld", "pictoworld/safe-clip"), "none" for the original, or a folder.
        tower: "text"; no vision tower is shipped yet.
        projection: return the class with the projection head (SDXL's second encoder reads it).
        dtype: of the weights; float32 when None.
        device: where to put it; the CPU when None.

    Returns:
        A ``CLIPTextModel`` (last_hidden_state (n, tokens, width)), or ``CLIPTextModelWithProjection``.

    Raises:
        UnknownNameError: the name is neither shipped nor a folder; it suggests the nearest.
        BadInputError: the tower is not one of this encoder's, or the folder holds no CLIP text tower.
        IntegrityError: a shipped file is missing, truncated or changed; it names both hashes.

    Example:
        >>> pipe.text_encoder = safeencoders.load("pictoworld")
    """
    if tower != "text":
        raise BadInputError(f"expected tower='text', got {tower!r}: encoder {name!r} has a text tower only")
    import torch
    from safetensors.torch import load_file
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    folder = encoder_folder(name)
    config = CLIPTextConfig.from_pretrained(folder, local_files_only=True)
    state = load_file(folder / "model.safetensors")
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    if not projection:
        state.pop("text_projection.weight", None)
    # Through from_pretrained, which knows both forms of the keys and keeps the prefix when the tower is saved again.
    model = models.quiet(kind, None, config=config, state_dict=state, dtype=dtype or torch.float32)
    loaded: CLIPTextModel | CLIPTextModelWithProjection = model.to(device or "cpu").eval().requires_grad_(False)
    return loaded
