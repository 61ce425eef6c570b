"""Deltas: what training added to a tower's weights, small enough to keep beside it, and scaled at will.

A delta file is safetensors. Its metadata say how to read it: ``edit`` is "full", where each tensor NAME is the change
of the weight NAME, or "lora", where NAME.lora_A (r, in, ...) and NAME.lora_B (out, r, ...) give the change
``scaling`` B A. Names are those of a plain CLIPTextModel or CLIPVisionModel. ``provenance`` is JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safeencoders.errors import BadInputError

if TYPE_CHECKING:
    from torch import Tensor, nn

FILE = "delta.safetensors"
SCALING = "scaling"
_PREFIXES = ("text_model.", "vision_model.")


@dataclass(frozen=True)
class Delta:
    """The change of a tower's weights.

    Attributes:
        edit: "full" or "lora".
        tensors: as in the file.
        numbers: further metadata, such as the scaling of "lora".
    """

    edit: Literal["full", "lora"]
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, str]

    def changes(self) -> dict[str, Tensor]:
        """Return the change of every weight by its name, float32 and of the weight's shape."""
        if self.edit == "full":
            return {name: tensor.float() for name, tensor in self.tensors.items()}
        scaling = float(self.numbers[SCALING])
        found = {}
        for name in (key.removesuffix(".lora_A") for key in self.tensors if key.endswith(".lora_A")):
            a, b = self.tensors[f"{name}.lora_A"].float(), self.tensors[f"{name}.lora_B"].float()
            found[name] = scaling * (b.flatten(1) @ a.flatten(1)).reshape(b.shape[0], *a.shape[1:])
        return found

    def save(self, path: Path, provenance: Mapping[str, Any], *, half: bool = False) -> None:
        """Write the file, in float16 when asked."""
        from safetensors.torch import save_file

        tensors = {name: (t.half() if half else t).contiguous() for name, t in self.tensors.items()}
        metadata = {"format": "pt", "edit": self.edit, **self.numbers, "provenance": json.dumps(provenance)}
        save_file(tensors, path, metadata=metadata)


def read(path: Path) -> Delta:
    """Read a delta file.

    Raises:
        BadInputError: the file is not one, or is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"expected a delta in {path}: {error}; make or download it again") from error
    edit = metadata.get("edit")
    if edit not in {"full", "lora"}:
        raise BadInputError(f"expected metadata 'edit' of 'full' or 'lora' in {path}, got {edit!r}")
    if edit == "full":
        return Delta("full", tensors, {})
    found = Delta("lora", tensors, {SCALING: metadata.get(SCALING, "")})
    try:
        complete = 2 * len(found.changes()) == len(tensors) and math.isfinite(float(found.numbers[SCALING]))
    except (KeyError, ValueError, RuntimeError, IndexError):
        complete = False
    if not complete:
        raise BadInputError(f"expected a number {SCALING!r} and pairs of lora_A and lora_B in {path}; make it again")
    return found


def between(tuned: nn.Module, original: nn.Module) -> Delta:
    """Return what lies between an original and a tuned tower of the same class."""
    before = dict(original.named_parameters())
    changes = {name: (value - before[name]).detach() for name, value in tuned.named_parameters()}
    return Delta("full", {name.removeprefix(_prefix(name)): change for name, change in changes.items()}, {})


def add(tower: nn.Module, delta: Delta, factor: float) -> None:
    """Add a multiple of a delta to a tower's weights.

    Args:
        tower: the original, to which ``factor`` 1 gives the tuned tower; or the tuned one, from which -1 takes all.
        delta: what training added.
        factor: any number; 0 changes nothing.

    Raises:
        BadInputError: the delta has weights that the tower has not.
    """
    import torch

    parameters = {name.removeprefix(_prefix(name)): value for name, value in tower.named_parameters()}
    changes = delta.changes()
    foreign = [name for name, change in changes.items() if name not in parameters
               or parameters[name].shape != change.shape]  # fmt: skip
    if foreign:
        raise BadInputError(f"expected a delta of this tower, got one that changes {foreign[0]!r}; wrong file?")
    with torch.no_grad():
        for name, change in changes.items():
            value = parameters[name]
            value.add_(change.to(value.device, torch.float32).mul(factor).to(value.dtype))


def _prefix(name: str) -> str:
    return next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
