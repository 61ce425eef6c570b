"""The guard: what keeps a swap honest while the host is used.

Only the instance is touched: its class becomes a subclass of the same name that asks the guard before it acts, so the
host still saves, reloads and derives as its plain class. The rules:

- what replaces or changes a tower or its tokenizer is measured with the canaries; it passes when redirection holds;
- embeddings that are handed in must be the host's own (ownership.py);
- the policy "warn" lets pass and says so, "strict" raises BypassError with the host as it was; a textual inversion or
  LoRA that fails is taken back under both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from safeencoders.errors import BypassError
from safeencoders.integrations.arguments import added_tokens, embeddings, tensors
from safeencoders.integrations.events import Action, Event, Listener, Policy, publish
from safeencoders.integrations.ownership import Ledger
from safeencoders.integrations.slots import component
from safeencoders.integrations.state import state

if TYPE_CHECKING:
    from torch import Tensor, nn

    from safeencoders.integrations.canary import Canary, Margins


@dataclass
class Watched:
    """A protected slot: what is in it, and how it was when last measured and found good."""

    tower: nn.Module
    tokenizer_name: str | None
    tokenizer: Any
    canary: Canary | None
    good: str = ""


@dataclass
class Guard:
    """Watches one host.

    Attributes:
        policy: "warn" or "strict".
        slots: the protected slots by name.
        vision: names of the host's image encoders, protected or not.
        listener: gets every event.
    """

    policy: Policy
    slots: dict[str, Watched]
    vision: frozenset[str]
    listener: Listener | None = None
    ledger: Ledger = field(default_factory=Ledger, repr=False)

    def __post_init__(self) -> None:
        """Take the towers as they are now for good, and start recording what they put out."""
        self._local = threading.local()
        self._lock = threading.RLock()
        self._calls = 0
        self._hooks = {name: slot.tower.register_forward_hook(Recorder(self)) for name, slot in self.slots.items()}
        for slot in self.slots.values():
            slot.good = state(slot.tower, slot.tokenizer)

    def twin(self, host: Any) -> Guard:  # noqa: ANN401
        """Return a guard for a copy of the host, which holds copies of the towers."""
        slots = {}
        for name, slot in self.slots.items():
            tokenizer = getattr(host, slot.tokenizer_name) if slot.tokenizer_name else None
            slots[name] = Watched(component(host, name), slot.tokenizer_name, tokenizer, slot.canary)
        return Guard(self.policy, slots, self.vision, self.listener)

    def close(self) -> None:
        """Stop recording."""
        for hook in self._hooks.values():
            hook.remove()

    @property
    def generating(self) -> bool:
        """Say whether a call of the host is under way."""
        return self._calls > 0

    # --- calls ------------------------------------------------------------------------------------------------------
    @contextmanager
    def calling(self, host: Any, arguments: Mapping[str, Any]) -> Iterator[None]:  # noqa: ANN401  any host
        """Check a call of the host with its arguments by name, and count it as long as it lasts."""
        with self._lock:
            for name in self.slots:
                self._still_good(host, name)
            self._adapter_scale(arguments)
        self.screen(arguments)
        if arguments.get("clip_skip") is not None:
            self.report(3, None, "clip_skip was asked for, which reads a layer the encoder may not be trained on")
        if any((arguments.get(name) or 0) < 0 for name in ("guidance_scale", "true_cfg_scale")):
            self.report(14, None, "a negative guidance scale was asked for, which draws what the negative prompt says")
        with self._lock:
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1

    def encoding(self, arguments: Mapping[str, Any], encode: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Run one of the host's encode functions and remember its result, unless foreign embeddings went in."""
        own = all(self._finding(value) == "own" for _, value in embeddings(arguments))
        if not own and not self.generating:
            self.screen(arguments)
        found = encode()
        if own:
            for tensor in tensors(found):
                self.ledger.record(tensor)
        return found

    def screen(self, arguments: Mapping[str, Any]) -> None:
        """Report every embedding among the arguments that is not the host's own."""
        for name, value in embeddings(arguments):
            image, negative = "image" in name, name.startswith("negative")
            if image and not any(slot in self.vision for slot in self.slots):
                continue  # no safe image tower: open, and said so in the coverage
            verdict = self._finding(value)
            if verdict == "foreign":
                hole = 13 if image else 14 if negative else 1
                self.report(hole, None, f"the argument {name} holds embeddings that this host's towers did not make")
            elif verdict == "amplified":
                self.report(2, None, f"the argument {name} holds the host's own embeddings, amplified beyond use")

    def _finding(self, value: Tensor) -> str:
        import torch

        found = self.ledger.find(value)
        if found.verdict != "foreign" or value.ndim not in (2, 3):
            return found.verdict
        widths = [width for slot in self.slots.values() if (width := _width(slot.tower))]
        if sum(widths) != value.shape[-1] or len(widths) < 2:
            return "foreign"
        parts = torch.split(value, widths, dim=-1)
        verdicts = {self.ledger.find(part).verdict for part in parts}
        return next(verdict for verdict in ("foreign", "amplified", "own") if verdict in verdicts)

    # --- towers -----------------------------------------------------------------------------------------------------
    def replacing(self, host: Any, name: str, value: Any) -> None:  # noqa: ANN401
        """Check what is about to become the component ``name``; raises under "strict" when it must not."""
        if id(value) in getattr(self._local, "admitted", ()):
            return
        with self._lock:
            if name in self.slots:
                self._new_tower(name, value)
            elif name == "safety_checker":
                if value is None and getattr(host, name, None) is not None:
                    self.report(16, name, "the safety checker is being removed")
            elif name in self.vision:
                if value is not None and value is not getattr(host, name, None):
                    self.report(13, name, "an image encoder came in that no safe tower protects")
            else:
                self._new_tokenizer(name, value)

    @contextmanager
    def admitting(self, host: Any, modules: Mapping[str, Any]) -> Iterator[None]:  # noqa: ANN401
        """Check several new components once, before the host writes half of them into its configuration."""
        for name, value in modules.items():
            self.replacing(host, name, value)
        self._local.admitted = {id(value) for value in modules.values()}
        try:
            yield
        finally:
            self._local.admitted = set()

    def _new_tower(self, name: str, value: Any) -> None:  # noqa: ANN401
        slot = self.slots[name]
        if value is slot.tower:
            return
        margins = None if value is None else self.measure(name, tower=value)
        if margins is None or margins.alarm:
            why = "nothing" if value is None else _why(margins)
            self.report(7, name, f"the safe tower is being replaced: {why}")
            return
        self._hooks[name].remove()
        slot.tower, slot.good = value, state(value, slot.tokenizer)
        self._hooks[name] = value.register_forward_hook(Recorder(self))
        self.report(7, name, "another form of the tower came in and redirects as before", noted=True)

    def _new_tokenizer(self, name: str, value: Any) -> None:  # noqa: ANN401
        for slot_name, slot in self.slots.items():
            if slot.tokenizer_name != name or value is slot.tokenizer:
                continue
            margins = None if value is None else self.measure(slot_name, tokenizer=value)
            if margins is None or margins.alarm:
                self.report(17, slot_name, f"its tokenizer is being replaced: {_why(margins)}")
            else:
                slot.tokenizer, slot.good = value, state(slot.tower, value)
                self.report(17, slot_name, "another tokenizer came in and redirection holds", noted=True)

    def _still_good(self, host: Any, name: str) -> None:  # noqa: ANN401
        slot, present = self.slots[name], component(host, name)
        if present is not slot.tower:
            self._new_tower(name, present)
            return
        tokenizer = getattr(host, slot.tokenizer_name) if slot.tokenizer_name else None
        if tokenizer is not slot.tokenizer:
            self._new_tokenizer(str(slot.tokenizer_name), tokenizer)
        now = state(slot.tower, slot.tokenizer)
        if now == slot.good:
            return
        margins = self.measure(name)
        if margins is not None and not margins.alarm:
            slot.good = now
            self.report(17, name, "the tower or its tokenizer was changed and redirection holds", noted=True)
            return
        self.report(17, name, f"the tower or its tokenizer was changed: {_why(margins)}")
        if margins is None:
            slot.good = now  # told once is enough

    def _adapter_scale(self, arguments: Mapping[str, Any]) -> None:
        """Measure the towers at the LoRA scale this call asks for."""
        for options in (arguments.get("cross_attention_kwargs"), arguments.get("joint_attention_kwargs")):
            scale = (options or {}).get("scale")
            if scale is None or scale == 1:
                continue
            for name, slot in self.slots.items():
                if getattr(slot.tower, "peft_config", None):
                    with scaled(slot.tower, scale):
                        margins = self.measure(name)
                    if margins is not None and margins.alarm:
                        self.report(5, name, f"a LoRA at the scale asked for undoes redirection: {_why(margins)}")

    # --- what is loaded ---------------------------------------------------------------------------------------------
    def screened(self, hole: int, load: Callable[[], Any], undo: Callable[[], None]) -> Any:  # noqa: ANN401
        """Load something into the towers, measure them, and take it back when redirection fell."""
        with self._lock:
            found = load()
            failed = [(name, margins) for name in self.slots
                      if (margins := self.measure(name)) is not None and margins.alarm]  # fmt: skip
            if failed:
                undo()
            for slot in self.slots.values():
                slot.good = state(slot.tower, slot.tokenizer)
            for name, margins in failed:
                self.report(hole, name, f"what was loaded was taken back: {_why(margins)}", action="undone")
        return found

    def measure(self, name: str, *, tower: Any = None, tokenizer: Any = None) -> Margins | None:  # noqa: ANN401
        """Measure a slot's canaries, with another tower or tokenizer where one is given; None: it has no canaries."""
        slot = self.slots[name]
        if slot.canary is None:
            return None
        used = slot.tokenizer if tokenizer is None else tokenizer
        self._local.measuring = True
        try:
            return slot.canary.measure(slot.tower if tower is None else tower, used, added_tokens(used))
        finally:
            self._local.measuring = False

    def recorded(self, output: Any) -> None:  # noqa: ANN401  a transformers output
        """Remember what a tower put out."""
        if getattr(self._local, "measuring", False):
            return
        for tensor in tensors(output):
            self.ledger.record(tensor)

    def report(
        self, hole: int, slot: str | None, what: str, *, noted: bool = False, action: Action | None = None
    ) -> None:
        """Publish an event and, under "strict", refuse."""
        refuse = self.policy == "strict" and not noted
        publish(
            Event(hole, slot, "noted" if noted else "refused" if refuse else action or "warned", what), self.listener
        )
        if refuse:
            remedy = "use prompts with the host's own encoders, or protect with policy='warn' to only be told"
            raise BypassError(f"hole {hole}{f', {slot}' if slot else ''}: {what}; {remedy}", hole, slot)


