"""What several processes need to equal one: rows that meet, and gradients that add up.

Every process computes the loss of the whole batch on the gathered embeddings, of which only its own rows carry a
gradient; the sum of the processes' gradients is then the gradient of that loss, whatever the loss is. So no wrapper
around the model is needed, and none can be bypassed, as the released HySAC script does with its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")


def processes() -> int:
    """Return how many processes train together; 1 without a process group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return which of them this is, from 0."""
    return distributed.get_rank() if processes() > 1 else 0


def gather_rows(local: Tensor) -> Tensor:
    """Return the rows of all processes, in their order; this process's own rows keep their gradient.

    Args:
        local: (n, ...), the same shape on every process.
    """
    if processes() == 1:
        return local
    parts = [torch.empty_like(local) for _ in range(processes())]
    distributed.all_gather(parts, local.detach().contiguous())
    parts[rank()] = local
    return torch.cat(parts)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of all processes, in one message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if processes() == 1 or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    parts = torch.split(flat, [g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def total(value: float) -> float:
    """Return the sum of a number over the processes."""
    if processes() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64)
    if distributed.get_backend() == "nccl":
        tensor = tensor.cuda()
    distributed.all_reduce(tensor)
    return float(tensor)


def from_first(value: T) -> T:
    """Return the first process's value on every process."""
    if processes() == 1:
        return value
    box: list[T] = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]
