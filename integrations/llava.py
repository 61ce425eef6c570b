"""The LLaVA host: any model of transformers that holds a CLIP vision tower, wherever it holds it.

LLaVA, LLaVA-NeXT, LLaVA-NeXT-Video, VipLLaVA and Video-LLaVA (two towers) keep it inside ``model.model``: assigning
``model.vision_tower`` is accepted by torch and ignored by the model. So a slot's name is the tower's path in the host,
such as "model.vision_tower", and a tower is set on the module that holds it.
"""

from __future__ import annotations

import copy
import sys
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from safeencoders.errors import FitError, HostError
from safeencoders.integrations import carry, fit, listening
from safeencoders.integrations.slots import Other, Slot, component
from safeencoders.integrations.spool import Original, copied

if TYPE_CHECKING:
    import torch
    from torch import nn

_CLASSES = ("CLIPVisionModel", "CLIPVisionModelWithProjection")
_WORDS = "the language model reads the question as before: a vision tower changes what is seen, not what is asked"


class LlavaHost:
    """A model of transformers with a CLIP vision tower inside; stateless."""

    calls = ("__call__", "forward", "generate")

    @staticmethod
    def accepts(host: Any) -> bool:  # noqa: ANN401  any object
        """Say whether an object is a model of transformers other than a CLIP; transformers is not imported for it."""
        transformers: Any = sys.modules.get("transformers")
        if transformers is None or not isinstance(host, getattr(transformers, "PreTrainedModel", ())):
            return False
        clip = sys.modules.get("transformers.models.clip.modeling_clip")
        return clip is None or not isinstance(host, clip.CLIPPreTrainedModel)

    @staticmethod
    def slots(host: Any) -> tuple[Slot, ...]:  # noqa: ANN401  any model
        """List the CLIP vision towers by their paths; one that is held in two places is two slots."""
        return tuple(
            Slot(path, "vision", module, type(module).__name__.endswith("WithProjection"))
            for path, module in _outermost(host, _is_tower)
        )

    @staticmethod
    def others(host: Any) -> tuple[Other, ...]:  # noqa: ANN401  any model
        """List the other vision encoders, which stay as they are."""
        taken = [slot.name for slot in LlavaHost.slots(host)]
        found = []
        for path, module in _outermost(host, lambda module: getattr(module, "main_input_name", "") == "pixel_values"):
            if not any(_inside(path, name) or _inside(name, path) for name in taken):
                name = type(module).__name__
                reason = f"{name} is no CLIP tower; what it sees reaches the language model unfiltered"
                found.append(Other(path, name, "vision", reason))
        return tuple(found)

    @staticmethod
    def reads(host: Any, slot: Slot) -> tuple[str, ...]:  # noqa: ANN401  any model
        """Return which states of a slot's tower reach the projector, as `listening.reads` measures it."""
        return listening.reads(host, slot)

    @staticmethod
    def held(host: Any, name: str) -> Any:  # noqa: ANN401  any model
        """Return the module at a slot's path."""
        return component(host, name)

    @staticmethod
    def layers(host: Any, _call: str, arguments: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ANN401  any model
        """Name the states a call reads by its arguments, or by the configuration, in the words of ``reads``."""
        chosen, strategies = (
            _chosen(host.config, arguments, name) for name in ("vision_feature_layer", "vision_feature_select_strategy")
        )
        depth = getattr(getattr(host.config, "vision_config", None), "num_hidden_layers", 0)
        asked = [at for layer in chosen for at in (layer if isinstance(layer, list | tuple) else [layer])]
        backs = {-at if at < 0 else depth + 1 - at for at in asked}
        with_class = any(strategy != "default" for strategy in strategies)
        return tuple(_state(back, with_class=with_class) for back in sorted(backs))

    @staticmethod
    def check(host: Any, towers: Mapping[str, nn.Module]) -> None:  # noqa: ANN401  any model
        """Find everything that can be wrong with putting towers into slots; nothing is touched.

        Raises:
            HostError: no such model, or one that is quantised, sharded, not loaded, offloaded where the tower is, or
                with LoRA on the tower.
            FitError: there is no such slot, or a tower does not fit its slot.
        """
        if not LlavaHost.accepts(host):
            raise HostError(f"expected a vision-language model of transformers, got {type(host).__name__}")
        found = {slot.name: slot for slot in LlavaHost.slots(host)}
        if not found:
            have = ", ".join(other.class_name for other in LlavaHost.others(host)) or "no vision encoder at all"
            raise HostError(
                f"expected a model that holds a CLIPVisionModel, got {type(host).__name__} with {have}; its pictures "
                "cannot be protected by a CLIP tower"
            )
        if not towers or not set(towers) <= set(found):
            wrong = sorted(set(towers) - set(found)) or "no tower at all"
            raise FitError(f"expected towers for some of the slots {sorted(found)}, got {wrong}; give one for a slot")
        _check_plain(host)
        for name, tower in towers.items():
            _check_old(found[name])
            fit.check(found[name], tower, _any(found[name].tower).dtype)
            _same_epsilon(found[name], tower)

    @staticmethod
    def swap(host: Any, towers: Mapping[str, nn.Module]) -> Swap:  # noqa: ANN401  any model
        """Put towers into a model, each with the number format, device, attention and hooks of the one before it.

        Raises:
            HostError, FitError: as `check`; whatever is raised, the model is as it was.
        """
        LlavaHost.check(host, towers)
        return Swap(host, towers)


class Swap:
    """A swap that was made.

    Attributes:
        towers: what is in the slots now: cast, in eval mode, gradients off.
        notes: what was carried over and what a reader should know, one sentence each.
    """

    def __init__(self, host: Any, towers: Mapping[str, nn.Module]) -> None:  # noqa: ANN401  any model
        """Make the swap, which was checked; on any error put everything back and raise."""
        self._host = weakref.ref(host)
        self.towers: dict[str, nn.Module] = {}
        notes: list[str] = []
        before = {name: host.get_submodule(name) for name in towers}
        self._places = {name: (_any(old).dtype, _any(old).device) for name, old in before.items()}
        try:
            for name, old in before.items():
                self.towers[name] = _prepared(name, towers[name], old, notes)
            self._originals = {name: Original(old, hold=old is self.towers[name]) for name, old in before.items()}
            for name, tower in self.towers.items():
                place(host, name, tower)
        except BaseException:
            for name, old in before.items():
                place(host, name, old)
            raise
        kept = [f"{n}: the original stays in memory, since {o.reason}" for n, o in self._originals.items() if o.reason]
        self.notes = (*notes, *kept, _WORDS)

    def undo(self) -> None:
        """Put back what was there, bit for bit, on the device and in the number format the host has now; done once."""
        host = self._host()
        if host is None:
            return
        for name, original in self._originals.items():
            now, tower = _any(host.get_submodule(name)), original.restore()
            if (now.dtype, now.device) != self._places[name]:
                tower.to(now.device, now.dtype)
            place(host, name, tower)
        self._originals, self.towers = {}, {}


# --- finding ---------------------------------------------------------------------------------------------------------
def _is_tower(module: nn.Module) -> bool:
    transformers: Any = sys.modules["transformers"]
    return isinstance(module, tuple(getattr(transformers, name) for name in _CLASSES))


def _outermost(host: nn.Module, wanted: Any) -> list[tuple[str, nn.Module]]:  # noqa: ANN401  a predicate of modules
    """Return the modules below the host that are wanted and not inside another such one, with their paths."""
    found: list[tuple[str, nn.Module]] = []
    for path, module in host.named_modules(remove_duplicate=False):
        if path and wanted(module) and not any(_inside(path, other) for other, _ in found):
            found.append((path, module))
    return found


def _inside(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.")


def _any(module: Any) -> Any:  # noqa: ANN401  a model of transformers, whose dtype and device torch does not declare
    return module


def _chosen(config: Any, arguments: Mapping[str, Any], name: str) -> tuple[Any, ...]:  # noqa: ANN401
    """Return all that a call's arguments say of a choice, under its old name too, or else what the configuration says.

    Which of two names a model follows is its own affair.
    """
    said = [value for value in (arguments.get(name), arguments.get(f"{name}s")) if value is not None]
    return tuple(value for value in said or [getattr(config, name, None)] if value is not None)


def _state(back: int, *, with_class: bool) -> str:
    """Name a layer counted from the end."""
    known = {1: "last", 2: "penultimate" if with_class else "patches"}
    return known.get(back, f"hidden[-{back}]{' with the class token' if with_class else ''}")


# --- checks ----------------------------------------------------------------------------------------------------------
def _check_plain(host: Any) -> None:  # noqa: ANN401  any model
    """Refuse a host whose weights are not plain tensors of its own."""
    if getattr(host, "hf_quantizer", None) is not None or getattr(host, "is_quantized", False):
        raise HostError(
            f"the {type(host).__name__} is quantised: a float tower put into it would be left out of what is saved; "
            "load it unquantised, protect and save it, then load what was saved with quantisation"
        )


def _check_old(slot: Slot) -> None:
    """Refuse a tower whose place in the host cannot be taken over."""
    import torch

    tower = slot.tower
    assert tower is not None  # noqa: S101  slots of this host are held
    hooks = [vars(part)["_hf_hook"] for part in tower.modules() if "_hf_hook" in vars(part)]
    if any(getattr(hook, "offload", False) or not hasattr(hook, "execution_device") for hook in hooks):
        raise HostError(
            f"slot {slot.name!r} is offloaded; load the model with a device_map that keeps {slot.name} on one device "
            "(or load it on the CPU), protect it, then dispatch it"
        )
    if any(tensor.is_meta for tensor in (*tower.parameters(), *tower.buffers())):
        raise HostError(
            f"slot {slot.name!r} is on the meta device: its weights were never loaded; load the model with "
            "from_pretrained(), then protect it"
        )
    if any(type(p.data) is not torch.Tensor or not p.is_floating_point() for p in tower.parameters()):
        raise HostError(
            f"slot {slot.name!r} has weights of a special kind, sharded over processes or quantised; protect the model "
            "before it is sharded or quantised"
        )
    if len({p.device for p in tower.parameters()}) > 1:
        raise HostError(f"slot {slot.name!r} is spread over devices; load the model with the tower on one of them")
    if carry.layers(tower):
        raise HostError(f"slot {slot.name!r} has live adapters; merge or unload them first, then protect the model")


def _same_epsilon(slot: Slot, tower: Any) -> None:  # noqa: ANN401  a vision tower
    """Compare what no weight tells: a reload builds the tower by the host's configuration."""
    expected, found = _any(slot.tower).config.layer_norm_eps, tower.config.layer_norm_eps
    if expected != found:
        raise FitError(
            f"slot {slot.name!r}: expected a tower of layer_norm_eps {expected}, got {found}; choose another"
        )


# --- in and out ------------------------------------------------------------------------------------------------------
def _prepared(name: str, tower: Any, old: Any, notes: list[str]) -> nn.Module:  # noqa: ANN401  vision towers
    """Return a tower as a slot needs it: itself when it is so already, otherwise a copy."""
    for word, here, there in (("cast", tower.dtype, old.dtype), ("moved", tower.device, old.device)):
        if here != there:
            notes.append(f"{name}: {word} from {_short(here)} to {_short(there)}")
    attention, hooked = old.config._attn_implementation, _hooks(old)  # noqa: SLF001  it has no public name
    ready = tower.dtype == old.dtype and tower.device == old.device and not hooked
    quiet = not any(part.training for part in tower.modules()) and not any(p.requires_grad for p in tower.parameters())
    if ready and quiet and tower.config._attn_implementation == attention:  # noqa: SLF001
        found: nn.Module = tower
        return found
    new: Any = copied(tower, lambda t: t.to(old.device, old.dtype if t.is_floating_point() else t.dtype, copy=True))
    new.eval().requires_grad_(False)
    new.set_attn_implementation(attention)
    if hooked:
        _hook(new, hooked)
        notes.append(f"{name}: carried over the hooks of its device map")
    made: nn.Module = new
    return made


def _short(value: torch.dtype | torch.device) -> str:
    return str(value).removeprefix("torch.")


def _hooks(tower: nn.Module) -> dict[str, Any]:
    """Return the hooks that a device map left on a tower's modules, by path."""
    return {path: vars(part)["_hf_hook"] for path, part in tower.named_modules() if "_hf_hook" in vars(part)}


def _hook(tower: nn.Module, hooks: Mapping[str, Any]) -> None:
    """Give the modules of a tower copies of another one's hooks."""
    from accelerate.hooks import add_hook_to_module  # type: ignore[import-untyped]  # who made hooks has it

    for path, hook in hooks.items():
        add_hook_to_module(tower.get_submodule(path), copy.copy(hook))


def place(host: nn.Module, path: str, tower: nn.Module) -> None:
    """Set a tower on the module that holds it; the host's own attribute of the same name would be ignored."""
    parent, _, attribute = path.rpartition(".")
    setattr(host.get_submodule(parent), attribute, tower)
