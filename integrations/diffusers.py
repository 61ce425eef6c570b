"""The diffusers host: any pipeline whose components hold a CLIP tower, by whatever name.

A swap checks everything before it touches anything, and either succeeds or leaves the pipeline as it was.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from safeencoders.errors import FitError, HostError
from safeencoders.integrations import carry, fit, offload, slots
from safeencoders.integrations.swap import CLASSES, Swap, modular, place_of, uncompiled

if TYPE_CHECKING:
    from torch import nn

    from safeencoders.integrations.slots import Other, Slot

# Components that a pipeline may well do without, whatever its signature says: encoders left out to save memory, and
# what goes with them. Those of a slot that is to be filled are looked at on their own.
_SPARE = ("text_encoder", "tokenizer", "image_encoder", "feature_extractor", "image_processor", "processor")
_NEEDED = ("unet", "transformer", "prior", "vae", "scheduler")  # of a modular pipeline, where it has such a component


class DiffusersHost:
    """A pipeline of diffusers; stateless."""

    calls = ("__call__",)

    @staticmethod
    def accepts(host: Any) -> bool:  # noqa: ANN401  any object
        """Say whether an object is a pipeline of diffusers; diffusers is not imported for it."""
        classes = [getattr(sys.modules.get(module), name, None) for module, name in CLASSES.items()]
        return any(kind is not None and isinstance(host, kind) for kind in classes)

    @staticmethod
    def slots(host: Any) -> tuple[Slot, ...]:  # noqa: ANN401  any pipeline
        """List the components that hold, or may hold, a CLIP tower."""
        return slots.slots_of(host.components, slots.annotated(host))

    @staticmethod
    def others(host: Any) -> tuple[Other, ...]:  # noqa: ANN401  any pipeline
        """List what else reads prompts or images."""
        return slots.others_of(host.components)

    @staticmethod
    def reads(host: Any, slot: Slot) -> tuple[str, ...]:  # noqa: ANN401  any pipeline
        """Measure which fields of a tower's output reach what the pipeline's encode function returns."""
        return slots.reads(host, slot)

    @staticmethod
    def held(host: Any, name: str) -> Any:  # noqa: ANN401  any pipeline
        """Return the component."""
        return slots.component(host, name)

    @staticmethod
    def layers(_host: Any, _call: str, arguments: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ANN401
        """Name the argument that asks for an earlier layer than the last."""
        return ("clip_skip",) if arguments.get("clip_skip") is not None else ()

    @staticmethod
    def check(host: Any, towers: Mapping[str, nn.Module]) -> None:  # noqa: ANN401  any pipeline
        """Find everything that can be wrong with putting towers into slots; nothing is touched.

        Raises:
            HostError: no pipeline, or one that is half loaded, on the meta device, offloaded in a way that cannot be
                made again, or holds LoRA or tokens that cannot be carried over.
            FitError: there is no such slot, or a tower does not fit its slot.
        """
        if not DiffusersHost.accepts(host):
            raise HostError(f"expected a diffusers pipeline, got {type(host).__name__}; pass the pipeline itself")
        found = uncompiled(host)
        _check_loaded(host, tuple(towers))
        if not towers or not set(towers) <= set(found):
            wrong = sorted(set(towers) - set(found)) or "no tower at all"
            raise FitError(f"expected towers for some of the slots {sorted(found)}, got {wrong}; give one for a slot")
        offload.find(host)
        carry.check_fused(host, tuple(towers))
        for name, tower in towers.items():
            fit.check(found[name], tower, place_of(host, found[name]).dtype)

    @staticmethod
    def swap(host: Any, towers: Mapping[str, nn.Module]) -> Swap:  # noqa: ANN401  any pipeline
        """Put towers into a pipeline, each with the number format, device, tokens and adapters of the one before it.

        A tower that has all of this already, in eval mode and without gradients, is put in itself; otherwise a copy of
        it is. What it replaces is set aside for ``undo``, out of memory where possible.

        Raises:
            HostError, FitError: as `check`; whatever is raised, the pipeline is as it was.
        """
        DiffusersHost.check(host, towers)
        return Swap(host, towers)


# --- checks ----------------------------------------------------------------------------------------------------------
def _check_loaded(host: Any, names: tuple[str, ...]) -> None:  # noqa: ANN401  any pipeline
    """Refuse a pipeline that has no weights, or lacks what it cannot do without."""
    import torch

    kind, components = type(host).__name__, host.components
    needed = _needed(host)
    spare = {name for name in components if name not in names and (name.startswith(_SPARE) or name.endswith(_SPARE))}
    missing = [name for name, part in components.items() if part is None and name in needed - spare]
    if missing:
        raise HostError(
            f"the {kind} is half loaded: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} None; load the "
            "whole pipeline (a modular one with load_components()), then protect it"
        )
    for name, part in components.items():
        if isinstance(part, torch.nn.Module) and offload.weights_elsewhere(part):
            raise HostError(
                f"{name} of the {kind} is on the meta device: its weights were never loaded; load the pipeline with "
                "from_pretrained(), then protect it"
            )


def _needed(host: Any) -> set[str]:  # noqa: ANN401  any pipeline
    """Return the names of the components that a pipeline's class requires."""
    if modular(host):
        return set(_NEEDED)
    required, _ = host._get_signature_keys(host)  # noqa: SLF001  what components itself is made of
    return set(required) - set(host._optional_components)  # noqa: SLF001
