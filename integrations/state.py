"""The state of a tower, cheap enough to look at before every generation: has anything changed since it was measured?

It holds a few values of every weight, the scale and activity of every adapter, and the size of the vocabulary. It does
not depend on the device. Whoever changes weights outside of the values looked at is found by `verify`, which looks at
all of them.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

SAMPLES = 8  # of each weight: a LoRA of rank 1 changes all of a matrix, a fused one too


def state(tower: nn.Module, tokenizer: Any = None) -> str:  # noqa: ANN401  any tokenizer
    """Return a hash of the tower's state; equal states give equal hashes.

    Weights on the meta device (sequential offload) count by name and shape only.
    """
    import torch

    found = hashlib.sha256()
    sampled: list[Tensor] = []
    for name, value in tower.state_dict(keep_vars=True).items():
        if not isinstance(value, torch.Tensor):  # what a quantised layer keeps beside its weights
            found.update(f"{name} {value};".encode())
            continue
        found.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        value = value.dequantize() if value.is_quantized else value  # noqa: PLW2901
        if value.device.type != "meta" and value.numel():
            flat = value.detach().reshape(-1) if value.is_contiguous() else value.detach().flatten()
            sampled.append(flat[:: max(1, flat.numel() // SAMPLES)][:SAMPLES].double())
    if sampled:
        by_device = {part.device for part in sampled}
        values = torch.cat([torch.cat([p for p in sampled if p.device == d]).cpu() for d in sorted(by_device, key=str)])
        found.update(values.numpy().tobytes())
    for name, module in tower.named_modules():
        if hasattr(module, "scaling") and hasattr(module, "active_adapters"):  # an adapter's layer
            found.update(f"{name} {module.scaling} {module.active_adapters} {module.disable_adapters};".encode())
    if tokenizer is not None:
        found.update(f"{len(tokenizer)} {tokenizer.eos_token_id}".encode())
    return found.hexdigest()
