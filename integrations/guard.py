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
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from safeencoders.errors import BypassError
from safeencoders.integrations.arguments import embeddings, tensors
from safeencoders.integrations.events import Action, Event, Listener, Policy, publish
from safeencoders.integrations.ownership import Ledger
from safeencoders.integrations.slots import component
from safeencoders.integrations.state import state
from safeencoders.integrations.watch import Recorder, Watched, measured, scaled, why

if TYPE_CHECKING:
    from torch import Tensor, nn

    from safeencoders.integrations.canary import Margins


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
        """Take the towers as they are now for good, unless they were measured before, and start recording."""
        self._local = threading.local()
        self._lock = threading.RLock()
        self._hooks = {name: self._recording(slot) for name, slot in self.slots.items()}
        for slot in self.slots.values():
            slot.good = slot.good or state(slot.tower, slot.tokenizer)

    def twin(self, host: Any) -> Guard:  # noqa: ANN401
        """Return a guard for a copy of the host, which holds copies of the towers."""
        slots = {}
        for name, slot in self.slots.items():
            tokenizer = getattr(host, slot.tokenizer_name) if slot.tokenizer_name else None
            slots[name] = replace(slot, tower=component(host, name), tokenizer=tokenizer)
        return Guard(self.policy, slots, self.vision, self.listener)

    def _recording(self, slot: Watched) -> Any:  # noqa: ANN401  a handle of torch's
        def record(output: Any) -> None:  # noqa: ANN401
            if not getattr(self._local, "measuring", False):
                for tensor in slot.read(output):
                    self.ledger.record(tensor)

        return slot.tower.register_forward_hook(Recorder(record))

    def close(self) -> None:
        """Stop recording."""
        for hook in self._hooks.values():
            hook.remove()

    # --- calls ------------------------------------------------------------------------------------------------------
    @contextmanager
    def calling(self, host: Any, arguments: Mapping[str, Any]) -> Iterator[None]:  # noqa: ANN401  any host
        """Check a call of the host with its arguments by name, and remember for its length whether all was well."""
        clean = self._examine(host, arguments)
        self.screen(arguments)
        outer, self._local.clean = getattr(self._local, "clean", None), clean
        try:
            yield
        finally:
            self._local.clean = outer

    def encoding(self, host: Any, arguments: Mapping[str, Any], encode: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Run one of the host's encode functions and remember its result, if nothing was wrong with tower or inputs."""
        clean: bool | None = getattr(self._local, "clean", None)  # None: not inside of a call on this thread
        own = all(self._finding(value) == "own" for _, value in embeddings(arguments))
        if clean is None:
            clean = self._examine(host, arguments)
            self.screen(arguments)
        found = encode()
        if own and clean:
            for tensor in tensors(found):
                self.ledger.record(tensor)
        return found

    def _examine(self, host: Any, arguments: Mapping[str, Any]) -> bool:  # noqa: ANN401
        """Report what is wrong with the towers and with how they are asked to run; say whether nothing was."""
        self._local.told = False
        with self._lock:
            for name in self.slots:
                self._still_good(host, name)
            self._adapter_scale(arguments)
        if arguments.get("clip_skip") is not None:
            self.report(3, None, "clip_skip was asked for, which reads a layer the encoder may not be trained on")
        scales = [value for name, value in arguments.items() if name.endswith(("guidance_scale", "cfg_scale"))]
        if any(isinstance(value, int | float) and value < 0 for value in scales):
            self.report(14, None, "a negative guidance scale was asked for, which draws what the negative prompt says")
        return not self._local.told

    def watched_callback(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """Return a callback at the end of a step whose embeddings are looked at when it changes them."""

        def call(host: Any, step: int, time: Any, values: dict[str, Any]) -> Any:  # noqa: ANN401
            given = dict(values)
            found = callback(host, step, time, values)
            changed = {k: v for k, v in found.items() if v is not given.get(k)} if isinstance(found, Mapping) else {}
            self.screen(changed)
            return found

        return call

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

        value = value.flatten(0, -3) if value.ndim > 3 else value
        found = self.ledger.find(value)
        if found.verdict != "foreign":
            return found.verdict
        widths = [w for name, slot in self.slots.items() if name not in self.vision and (w := _width(slot.tower))]
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
                if getattr(host, name, None) not in (None, value):
                    self.report(16, name, "the safety checker is being removed or replaced")
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
            by = "nothing takes its place" if value is None else why(margins)
            self.report(7, name, f"the safe tower is being replaced: {by}")
            return
        good = state(value, slot.tokenizer)
        self._hooks[name].remove()
        slot.tower, slot.good = value, good
        self._hooks[name] = self._recording(slot)
        self.report(7, name, "another form of the tower came in and redirects as before", noted=True)

    def _new_tokenizer(self, name: str, value: Any) -> None:  # noqa: ANN401
        for slot_name, slot in self.slots.items():
            if slot.tokenizer_name != name or value is slot.tokenizer:
                continue
            margins = None if value is None else self.measure(slot_name, tokenizer=value)
            if margins is None or margins.alarm:
                self.report(17, slot_name, f"its tokenizer is being replaced: {why(margins)}")
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
        self.report(17, name, f"the tower or its tokenizer was changed: {why(margins)}")
        if margins is None:
            slot.good = now  # told once is enough

    def _adapter_scale(self, arguments: Mapping[str, Any]) -> None:
        """Measure the towers at the LoRA scale this call asks for."""
        asked: list[Any] = [value.get("scale") for name, value in arguments.items()
                 if name.endswith("attention_kwargs") and isinstance(value, Mapping)]  # fmt: skip
        for scale in {*asked, arguments.get("lora_scale")} - {None, 1}:
            for name, slot in self.slots.items():
                if getattr(slot.tower, "peft_config", None):
                    with scaled(slot.tower, scale):
                        margins = self.measure(name)
                    if margins is not None and margins.alarm:
                        self.report(5, name, f"a LoRA at the scale asked for undoes redirection: {why(margins)}")

    # --- what is loaded ---------------------------------------------------------------------------------------------
    def screened(self, host: Any, hole: int, load: Callable[[], Any], undo: Callable[[], None]) -> Any:  # noqa: ANN401
        """Load something into the towers, measure them, and take it back when redirection fell."""
        with self._lock:
            for name in self.slots:
                self._still_good(host, name)  # what was wrong before must not be put down to what is loaded
            found = load()
            failed = [(name, margins) for name in self.slots
                      if (margins := self.measure(name)) is not None and margins.alarm]  # fmt: skip
            if failed:
                undo()
            else:
                for slot in self.slots.values():
                    slot.good = state(slot.tower, slot.tokenizer)
            for name, margins in failed:
                self.report(hole, name, f"what was loaded was taken back: {why(margins)}", action="undone")
        return found

    def measure(self, name: str, *, tower: Any = None, tokenizer: Any = None) -> Margins | None:  # noqa: ANN401
        """Measure a slot's canaries, with another tower or tokenizer where one is given; None: it has no canaries."""
        slot = self.slots[name]
        if slot.canary is None:
            return None
        self._local.measuring = True
        try:
            return measured(slot.canary, tower or slot.tower, tokenizer or slot.tokenizer)
        finally:
            self._local.measuring = False

    def derived(self, how: str) -> None:
        """Tell, never refuse, that something was made of the host which holds its safe towers and no guard."""
        what = f"{how}; it holds the safe towers and not the guard: protect it where it is used"
        publish(Event(15, None, "warned", what), self.listener)

    def report(
        self, hole: int, slot: str | None, what: str, *, noted: bool = False, action: Action | None = None
    ) -> None:
        """Publish an event and, under "strict", refuse."""
        refuse = self.policy == "strict" and not noted
        self._local.told = getattr(self._local, "told", False) or not noted
        publish(
            Event(hole, slot, "noted" if noted else "refused" if refuse else action or "warned", what), self.listener
        )
        if refuse:
            remedy = "use prompts with the host's own encoders, or protect with policy='warn' to only be told"
            raise BypassError(f"hole {hole}{f', {slot}' if slot else ''}: {what}; {remedy}", hole, slot)


def _width(tower: nn.Module) -> int | None:
    found: int | None = getattr(getattr(tower, "config", None), "hidden_size", None)
    return found
