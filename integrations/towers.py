"""The protected towers of a host: what replaces or changes one is measured, and told or refused when it is not good.

A text tower is good while its canaries are redirected as they were. A vision tower has no canaries: good is what was
put in, its equal, and what the host's own casts and moves make of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from safeencoders.errors import BypassError
from safeencoders.integrations.carry import layers as adapters
from safeencoders.integrations.events import Action, Event, Listener, Policy, publish
from safeencoders.integrations.ownership import Ledger
from safeencoders.integrations.state import state
from safeencoders.integrations.watch import Recorder, Watched, equal, hidden, measured, scaled, why

if TYPE_CHECKING:
    from safeencoders.integrations.canary import Margins
    from safeencoders.integrations.host import Host


@dataclass
class Towers:
    """The protected towers of one host.

    Attributes:
        kind: what is asked about the host.
        model: whether the host is one module, whose functions call one another; a pipeline is not.
        policy: "warn" or "strict".
        slots: the protected slots by name.
        vision: names of the host's image encoders, protected or not.
        usual: the states of its towers that the host reads when a call does not choose.
        listener: gets every event.
    """

    kind: Host
    model: bool
    policy: Policy
    slots: dict[str, Watched]
    vision: frozenset[str]
    usual: tuple[str, ...] = ()
    listener: Listener | None = None
    ledger: Ledger = field(default_factory=Ledger, repr=False)

    def __post_init__(self) -> None:
        """Take the towers as they are now for good, unless they were measured before, and start recording."""
        self._local = threading.local()
        self._lock = threading.RLock()
        self._said: set[object] = set()
        self._hooks = {name: self._recording(slot) for name, slot in self.slots.items()}
        for slot in self.slots.values():
            slot.good = slot.good or state(slot.tower, slot.tokenizer)

    def twin(self, host: Any) -> Self:  # noqa: ANN401
        """Return the same for a copy of the host, which holds copies of the towers."""
        slots = {}
        for name, slot in self.slots.items():
            tokenizer = getattr(host, slot.tokenizer_name) if slot.tokenizer_name else slot.tokenizer
            slots[name] = replace(slot, tower=self.kind.held(host, name), tokenizer=tokenizer)
        return replace(self, slots=slots, ledger=Ledger())

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

    def placed(self, host: Any) -> None:  # noqa: ANN401
        """Look at the towers after a module or weight was set on a model; raises under "strict" when it must not be."""
        with self._lock:
            for name in self.slots:
                self._new_tower(name, self.kind.held(host, name))

    def converting(self, host: Any, convert: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Let a model move or cast itself, which changes no tower that was good before."""
        with self._lock:
            good = [name for name, slot in self.slots.items() if self.kind.held(host, name) is slot.tower
                    and state(slot.tower, slot.tokenizer) == slot.good]  # fmt: skip
            found = convert()
            for name in good:
                if not hidden(tower := self.kind.held(host, name)):
                    self._admit(name, tower)
        return found

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
        known = slot.canary is None and equal(value, slot.tower) and state(value, slot.tokenizer) == slot.good
        if not known and (margins is None or margins.alarm):
            by = "nothing takes its place" if value is None else why(margins)
            self.report(7, name, f"the safe tower is being replaced: {by}")
            return
        self._admit(name, value)
        self.report(7, name, "another form of the tower came in and redirects as before", noted=True)

    def _admit(self, name: str, tower: Any) -> None:  # noqa: ANN401
        slot, good = self.slots[name], state(tower, self.slots[name].tokenizer)
        self._hooks[name].remove()
        slot.tower, slot.good, slot.lost = tower, good, False
        self._hooks[name] = self._recording(slot)

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

    def _still_good(self, host: Any, name: str, *, asked: bool = True) -> None:  # noqa: ANN401
        """Look whether a slot's tower is the good one; at its weights only where it is asked for something."""
        slot, present = self.slots[name], self.kind.held(host, name)
        if present is not slot.tower:
            self._new_tower(name, present)
            return
        if slot.tokenizer_name and getattr(host, slot.tokenizer_name) is not slot.tokenizer:
            self._new_tokenizer(slot.tokenizer_name, getattr(host, slot.tokenizer_name))
        now = state(slot.tower, slot.tokenizer) if asked else slot.good
        if now == slot.good or slot.lost:
            return
        if slot.canary is None and hidden(slot.tower):
            if self._first(name):
                self.report(17, name, "the tower's weights are offloaded, so that nobody can look at them", noted=True)
            return
        margins = self.measure(name)
        if margins is not None and not margins.alarm:
            slot.good = now
            self.report(17, name, "the tower or its tokenizer was changed and redirection holds", noted=True)
            return
        hole = 5 if margins is None and adapters(slot.tower) else 17
        self.report(hole, name, f"the tower or its tokenizer was changed: {why(margins)}")
        slot.lost = margins is None  # told once is enough

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

    # --- what is told -----------------------------------------------------------------------------------------------
    def _first(self, what: object) -> bool:
        """Say whether this is the first time; for what is told once."""
        with self._lock:
            first = what not in self._said
            self._said.add(what)
        return first

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
            remedy = "use the host's own encoders on prompts and pictures, or policy='warn' to only be told"
            raise BypassError(f"hole {hole}{f', {slot}' if slot else ''}: {what}; {remedy}", hole, slot)
