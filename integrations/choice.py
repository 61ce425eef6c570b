"""Which tower goes into which slot: from what the caller named, or from the catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeencoders import catalog
from safeencoders.errors import BadInputError, FitError, HostError
from safeencoders.integrations import fit
from safeencoders.loading import load

if TYPE_CHECKING:
    import torch
    from torch import nn

    from safeencoders.integrations.slots import Slot


@dataclass(frozen=True)
class Origin:
    """Where a tower comes from.

    Attributes:
        encoder: the name it goes by.
        verified: whether it came from the catalog.
        trained_on: fields of the output it was trained on, or None when nobody knows.
    """

    encoder: str
    verified: bool
    trained_on: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Choice:
    """A tower for a slot, in float32 or as the caller gave it, and its origin."""

    tower: nn.Module
    origin: Origin


def choose(slots: Sequence[Slot], encoders: Any) -> dict[str, Choice]:  # noqa: ANN401  as in protect
    """Return what goes into each slot that gets something.

    Args:
        slots: the host's.
        encoders: None, a name, a folder, a tower, or a mapping from slot to one of these.

    Raises:
        HostError: the host has no CLIP tower, or the catalog has nothing for it; the message lists what there is.
        FitError: what was named fits no slot.
        BadInputError: a slot the host has not, or a value of another type.
        UnknownNameError: a name that is neither in the catalog nor a folder.
    """
    held = [slot for slot in slots if slot.tower is not None]
    if not held:
        raise HostError(
            "expected a host with a CLIP text or vision tower, found none: there is nothing to protect here"
        )
    if isinstance(encoders, Mapping):
        unknown = sorted(set(encoders) - {slot.name for slot in slots})
        if unknown:
            raise BadInputError(f"expected slots among {', '.join(s.name for s in slots)}, got {', '.join(unknown)}")
        return {slot.name: _one(slot, encoders[slot.name]) for slot in slots if slot.name in encoders}
    if encoders is None:
        return _from_catalog(held)
    found, faults = {}, []
    for slot in held:
        try:
            found[slot.name] = _one(slot, encoders)
        except (FitError, BadInputError) as error:
            faults.append(f"{slot.name}: {error}")
    if not found:
        raise FitError(f"expected an encoder that fits one of the host's towers; none does. {' '.join(faults)}")
    if len(found) > 1 and not isinstance(encoders, str | Path):
        raise BadInputError(f"the tower fits {', '.join(found)}; say which: encoders={{{next(iter(found))!r}: tower}}")
    return found


def _from_catalog(slots: Sequence[Slot]) -> dict[str, Choice]:
    found = {}
    for slot in slots:
        fitting = catalog.fitting(_config(slot), slot.kind, projection=slot.projection)
        if fitting:
            found[slot.name] = _one(slot, fitting[0].name)
    if not found:
        have = "; ".join(f"{slot.name} has {_sizes(slot)}" for slot in slots)
        raise HostError(
            f"the catalog has no encoder for this host: {have}. list_encoders() names what there is; a folder or a "
            "tower of your own goes in with encoders=..."
        )
    return found


def _one(slot: Slot, encoder: Any) -> Choice:  # noqa: ANN401
    if isinstance(encoder, str | Path):
        name = str(encoder)
        record = catalog.find(name)
        tower = load(name, tower=slot.kind, projection=slot.projection)
        fit.check(slot, tower, _dtype(slot))
        part = record.tower(slot.kind) if record else None
        return Choice(tower, Origin(name, record is not None, part.trained_on if part else None))
    fit.check(slot, encoder, _dtype(slot))
    return Choice(encoder, Origin("a tower of the caller's", verified=False))


def _config(slot: Slot) -> Any:  # noqa: ANN401
    assert slot.tower is not None  # noqa: S101  callers hand over held slots only
    return slot.tower.config


def _dtype(slot: Slot) -> torch.dtype:
    import torch

    found: torch.dtype = getattr(slot.tower, "dtype", torch.float32)
    return found


def _sizes(slot: Slot) -> str:
    config = _config(slot)
    return f"{config.num_hidden_layers} layers of width {config.hidden_size}, {config.hidden_act}"
