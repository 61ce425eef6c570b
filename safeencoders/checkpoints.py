"""Checkpoint folders: which files of a folder or repository make a tower, and the tensors in them.

Keys come in two forms: with the prefix "text_model." or "vision_model.", or flat. Here they always get the prefix,
which every version of transformers reads; flat keys load as random weights in those before 5.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeencoders import deltas
from safeencoders.catalog import TOWERS, TowerName
from safeencoders.errors import BadInputError
from safeencoders.files import read_json

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLES = (".bin", ".pth")
MODEL_TYPES = {"text": "clip_text_model", "vision": "clip_vision_model"}
PROJECTIONS = {"text": "text_projection.weight", "vision": "visual_projection.weight"}
# A published encoder holds a tower at its top, in a folder of the tower's name, or as a part of a pipeline.
_PARTS = {"text": ("", "text", "text_encoder"), "vision": ("", "vision", "image_encoder")}

log = logging.getLogger(__name__)


def part(names: Collection[str], tower: TowerName) -> str | None:
    """Return the folder, relative to the top, in which a tower's configuration lies; None when there is none."""
    return next((place for place in _PARTS[tower] if _join(place, CONFIG) in names), None)


def wanted(names: Collection[str], tower: TowerName, *, subfolder: str = "", where: str = "") -> tuple[str, ...]:
    """Choose, of all files, those that are needed to load a tower: its configuration, its weights, its delta.

    Args:
        names: of all files, relative to the top.
        tower: which tower.
        subfolder: where to look; the top when empty.
        where: the place's name, for messages.

    Raises:
        BadInputError: there is no CLIP tower, or no weights.
    """
    top = f"{subfolder}/" if subfolder else ""
    inside = {name.removeprefix(top) for name in names if name.startswith(top)}
    place = part(inside, tower)
    if place is None:
        other = [kind for kind in TOWERS if part(inside, kind) is not None]
        raise BadInputError(
            f"expected a {tower} tower ({CONFIG} and weights) in {_join(where, subfolder)}, "
            + (f"got one with a {other[0]} tower only" if other else "found none; check the name")
        )
    here = {Path(name).name for name in inside if _join(place, Path(name).name) == name}
    chosen = [CONFIG, *weight_files(here, where=_join(where, subfolder, place)), *({deltas.FILE} & here)]
    return tuple(_join(subfolder, place, name) for name in chosen)


def weight_files(here: Collection[str], *, where: object = "") -> tuple[str, ...]:
    """Choose the weight files of one folder: safetensors, and a pickle only where there is nothing else.

    Raises:
        BadInputError: there are none, or several of which none has the usual name.
    """
    if WEIGHTS in here:
        return (WEIGHTS,)
    if INDEX in here:
        return (INDEX, *sorted(name for name in here if name.startswith("model-") and name.endswith(".safetensors")))
    if PICKLE in here:
        return (PICKLE,)
    pickles = sorted(name for name in here if name.endswith(PICKLES))
    if len(pickles) != 1:
        found = f"found {', '.join(pickles)}" if pickles else "found none"
        raise BadInputError(f"expected {WEIGHTS} in {where}, {found}; copy or download the encoder again")
    return tuple(pickles)


def read(folder: Path, tower: TowerName) -> dict[str, Tensor]:
    """Read the tensors of a folder's weight files, without those of the other tower, which can be most of a file.

    A pickle is read with ``weights_only``, which builds tensors and runs nothing, and is named in the log.

    Raises:
        BadInputError: a file is missing, damaged, or holds more than tensors.
    """
    first = weight_files([path.name for path in folder.iterdir()], where=folder)[0]
    if first == INDEX:
        shards = sorted(set(_mapping(read_json(folder / INDEX), folder / INDEX, "weight_map").values()))
        return {key: value for shard in shards for key, value in _read_safetensors(folder / shard, tower).items()}
    return _read_safetensors(folder / first, tower) if first == WEIGHTS else _read_pickle(folder / first)


