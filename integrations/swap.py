"""A swap in a diffusers pipeline: towers in, everything that hung on the old ones with them, and all of it undone.

What is put in is registered as the pipeline's own kind of component, so that its configuration says what it is.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from safeencoders.integrations import carry, offload, slots
from safeencoders.integrations.spool import Original, copied

if TYPE_CHECKING:
    import torch
    from torch import nn

    from safeencoders.integrations.slots import Slot

    Inside = Sequence[tuple[Any, str, str]]  # (a pipeline inside of the host, its name for a tower, the host's name)

CLASSES = {
    "diffusers.pipelines.pipeline_utils": "DiffusionPipeline",
    "diffusers.modular_pipelines.modular_pipeline": "ModularPipeline",
}


@dataclass(frozen=True)
class Place:
    """Where the numbers of a slot live, and in which format."""

    dtype: torch.dtype
    device: torch.device


class Swap:
    """A swap that was made.

    Attributes:
        towers: what is in the slots now: cast, in eval mode, gradients off.
        notes: what was carried over and what a reader should know, one sentence each.
    """

    def __init__(self, host: Any, towers: Mapping[str, nn.Module]) -> None:  # noqa: ANN401  any pipeline
        """Make the swap, which was checked; on any error put everything back and raise."""
        self._host = weakref.ref(host)  # never keep a pipeline alive from what it may itself hold
        self.towers: dict[str, nn.Module] = {}
        notes: list[str] = []
        before = {name: getattr(host, name) for name in towers}
        self._entries = _entries(host, tuple(towers))
        found_slots = uncompiled(host)
        self._inside = [(inner, key, n) for n in towers for inner, key in slots.held_inside(host, found_slots[n])]
        found = offload.find(host)
        try:
            if found is not None:
                found.remove(host)
                notes.append(f"{found.kind} offload was made again on {found.device}")
            self._places = {}
            for name, slot in found_slots.items():
                if name in towers:
                    self._places[name] = place_of(host, slot)
                    self.towers[name] = _prepared(slot, towers[name], self._places[name], notes)
            self._originals = {name: _set_aside(name, old, towers[name], notes) for name, old in before.items()}
            _install(host, self.towers, self._inside)
            if found is not None:
                found.make(host)
            self._loaded = _loaded(host, self.towers)
            _note_shared(host, before, found, notes)
        except BaseException:
            _put_back(host, before, self._entries, found, self._inside)
            raise
        self.notes = tuple(notes)

    def undo(self) -> None:
        """Put back what was there, bit for bit: the very objects where they still live. Done once; then it is a no-op.

        What the pipeline went through since, its originals follow: another device or number format, and tokens and
        LoRA loaded or unloaded.

        Raises:
            HostError: since then the pipeline was offloaded in a way that cannot be made again, or a LoRA was fused
                into a tower; it is not touched.
        """
        host = self._host()
        if host is None or not self._originals:
            return
        found, now = offload.find(host), _loaded(host, self.towers)
        for name in now:
            if now[name] != self._loaded[name]:
                carry.check_live(name, self.towers[name])
        present = {name: getattr(host, name) for name in self._originals}
        entries = _entries(host, tuple(present))
        try:
            if found is not None:
                found.remove(host)
            restored = {name: self._restored(name, present[name], now.get(name)) for name in present}
            _put_back(host, restored, self._entries, found, self._inside)
        except BaseException:
            _put_back(host, present, entries, found, self._inside)
            raise
        self._originals = {}
        self.towers = {}

    def _restored(self, name: str, present: Any, loaded: _Loaded | None) -> nn.Module | None:  # noqa: ANN401
        """Return the original of a slot, where the pipeline computes now, with what was loaded since."""
        original = self._originals[name]
        if original is None:
            return None
        module, place = original.restore(), self._places[name]
        if loaded is None or original.reason:  # somebody put in a tower of his own, or the original is a special one
            return module
        now = _of(present)
        if now.dtype != place.dtype:
            module.to(now.dtype)
        if now.device != place.device:
            module.to(now.device)
        if loaded.ids != self._loaded[name].ids:
            carry.tokens(present, module, loaded.ids)
        if loaded.adapters != self._loaded[name].adapters:
            carry.adapters(present, module)
        return module


@dataclass(frozen=True)
class _Loaded:
    """What a user loaded into a slot."""

    ids: tuple[int, ...]
    adapters: dict[str, tuple[object, ...]]


def _loaded(host: Any, towers: Mapping[str, nn.Module]) -> dict[str, _Loaded]:  # noqa: ANN401  any pipeline
    """Return what is loaded into the slots that hold these very towers."""
    found = {}
    for slot in slots.slots_of(host.components, slots.annotated(host)):
        if slot.tower is not None and slot.tower is towers.get(slot.name):
            ids = carry.added(slot.tokenizer) if slot.tokenizer is not None else ()
            found[slot.name] = _Loaded(ids, carry.state(slot.tower))
    return found


# --- slots and places ---
def uncompiled(host: Any) -> dict[str, Slot]:  # noqa: ANN401  any pipeline
    """Return the slots by name; of a tower that was compiled, the one inside."""
    found = slots.slots_of(host.components, slots.annotated(host))
    return {slot.name: replace(slot, tower=getattr(slot.tower, "_orig_mod", slot.tower)) for slot in found}


def modular(host: Any) -> bool:  # noqa: ANN401  any pipeline
    """Say whether a pipeline is a modular one, which registers its components in its own way."""
    return hasattr(host, "update_components")


def _of(module: Any) -> Place:  # noqa: ANN401  any model of diffusers or transformers
    return Place(module.dtype, module.device)


def place_of(host: Any, slot: Slot) -> Place:  # noqa: ANN401  any pipeline
    """Return where a slot's tower belongs: where the one before it is, else with the pipeline's largest component."""
    import torch

    if slot.tower is not None:
        return _of(slot.tower)
    modules = [
        part for part in host.components.values() if isinstance(part, torch.nn.Module) and hasattr(part, "dtype")
    ]
    return _of(max(modules, key=lambda module: sum(weight.numel() for weight in module.parameters())))


# --- the new tower ---
def _prepared(slot: Slot, tower: nn.Module, place: Place, notes: list[str]) -> nn.Module:
    """Return a tower as a slot needs it: itself when it is so already, otherwise a copy."""
    ids = carry.added(slot.tokenizer) if slot.kind == "text" and slot.tower is not None else ()
    live = slot.tower is not None and bool(carry.layers(slot.tower))
    here = _of(tower)
    quiet = not any(part.training for part in tower.modules()) and not any(p.requires_grad for p in tower.parameters())
    if here.dtype != place.dtype:
        notes.append(f"{slot.name}: cast from {_short(here.dtype)} to {_short(place.dtype)}")
    if here.device != place.device:
        notes.append(f"{slot.name}: moved from {here.device} to {place.device}")
    uniform = all(p.dtype == place.dtype and p.device == place.device for p in tower.parameters())
    if uniform and quiet and not ids and not live:
        return tower
    new = copied(tower, lambda t: t.to(place.device, place.dtype if t.is_floating_point() else t.dtype, copy=True))
    new.eval().requires_grad_(False)
    if slot.tower is None:
        return new
    if ids:
        carry.tokens(slot.tower, new, ids)
        notes.append(f"{slot.name}: carried over {len(ids)} added token{'s' if len(ids) > 1 else ''}")
    if live:
        notes += [f"{slot.name}: carried over the adapter {name!r}" for name in carry.adapters(slot.tower, new)]
    return new.eval()


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# --- in and out ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Entries:
    """What a pipeline's configuration says of some components."""

    config: dict[str, Any]
    specs: dict[str, Any]  # of a modular pipeline


