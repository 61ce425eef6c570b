"""What the integration of one kind of host has to offer; `hosts` in this package is the table of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import nn

    from safeencoders.integrations.slots import Other, Slot


class Swap(Protocol):
    """A swap that was made and can be undone.

    Attributes:
        towers: what is in the slots now: cast, in eval mode, gradients off.
        notes: what was carried over and what a reader should know, one sentence each.
    """

    towers: dict[str, nn.Module]
    notes: tuple[str, ...]

    def undo(self) -> None:
        """Put back what was there, bit for bit."""


class Host(Protocol):
    """One kind of host; stateless.

    Attributes:
        calls: the functions by which such a host is used; a guard stands before each of them that a host has.
    """

    calls: tuple[str, ...]

    @staticmethod
    def accepts(host: Any) -> bool:  # noqa: ANN401
        """Say whether this is a host of this kind."""

    @staticmethod
    def slots(host: Any) -> tuple[Slot, ...]:  # noqa: ANN401
        """List the components that hold, or may hold, a CLIP tower."""

    @staticmethod
    def others(host: Any) -> tuple[Other, ...]:  # noqa: ANN401
        """List what else reads prompts or images."""

    @staticmethod
    def reads(host: Any, slot: Slot) -> tuple[str, ...]:  # noqa: ANN401
        """Say which fields of a tower's output the host takes; ("unknown",) when it cannot be told."""

    @staticmethod
    def held(host: Any, name: str) -> Any:  # noqa: ANN401
        """Return what a slot holds now: the same object for as long as nothing takes its place; None for nothing."""

    @staticmethod
    def layers(host: Any, call: str, arguments: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ANN401
        """Name the states of its towers that a call asks for, where arguments or configuration can choose them."""

    @staticmethod
    def check(host: Any, towers: Mapping[str, nn.Module]) -> None:  # noqa: ANN401
        """Raise FitError or HostError when the towers cannot be put in; touches nothing."""

    @staticmethod
    def swap(host: Any, towers: Mapping[str, nn.Module]) -> Swap:  # noqa: ANN401
        """Put the towers in; on any error everything is as before."""
