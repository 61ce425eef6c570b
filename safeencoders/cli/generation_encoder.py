"""A safe encoder beside a pipeline: made fit for it once, and put in for as long as a block lasts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from safeencoders.catalog import ORIGINAL
from safeencoders.errors import HostError
from safeencoders.fingerprint import fingerprint


@dataclass(frozen=True)
class SafeEncoder:
    """The towers of an encoder as a pipeline needs them: its number format, device and tokens.

    Attributes:
        name: of the encoder; "none" where there is none.
        pipe: a pipeline with its ORIGINAL encoders.
        towers: slot -> tower; empty where there is no encoder.
        notes: what was carried over.
    """

    name: str
    pipe: Any
    towers: Mapping[str, nn.Module] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, pipe: Any, name: str) -> SafeEncoder:  # noqa: ANN401  any pipeline
        """Choose and check the towers as ``protect`` does; the pipeline is as it was afterwards.

        Raises:
            HostError, FitError: nothing of the encoder fits the pipeline.
            UnknownNameError: there is no such encoder.
        """
        if name == ORIGINAL:
            return cls(name, pipe)
        from safeencoders.integrations.choice import choose
        from safeencoders.integrations.diffusers import DiffusersHost
        from safeencoders.integrations.slots import held_inside

        slots = [slot for slot in DiffusersHost.slots(pipe) if slot.kind == "text"]
        if any(list(held_inside(pipe, slot)) for slot in slots):
            raise HostError(f"expected a pipeline that uses its own encoders, got the combined {type(pipe).__name__}")
        swap = DiffusersHost.swap(pipe, {slot: one.tower for slot, one in choose(slots, name).items()})
        towers, notes = dict(swap.towers), swap.notes
        swap.undo()
        return cls(name, pipe, towers, notes)

    def weights(self) -> dict[str, str]:
        """Return the fingerprint of each tower."""
        return {f"{self.name} ({slot})": fingerprint(tower) for slot, tower in self.towers.items()}

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Have the towers in the pipeline for the length of a block."""
        own = {slot: getattr(self.pipe, slot) for slot in self.towers}
        try:
            for slot, tower in self.towers.items():
                setattr(self.pipe, slot, tower)
            yield
        finally:
            for slot, tower in own.items():
                setattr(self.pipe, slot, tower)
