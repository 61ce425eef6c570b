"""Edits: which weights of a tower may move, and an exact copy of the original to compare with.

The reference is a copy made before anything moves. It is never the tuned model seen through another name:
the reference code of Safe-CLIP injects its adapters into the module it also calls original.
"""

from __future__ import annotations

import copy

from torch import nn


class FullEdit:
    """Every weight of the tower may move, except those under the frozen names.

    Args:
        tower: the original; it is left untouched.
        frozen: beginnings of parameter names that stay as they are, e.g. "embeddings.".
    """

    def __init__(self, tower: nn.Module, frozen: tuple[str, ...] = ()) -> None:
        self._reference = copy.deepcopy(tower).eval().requires_grad_(requires_grad=False)
        self.tuned = copy.deepcopy(tower).eval()
        for name, parameter in self.tuned.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen))

    def reference(self) -> nn.Module:
        """Return the frozen original: bit-equal to the tower given, after any number of steps."""
        return self._reference

    def merge(self) -> nn.Module:
        """Return a plain copy of the tuned tower in eval mode without gradients."""
        return copy.deepcopy(self.tuned).eval().requires_grad_(requires_grad=False)
