"""Originals set aside: what a swap takes out of a host can be put back bit for bit, and needs no memory meanwhile.

A component is copied with its tensors on the meta device, and the tensors are written to a temporary file that has no
name (nobody else can read it, and it is gone with the process). While somebody else still holds the component itself,
that very object is what comes back. What has state beyond its tensors is kept as it is.
"""

from __future__ import annotations

import copy
import tempfile
import weakref
from collections.abc import Callable
from typing import IO, TYPE_CHECKING

from safeencoders.errors import HostError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_PLAIN = ("torch.nn.modules.", "transformers.", "peft.")  # modules whose state is their tensors and simple attributes
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

_CAPTURE = "transformers.utils.output_capturing"  # hooks left by the first call that asked for hidden states


def copied(module: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a deep copy of a module in which every parameter and buffer went through ``change``; ties are kept.

    Flags such as ``requires_grad`` and ``training`` are those of the module, which is not touched.
    """
    memo = {id(tensor): _like(tensor, change(tensor.detach())) for tensor in _tensors(module)}
    made: nn.Module = copy.deepcopy(module, memo)
    return made


class Original:
    """A component taken out of a host.

    Attributes:
        reason: why it stays in memory; empty when it does not.
    """

    def __init__(self, module: nn.Module, *, hold: bool = False) -> None:
        """Set a component aside, without touching it; only a weak reference to it is kept, unless told to hold it."""
        self._alive = weakref.ref(module)
        self._held: nn.Module | None = None
        self.reason = "it was given back" if hold else _oddity(module)
        if not self.reason:
            try:
                self._file, self._places = _write(_tensors(module))
                weakref.finalize(self, self._file.close)
            except OSError as error:
                self.reason = f"no room for a temporary file ({error.strerror})"
        if self.reason:
            self._held = module
        else:
            self._skeleton = copied(module, lambda tensor: tensor.to("meta"))

    def restore(self) -> nn.Module:
        """Return the component itself while it lives, else its equal: class, weights, buffers, devices and flags."""
        living = self._alive()
        if living is not None:
            return living
        places = iter(self._places)
        return copied(self._skeleton, lambda tensor: _read(self._file, tensor, next(places)))


def _tensors(module: nn.Module) -> list[Tensor]:
    """Return every parameter and buffer once, the buffers that are not saved too, in the order of the module."""
    return [*module.parameters(), *module.buffers()]


def _like(tensor: Tensor, value: Tensor) -> Tensor:
    """Return a value as a parameter where the tensor is one."""
    import torch

    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(value, requires_grad=tensor.requires_grad)
    return value


def _oddity(module: nn.Module) -> str:
    """Return why a module's tensors do not say all about it, or nothing."""
    import torch

    if any(type(t) not in {torch.Tensor, torch.nn.Parameter} or t.layout != torch.strided for t in _tensors(module)):
        return "its weights are of a special kind, such as quantised ones"
    if any(tensor.is_meta for tensor in _tensors(module)):
        return "its weights are kept elsewhere"
    for part in module.modules():
        if not type(part).__module__.startswith(_PLAIN):
            return f"{type(part).__name__} is no plain layer"
        state = vars(part)
        if state.get("_compiled_call_impl") is not None:
            return "it is compiled"
        hooks = [hook for name in _HOOKS for hook in state[name].values()]
        if any(getattr(hook, "__module__", "") != _CAPTURE for hook in hooks) or "_hf_hook" in state:
            return "it has hooks"
    return ""


def _write(tensors: list[Tensor]) -> tuple[IO[bytes], list[tuple[int, torch.device]]]:
    """Write tensors one after the other to a file without a name; return it with where each begins and its device."""
    import torch

    file = tempfile.TemporaryFile()  # noqa: SIM115  closed when the Original is dropped
    places = []
    for tensor in tensors:
        places.append((file.tell(), tensor.device))
        file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    file.flush()
    return file, places


def _read(file: IO[bytes], like: Tensor, place: tuple[int, torch.device]) -> Tensor:
    """Read one tensor of the shape and dtype of ``like`` back to its device."""
    import torch

    start, device = place
    raw = torch.empty(like.numel() * like.element_size(), dtype=torch.uint8)
    file.seek(start)
    if file.readinto(raw.numpy().data) != len(raw):  # type: ignore[attr-defined]  # not in typeshed's IO
        raise HostError("the temporary file of the original tower ended early; load the pipeline again")
    return raw.view(like.dtype).reshape(like.shape).to(device)
