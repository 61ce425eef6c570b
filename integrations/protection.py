"""protect, unprotect, verify, coverage, selfcheck: the swap with everything that the one-line swap cannot get right."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from safeencoders.errors import BadInputError, BusyError, HostError, UnprotectedError
from safeencoders.fingerprint import fingerprint
from safeencoders.integrations import guarded, hosts, recognition
from safeencoders.integrations.canary import Canary
from safeencoders.integrations.choice import Choice, Origin, choose
from safeencoders.integrations.coverage import Coverage, SlotReport, State
from safeencoders.integrations.events import POLICIES, Listener, Policy
from safeencoders.integrations.guard import Guard
from safeencoders.integrations.holes import facts, report
from safeencoders.integrations.slots import Slot, held_inside
from safeencoders.integrations.watch import Watched, measured

if TYPE_CHECKING:
    from safeencoders.integrations.canary import Margins
    from safeencoders.integrations.host import Host, Swap

KEY = "_safeencoders"
_INSIDE = {"__call__", "_call_impl"}  # of a pipeline's and of a module's call
_WHOLE = (
    "The guard stands before {} of the whole model: who calls the modules inside of it, or what was exported, traced "
    "or replicated from it, goes round. Under torch.compile it stays outside of the graph, so fullgraph=True fails."
)
_LIMITS = (
    "An encoder cannot protect from what does not pass it: pictures and latents to start from, a denoiser taught "
    "again, and whoever owns the process."
)


@dataclass(frozen=True)
class Protection:
    """What was done to a host; kept on it, and gone with it."""

    policy: Policy
    origins: dict[str, Origin]
    reads: dict[str, tuple[str, ...]]
    canaries: dict[str, Canary]
    hashes: dict[str, str]
    swap: Swap | None  # None in a copy, which cannot be unprotected
    notes: tuple[str, ...]

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the kept originals, so that a model that is no pipeline still pickles."""
        return {**vars(self), "swap": None}

    def __deepcopy__(self, _memo: object) -> Protection:
        """Copy for a copied host: the kept originals stay with the first one."""
        return replace(self, swap=None)


def protect(host: Any, *, encoders: Any = None, policy: Policy = "warn", on_event: Listener | None = None) -> Coverage:  # noqa: ANN401
    """Swap safe towers into a host, guard them, and report what is covered and what stays open.

    Args:
        host: a diffusers pipeline, a model of transformers that holds a CLIP vision tower, or an open_clip model.
        encoders: None for what the catalog has for this host; a name, a folder, a tower, or {slot: one of these}.
        policy: "warn" reports what goes round the towers; "strict" refuses it with BypassError, and refuses to protect
            a host of which a text encoder would stay open; "off" swaps and reports, without a guard.
        on_event: called with every ``events.Event``; no event holds a prompt.

    Returns:
        The coverage: print it.

    Raises:
        HostError: the host is of no known kind, half loaded, or protected already.
        FitError: a tower does not fit its slot.
        UnprotectedError: policy "strict", and a text encoder would stay open.
        BusyError: the host is generating.
        BadInputError: another fault of the arguments. In every case the host is untouched.

    Example:
        >>> print(safeencoders.protect(pipe))
    """
    kind = _kind(host)
    if policy not in POLICIES:
        raise BadInputError(f"expected a policy among {', '.join(POLICIES)}, got {policy!r}")
    if KEY in vars(host):
        raise HostError("the host is protected already; call safeencoders.unprotect(host) first")
    _refuse_while_generating(kind, host)
    slots = kind.slots(host)
    choices = choose(slots, encoders)
    towers = {name: choice.tower for name, choice in choices.items()}
    kind.check(host, towers)
    left = _open_text(kind, host, choices)
    if policy == "strict" and left:
        raise UnprotectedError(
            f"policy 'strict': {', '.join(left)} would stay unprotected. Give an encoder for each with "
            "encoders={slot: ...}, remove the component where the host can do without, or use policy='warn'"
        )
    measured = {slot.name: kind.reads(host, slot) for slot in slots if slot.tower is not None}
    canaries = {slot.name: Canary.make(slot.tower, towers[slot.name], slot.tokenizer, measured[slot.name])
                for slot in slots if slot.name in towers and slot.kind == "text" and slot.tower}  # fmt: skip
    swap = kind.swap(host, towers)
    try:
        origins = {name: choice.origin for name, choice in choices.items()}
        hashes = {name: fingerprint(tower) for name, tower in swap.towers.items()}
        notes = (*swap.notes, *_inside(host, kind.slots(host)))
        vars(host)[KEY] = Protection(policy, origins, measured, canaries, hashes, swap, notes)
        if policy != "off":
            guarded.attach(host, _guard(kind, host, vars(host)[KEY], on_event))
        found = coverage(host)
    except BaseException:
        if guarded.guard_of(host) is not None:
            guarded.detach(host)
        vars(host).pop(KEY, None)
        swap.undo()
        raise
    del slots  # they hold the towers that were taken out
    _give_back_memory()
    return found