def _entries(host: Any, names: tuple[str, ...]) -> _Entries:  # noqa: ANN401  any pipeline
    specs = host._component_specs if modular(host) else {}  # noqa: SLF001  the public reader gives copies
    return _Entries({n: host.config[n] for n in names if n in host.config}, {n: specs[n] for n in names if n in specs})


def _set_aside(name: str, old: nn.Module | None, tower: nn.Module, notes: list[str]) -> Original | None:
    """Keep what a slot holds for undo."""
    if old is None:
        notes.append(f"{name}: was empty")
        return None
    offload.forget(old)
    original = Original(old, hold=old is tower)
    if original.reason:
        notes.append(f"{name}: the original stays in memory, since {original.reason}")
    return original


def _install(host: Any, modules: Mapping[str, nn.Module | None], inside: Inside) -> None:  # noqa: ANN401  any pipeline
    """Register components, so that the configuration says what they are, also for slots that were or become empty.

    A combined pipeline runs pipelines inside of it, which hold the same towers under names of their own.
    """
    for inner, key, name in inside:
        inner.register_modules(**{key: modules[name]})
    if not modular(host):
        host.register_modules(**modules)
        return
    old = [getattr(host, name) for name in modules]
    host.update_components(**{name: module for name, module in modules.items() if module is not None})
    host.register_components(**{name: None for name, module in modules.items() if module is None})
    manager = host._components_manager  # noqa: SLF001  it has no public name
    for key, part in list(manager.components.items()) if manager is not None else ():
        if any(part is one for one in old) and not any(key in keys for keys in manager.collections.values()):
            manager.remove(key)


def _put_back(
    host: Any,  # noqa: ANN401  any pipeline
    modules: Mapping[str, nn.Module | None],
    entries: _Entries,
    found: offload.Offload | None,
    inside: Inside,
) -> None:
    """Give a pipeline components it had, with the words of its configuration, and its offloading."""
    _install(host, modules, inside)
    host.register_to_config(**entries.config)
    if entries.specs:
        host._component_specs.update(entries.specs)  # noqa: SLF001  there is no public way to set them
    if found is not None:
        found.make(host)


def _note_shared(
    host: Any,  # noqa: ANN401  any pipeline
    before: Mapping[str, nn.Module | None],
    found: offload.Offload | None,
    notes: list[str],
) -> None:
    """Point out pipelines that were made from this one before, and leave them as they were: with the originals."""
    classes = tuple(getattr(sys.modules[module], name) for module, name in CLASSES.items() if module in sys.modules)
    # type() and vars(), since isinstance() and properties would run code of whatever object is met
    pipelines: list[Any] = [one for one in gc.get_objects() if issubclass(type(one), classes) and one is not host]
    for name, old in before.items():
        holders = [one for one in pipelines if old is not None and vars(one).get(name) is old]
        notes += [f"another {type(one).__name__} made from this one still holds the original {name}" for one in holders]
        if holders and found is not None and old is not None:
            found.hook(old)