class Recorder:
    """The hook on a tower; a copy of the tower does not take the guard along."""

    def __init__(self, guard: Guard | None) -> None:
        """Record for this guard, or do nothing."""
        self.guard = guard

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> None:  # noqa: ANN401
        """Record an output; what is traced or compiled is left alone."""
        import torch

        if self.guard is not None and not torch.compiler.is_compiling():
            self.guard.recorded(output)

    def __deepcopy__(self, _memo: object) -> Recorder:
        """Return a hook that does nothing."""
        return Recorder(None)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a hook that does nothing."""
        return Recorder, (None,)


@contextmanager
def scaled(tower: nn.Module, scale: float) -> Iterator[None]:
    """Run a block with every LoRA layer of a tower at a multiple of its scale."""
    from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers

    scale_lora_layers(tower, scale)
    try:
        yield
    finally:
        unscale_lora_layers(tower, scale)


def _width(tower: nn.Module) -> int | None:
    found: int | None = getattr(getattr(tower, "config", None), "hidden_size", None)
    return found


def _why(margins: Margins | None) -> str:
    if margins is None:
        return "it cannot be measured"
    more = f"; and {len(margins.reasons) - 2} more" if len(margins.reasons) > 2 else ""
    return "; ".join(margins.reasons[:2]) + more
