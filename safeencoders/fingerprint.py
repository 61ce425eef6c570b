"""The fingerprint of a model's weights, for caches, manifests and resumed runs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def fingerprint(module: nn.Module) -> str:
    """Return the sha256 of a module's weights: names, dtypes and values, in the order of the names.

    Equal exactly when all are equal bit for bit.
    """
    import torch

    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode() + str(value.dtype).encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
