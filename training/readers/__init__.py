"""Readers: where pairs of safe and unsafe texts and pictures come from, what is in them, and their batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from safeencoders.training.objectives.terms import Role


class Reader(Protocol):
    """A source of batches: a mapping from role to model inputs; the same step always gives the same batch.

    Texts are token ids, int64 (n, context); images are pixel values, float32 (n, 3, height, width).

    Attributes:
        roles: the roles of every batch.
    """

    roles: frozenset[Role]

    def batch(self, step: int, part: tuple[int, int] = (0, 1)) -> dict[Role, Tensor]:
        """Return the rows of the step's batch that fall to a process.

        Args:
            part: which process this is, and how many there are.
        """
        ...