def unprotect(host: Any) -> None:  # noqa: ANN401
    """Take the guard off and put the original towers back, bit for bit.

    Raises:
        HostError: the host is not protected, or is a copy of a protected one.
        BusyError: the host is generating.
    """
    protection = _protection(host)
    if protection is None:
        raise HostError("expected a protected host, got one that is not; there is nothing to undo")
    if protection.swap is None:
        raise HostError("expected the host that was protected, got a copy of it; load the original again instead")
    _refuse_while_generating(_kind(host), host)
    if guarded.guard_of(host) is not None:
        guarded.detach(host)
    protection.swap.undo()
    del vars(host)[KEY]


def coverage(host: Any) -> Coverage:  # noqa: ANN401
    """Report what of a host is covered and which holes are open; nothing is changed or measured but what it reads.

    Raises:
        HostError: the host is of no known kind.
    """
    kind, protection = _kind(host), _protection(host)
    slots = [_slot(host, slot, protection) for slot in kind.slots(host)]
    slots += [SlotReport(other.name, other.kind, other.class_name, "left alone" if other.kind == "judge" else "open",
                         note=other.reason) for other in kind.others(host)]  # fmt: skip
    policy = None if protection is None else protection.policy
    notes = () if protection is None else (*protection.notes, *_whole(kind, host), *_always(protection))
    holes = tuple(report(facts(host, policy, kind.calls), tuple(slots)))
    return Coverage(type(host).__name__, policy, tuple(slots), holes, notes)


def verify(host: Any) -> Coverage:  # noqa: ANN401
    """Measure again whether a protected host is what it was: every weight compared, every canary run.

    Returns:
        The coverage; a slot whose redirection fell, or whose tower was replaced, is open in it.

    Raises:
        HostError: the host is not protected.
    """
    kind, found, protection = _kind(host), coverage(host), _protection(host)
    if protection is None:
        raise HostError("expected a protected host, got one that is not; call safeencoders.protect(host) first")
    measured = selfcheck(host)
    hashes = {slot.name: fingerprint(slot.tower) for slot in kind.slots(host) if slot.tower is not None}
    slots, notes = [], []
    for slot in found.slots:
        margins = measured.get(slot.name)
        same = slot.name in hashes and hashes[slot.name] == protection.hashes.get(slot.name)
        if slot.encoder and margins is not None:
            notes.append(f"{slot.name}: redirection {margins.redirection:.2f} of what was installed, weakest category "
                         f"{margins.worst:.2f}; weights {'as installed' if same else 'changed since'}")  # fmt: skip
        lost = slot.encoder and (margins.alarm if margins is not None else not same)
        why = "; ".join(margins.reasons) if margins is not None else "the weights are not those installed"
        slots.append(replace(slot, state="open", encoder=None, note=why) if lost else slot)
    holes = tuple(report(facts(host, protection.policy, kind.calls), tuple(slots)))
    return replace(found, slots=tuple(slots), holes=holes, notes=(*found.notes, *notes))


def selfcheck(tower_or_host: Any) -> dict[str, Margins]:  # noqa: ANN401
    """Measure the canaries of a protected host, or of a tower of the shipped world (quantised, compiled, exported ...).

    Returns:
        The margins by slot; a tower alone has the slot "text".

    Raises:
        HostError: neither a protected host nor a text tower that a shipped original can be compared with.
    """
    protection = _protection(tower_or_host)
    if protection is None:
        return {"text": recognition.measure(tower_or_host)}
    slots = {slot.name: slot for slot in _kind(tower_or_host).slots(tower_or_host)}
    guard = guarded.guard_of(tower_or_host)
    found = {}
    for name, canary in protection.canaries.items():
        slot = slots.get(name)
        tower: Any = slot.tower if slot else _kind(tower_or_host).held(tower_or_host, name)
        tokenizer = slot.tokenizer if slot else None
        if guard is not None and tower is not None:
            found[name] = guard.measure(name, tower=tower, tokenizer=tokenizer) or measured(canary, tower, tokenizer)
        else:
            found[name] = measured(canary, tower, tokenizer)
    return found


def _kind(host: Any) -> Host:  # noqa: ANN401
    for name in hosts:
        if hosts.get(name).accepts(host):
            return hosts.get(name)
    raise HostError(f"expected a host of one of the kinds {', '.join(hosts)}, got {type(host).__name__}")


