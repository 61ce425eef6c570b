"""Checkpoints: everything a run needs to go on, as one safetensors file; no pickle."""

from __future__ import annotations

import glob
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from safeencoders.errors import BadInputError
from safeencoders.files import write_atomically
from safeencoders.training.distributed import rank

_NUMBERS, _CHECKSUM = "numbers", "crc32"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was read.

    Attributes:
        tensors: by "part/name".
        numbers: everything else.
    """

    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of a part by their own names."""
        start = f"{name}/"
        return {key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)}


def write(path: Path, parts: Mapping[str, Mapping[str, Tensor]], numbers: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        OutputError: the disk is full, or the place not writable; what was there stays.
    """
    from safetensors.torch import save

    tensors = {f"{part}/{name}": t.contiguous() for part, found in parts.items() for name, t in found.items()}
    said = json.dumps(numbers)
    metadata = {"format": "pt", _NUMBERS: said, _CHECKSUM: _checksum(tensors, said)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(tensors, metadata=metadata))


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        BadInputError: the file is no checkpoint, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        said = metadata.get(_NUMBERS, "")
        if metadata.get(_CHECKSUM) != _checksum(tensors, said):
            raise BadInputError("its checksum is wrong")
        return Checkpoint(tensors, json.loads(said))
    except (OSError, SafetensorError, BadInputError) as error:
        raise BadInputError(
            f"expected a checkpoint in {path}, got a file that cannot be read ({error}); delete it to start anew"
        ) from error


def _checksum(tensors: Mapping[str, Tensor], numbers: str) -> str:
    """Return a CRC of everything in a checkpoint; safetensors itself tells a cut file, not a changed one."""
    found = zlib.crc32(numbers.encode())
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def remove_partial(path: Path) -> None:
    """Remove what a process that was killed while it wrote this checkpoint left beside it."""
    if not rank():
        for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
            partial.unlink(missing_ok=True)


def refuse_other_run(path: Path, expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise BadInputError when a checkpoint was made by a run of another recipe, data, model or seed."""
    differing = [name for name in expected if found.get(name) != expected[name]]
    if differing:
        lines = ", ".join(f"{name}: {found.get(name)} there, {expected[name]} now" for name in differing)
        raise BadInputError(f"{path} belongs to another run ({lines}); resume with that, or choose another --out")


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state, by "parameter's number/name"."""
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{number}/{name}": value for number, found in state.items() for name, value in found.items()}


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the state back; learning rates are set by every step."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split("/")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