def _read_safetensors(path: Path, tower: TowerName) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    other = tuple(f"{name}_model." for name in TOWERS if name != tower)
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys() if not key.startswith(other)}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"expected weights in {path}: {error}; copy or download the encoder again") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    import torch

    log.warning("%s is a pickle; only tensors are read from it (weights_only). Prefer safetensors.", path.name)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise BadInputError(
            f"expected only tensors in {path}, got something else or a damaged file; it was not run. "
            "Ask its authors for safetensors"
        ) from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise BadInputError(f"expected a mapping from names to tensors in {path}, got something else; wrong file?")
    return dict(found)


def of_tower(state: Mapping[str, Tensor], tower: TowerName, *, projection: bool) -> dict[str, Tensor]:
    """Return a tower's own tensors, their names with its prefix; the other tower's and unused heads are left out."""
    prefix, head = f"{tower}_model.", PROJECTIONS[tower]
    foreign = (*(f"{name}_model." for name in TOWERS), *PROJECTIONS.values(), "logit_scale")
    found = {}
    for key, value in state.items():
        if key.startswith(prefix) or (projection and key == head):
            found[key] = value
        elif not key.startswith(foreign):
            found[prefix + key] = value
    # Checkpoints of earlier versions hold the positions 0, 1, 2 ... as a tensor.
    return {key: value for key, value in found.items() if not key.endswith(".position_ids")}


def check(state: Mapping[str, Tensor], kind: Any, config: Any, tower: TowerName, where: object) -> None:  # noqa: ANN401
    """Compare names and shapes with those of the model that is to hold them; nothing may stay at random values.

    Args:
        state: names with the tower's prefix, as ``of_tower`` gives them.
        kind: the model class.
        config: its configuration.
        tower: which tower.
        where: the place's name, for messages.

    Raises:
        BadInputError: a tensor is missing, too many, or of another shape.
    """
    import torch

    with torch.device("meta"):
        own = of_tower(kind(config).state_dict(), tower, projection=True)
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    for names, word in ((missing, "missing"), (extra, "too many")):
        if names:
            raise BadInputError(
                f"expected the {len(own)} tensors of a {kind.__name__} in {where}; {len(names)} {word}, such as "
                f"{names[0]!r}. The weights do not belong to the {CONFIG} beside them"
            )
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise BadInputError(
                f"expected {name!r} of shape {tuple(value.shape)} as {CONFIG} says, got {tuple(state[name].shape)} "
                f"in {where}; the weights do not belong to the {CONFIG} beside them"
            )


def check_type(folder: Path, tower: TowerName) -> None:
    """Raise BadInputError unless a folder's configuration is that of this kind of tower, or of a whole CLIP."""
    found = _mapping(read_json(folder / CONFIG), folder / CONFIG).get("model_type")
    if found not in {"clip", MODEL_TYPES[tower]}:
        raise BadInputError(f"expected a CLIP {tower} tower in {folder}; its {CONFIG} says {found!r}")


def configuration(folder: Path, tower: TowerName) -> Any:  # noqa: ANN401  a CLIPTextConfig or CLIPVisionConfig
    """Read the configuration of a tower from its own folder or from that of a whole CLIP.

    Raises:
        BadInputError: it is of another model, or cannot be read.
    """
    import transformers

    check_type(folder, tower)
    try:
        return getattr(transformers, f"CLIP{tower.capitalize()}Config").from_pretrained(folder, local_files_only=True)
    except Exception as error:  # their validation raises of many kinds
        raise BadInputError(f"expected a CLIP configuration in {folder / CONFIG}: {error}") from error


def _mapping(content: Any, path: Path, key: str | None = None) -> dict[str, Any]:  # noqa: ANN401
    found = content.get(key) if key and isinstance(content, dict) else content
    if not isinstance(found, dict):
        raise BadInputError(f"expected a mapping {f'{key!r} ' if key else ''}in {path}, got something else")
    return found


def _join(*parts: str) -> str:
    return "/".join(piece for piece in parts if piece)
