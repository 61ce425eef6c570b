"""Offloading of a diffusers pipeline: what of it is there, how it is taken off for a moment and made again.

A module that is put into an offloaded pipeline has no hook, so that its first call would meet inputs on another device.
Model offload and sequential offload are taken off before a swap, so that all weights are in place, and made again on
the same device after it. Other arrangements keep no record from which they could be made again and are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from safeencoders.errors import HostError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Offload:
    """How a pipeline is offloaded.

    Attributes:
        kind: "model" (a component at a time) or "sequential" (a layer at a time).
        device: where it computes.
    """

    kind: Literal["model", "sequential"]
    device: torch.device

    def remove(self, host: Any) -> None:  # noqa: ANN401  any pipeline
        """Bring all weights back into their modules and take the hooks off."""
        host.remove_all_hooks()

    def make(self, host: Any) -> None:  # noqa: ANN401  any pipeline
        """Hook every component that the pipeline has now."""
        enable = host.enable_model_cpu_offload if self.kind == "model" else host.enable_sequential_cpu_offload
        enable(device=self.device)

    def hook(self, module: nn.Module) -> None:
        """Hook one module that is no component any more, for a pipeline that still shares it."""
        import accelerate  # type: ignore[import-untyped]

        if self.kind == "model":
            accelerate.cpu_offload_with_hook(module, self.device)
        else:
            accelerate.cpu_offload(module, self.device)


def find(host: Any) -> Offload | None:  # noqa: ANN401  any pipeline
    """Return how a pipeline is offloaded, or None when it is not.

    Raises:
        HostError: in a way that cannot be made again: by groups, by a device map, by a ComponentsManager, or with
            hooks of another kind.
    """
    modules = _modules(host)
    manager = getattr(host, "_components_manager", None)
    if manager is not None and manager._auto_offload_enabled:  # noqa: SLF001  there is no public name for it
        raise _cannot("its ComponentsManager offloads it", "call disable_auto_cpu_offload()")
    if isinstance(host.hf_device_map, dict) and len(host.hf_device_map) > 1:
        raise _cannot("a device map spreads it over devices", "call reset_device_map()")
    for name, module in modules.items():
        kinds = sorted({kind for part in module.modules() for kind in _hooks(part)})
        if kinds:
            raise _cannot(f"{name} has hooks of diffusers ({', '.join(kinds)})", "load it without them")
    found = next((one for name, part in modules.items() if (one := _of(name, part)) is not None), None)
    if found is not None and not hasattr(host, "remove_all_hooks"):  # a modular one, which has no offloading itself
        raise _cannot("another pipeline that shares its components offloads it", "call remove_all_hooks() on that one")
    return found


def forget(module: nn.Module) -> None:
    """Drop what a removed hook leaves behind, a method bound to its own module, which would keep it in memory."""
    for part in module.modules():
        left = vars(part).get("forward")
        if getattr(left, "__func__", None) is type(part).forward and not hasattr(part, "_hf_hook"):
            del vars(part)["forward"]


def weights_elsewhere(module: nn.Module) -> bool:
    """Say whether weights are on the meta device without a hook that would fetch them."""
    return any(
        tensor.is_meta and not hasattr(part, "_hf_hook")
        for part in module.modules()
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False))
    )


def _modules(host: Any) -> dict[str, nn.Module]:  # noqa: ANN401  any pipeline
    import torch

    return {name: part for name, part in host.components.items() if isinstance(part, torch.nn.Module)}


def _hooks(part: Any) -> tuple[str, ...]:  # noqa: ANN401  any module
    """Return the kinds of diffusers' own hooks on a module, such as "group_offloading"."""
    return tuple(getattr(getattr(part, "_diffusers_hook", None), "hooks", ()))


def _of(name: str, module: nn.Module) -> Offload | None:
    import torch

    parts: list[Any] = [part for part in module.modules() if hasattr(part, "_hf_hook")]
    if not parts:
        return None
    from accelerate.hooks import AlignDevicesHook, CpuOffload, SequentialHook  # type: ignore[import-untyped]

    for part in parts:
        hooks = part._hf_hook.hooks if isinstance(part._hf_hook, SequentialHook) else [part._hf_hook]  # noqa: SLF001
        for hook in hooks:
            if isinstance(hook, CpuOffload):
                return Offload("model", torch.device(hook.execution_device))
            if isinstance(hook, AlignDevicesHook) and hook.offload:
                return Offload("sequential", torch.device(hook.execution_device))
    raise _cannot(f"{name} has a hook of another kind ({type(parts[0]._hf_hook).__name__})", "remove it")  # noqa: SLF001


def _cannot(what: str, remedy: str) -> HostError:
    return HostError(
        f"the host is offloaded in a way that cannot be made again after the swap: {what}; {remedy}, protect the host, "
        "then offload it"
    )