def _protection(host: Any) -> Protection | None:  # noqa: ANN401
    found: Protection | None = getattr(host, "__dict__", {}).get(KEY)
    return found


def _give_back_memory() -> None:
    """Let the system have the pages that the towers taken out lay on: glibc keeps them, which a peak then pays for."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library
        return


def _refuse_while_generating(kind: Host, host: Any) -> None:  # noqa: ANN401
    """Look for a call of this host on any thread's stack: a plain pipeline does not say whether it is at work."""
    for frame in sys._current_frames().values():  # noqa: SLF001  there is no public name for it
        at: Any = frame
        while at is not None:
            if at.f_code.co_name in {*kind.calls, *_INSIDE} and at.f_locals.get("self") is host:
                raise BusyError("the host is generating in this process; wait until it is done, then call again")
            at = at.f_back


def _open_text(kind: Host, host: Any, choices: dict[str, Choice]) -> list[str]:  # noqa: ANN401
    slots = [slot.name for slot in kind.slots(host) if slot.kind == "text" and slot.tower is not None]
    return [name for name in slots if name not in choices] + [o.name for o in kind.others(host) if o.kind == "text"]


def _guard(kind: Host, host: Any, protection: Protection, listener: Listener | None) -> Guard:  # noqa: ANN401
    watched, vision = {}, set()
    for slot in kind.slots(host):
        if slot.kind == "vision":
            vision.add(slot.name)
        if slot.name in protection.origins:
            tokenizer, canary = slot.tokenizer, protection.canaries.get(slot.name)
            name = next((k for k, v in vars(host).items() if tokenizer is not None and v is tokenizer), None)
            taken = protection.reads.get(slot.name, ("unknown",))
            trained_on = protection.origins[slot.name].trained_on
            watched[slot.name] = Watched(kind.held(host, slot.name), name, tokenizer, canary, taken, trained_on)
    model, usual = isinstance(host, nn.Module), kind.layers(host, "", {})
    return Guard(kind, model, protection.policy, watched, frozenset(vision), usual, listener)


def _whole(kind: Host, host: Any) -> Iterator[str]:  # noqa: ANN401
    """Say of a model where its guard stands."""
    guard = guarded.guard_of(host)
    if guard is not None and guard.model:
        yield _WHOLE.format(", ".join(name for name in kind.calls if hasattr(host, name) and name != "__call__"))


def _inside(host: Any, slots: Sequence[Slot]) -> Iterator[str]:  # noqa: ANN401
    """Say of a combined pipeline that what it is combined of is not guarded."""
    held = {type(inner).__name__ for slot in slots for inner, _ in held_inside(host, slot)}
    for name in sorted(held):
        yield f"The {name} inside of it holds the safe tower too, and is not guarded when it is used by itself."


def _slot(host: Any, slot: Slot, protection: Protection | None) -> SlotReport:  # noqa: ANN401
    if slot.tower is None:
        return SlotReport(slot.name, slot.kind, "nothing", "empty")
    name, guard = type(slot.tower).__name__, guarded.guard_of(host)
    origin = protection.origins.get(slot.name) if protection else None
    if origin is None or protection is None:
        return _unprotected(host, slot, known=None if protection else recognition.shipped_name(slot))
    if guard is not None and guard.slots[slot.name].tower is not _kind(host).held(host, slot.name):
        return replace(_unprotected(host, slot), note="the safe tower that was here was replaced")
    taken = protection.reads.get(slot.name, ("unknown",))
    missing = [] if origin.trained_on is None else [f for f in taken if f not in origin.trained_on and f != "unknown"]
    note = f"the host reads {', '.join(missing)}, which the encoder was not trained on" if missing else ""
    if guard is not None and guard.slots[slot.name].lost:
        note = "its weights were changed since it was put in"
    state: State = "protected" if origin.verified else "unverified"
    return SlotReport(slot.name, slot.kind, name, state, origin.encoder, taken, origin.trained_on, note)


def _unprotected(host: Any, slot: Slot, known: str | None = None) -> SlotReport:  # noqa: ANN401
    """Report a slot that nothing here protects; a shipped tower may be in it all the same."""
    report = SlotReport(slot.name, slot.kind, type(slot.tower).__name__, "open", reads=_kind(host).reads(host, slot))
    if known is None:
        return report
    trained = recognition.trained_on(known, slot.kind)
    note = "recognised by its weights; no guard is installed"
    return replace(report, state="protected", encoder=known, trained_on=trained, note=note)


def _always(protection: Protection) -> tuple[str, ...]:
    found = [_LIMITS]
    if any(not origin.verified for origin in protection.origins.values()):
        found.append("An unverified tower is one that is in no catalog; nobody measured it here.")
    return tuple(found)
