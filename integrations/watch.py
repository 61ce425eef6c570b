"""A protected slot as the guard watches it: its tower, how it was when last found good, and what it puts out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safeencoders.fingerprint import fingerprint
from safeencoders.integrations.arguments import added_tokens, tensors
from safeencoders.integrations.canary import Canary, Margins

if TYPE_CHECKING:
    from torch import Tensor, nn

_FIELDS = {"last": "last_hidden_state", "pooled": "pooler_output"}


@dataclass
class Watched:
    """A protected slot.

    Attributes:
        tower: what is in it.
        tokenizer_name: the host's name for its tokenizer, None for an image tower.
        tokenizer: that tokenizer.
        canary: what its redirection is measured with; None: nothing can measure it.
        reads: the fields of its output that the host takes.
        trained_on: the fields its encoder was trained on; None when nobody knows.
        good: its state when it was last found good; "" until then.
        lost: whether it was changed in a way that nothing can measure, and that was told.
    """

    tower: nn.Module
    tokenizer_name: str | None
    tokenizer: Any
    canary: Canary | None
    reads: tuple[str, ...] = ("unknown",)
    trained_on: tuple[str, ...] | None = None
    good: str = ""
    lost: bool = False

    def read(self, output: Any) -> Iterator[Tensor]:  # noqa: ANN401  a transformers output
        """Yield of a tower's output what the host takes; all of it when nobody knows what that is."""
        if "unknown" in self.reads:
            yield from tensors(output)
        for field in self.reads:
            if field in ("penultimate", "patches") or field.startswith("hidden["):
                states = getattr(output, "hidden_states", None)
                at = -2 if field in ("penultimate", "patches") else int(field[7:-1])
                yield from tensors(states[at] if states else None)
            elif field == "projected":
                yield from tensors([getattr(output, name, None) for name in ("text_embeds", "image_embeds")])
            elif field in _FIELDS:
                yield from tensors(getattr(output, _FIELDS[field], None))


class Recorder:
    """The hook on a tower; a copy of the tower does not take the guard along."""

    def __init__(self, record: Callable[[Any], None] | None) -> None:
        """Hand outputs to ``record``, or do nothing."""
        self.record = record

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> None:  # noqa: ANN401
        """Hand over an output; what is traced or compiled is left alone."""
        import torch

        if self.record is not None and not torch.compiler.is_compiling():
            self.record(output)

    def __deepcopy__(self, _memo: object) -> Recorder:
        """Return a hook that does nothing."""
        return Recorder(None)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a hook that does nothing."""
        return Recorder, (None,)


def measured(canary: Canary, tower: Any, tokenizer: Any) -> Margins:  # noqa: ANN401
    """Measure a tower's canaries; what cannot be run as a text tower is an alarm, not an error."""
    try:
        return canary.measure(tower, tokenizer, added_tokens(tokenizer))
    except Exception as error:  # noqa: BLE001  whatever a foreign module raises, the answer is the same
        if len({weight.dtype for weight in getattr(tower, "parameters", tuple)()}) > 1:  # open_clip's half precision
            return measured(canary, copy.deepcopy(tower).float(), tokenizer)
        reason = f"{type(tower).__name__} cannot be measured ({type(error).__name__})"
        return Margins(0.0, 0.0, {}, {}, alarm=True, reasons=(reason,))


def equal(tower: Any, other: Any) -> bool:  # noqa: ANN401  any modules
    """Say whether two towers are built alike and have the same weights, bit for bit."""
    alike = type(tower) is type(other) and repr(tower) == repr(other) and not hidden(tower) and not hidden(other)
    return alike and fingerprint(tower) == fingerprint(other)


def hidden(tower: nn.Module) -> bool:
    """Say whether a tower's weights are elsewhere until it runs, as those of an offloaded one."""
    return any(weight.is_meta for weight in tower.parameters())


@contextmanager
def scaled(tower: nn.Module, scale: float) -> Iterator[None]:
    """Run a block with every LoRA layer of a tower at a multiple of its scale."""
    from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers

    scale_lora_layers(tower, scale)
    try:
        yield
    finally:
        unscale_lora_layers(tower, scale)


def why(margins: Margins | None) -> str:
    """Say in a few words what margins show."""
    if margins is None:
        return "it cannot be measured"
    more = f"; and {len(margins.reasons) - 2} more" if len(margins.reasons) > 2 else ""
    return "; ".join(margins.reasons[:2]) + more
