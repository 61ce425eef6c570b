"""Whether a tower fits a slot: everything that can be wrong is found here, before anything is touched.

A tower fits when its class is the slot's, when the numbers of its configuration that shape its output are those of the
tower it replaces, and when it is a plain model with finite weights that survive the host's number format.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from safeencoders.errors import FitError, HostError
from safeencoders.integrations import carry

if TYPE_CHECKING:
    import torch
    from torch import nn

    from safeencoders.integrations.slots import Slot

_SHARED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
_FIELDS = {
    "text": (*_SHARED, "max_position_embeddings"),
    "vision": (*_SHARED, "image_size", "patch_size", "num_channels"),
}
_LEGACY_EOS = 2  # transformers then pools at the largest id, which is the end of text in every CLIP vocabulary


def check(slot: Slot, tower: object, dtype: torch.dtype) -> None:
    """Refuse a tower that does not fit a slot; neither is touched.

    Args:
        slot: the place in the host.
        tower: what shall go there.
        dtype: the number format of the host, to which the tower would be cast.

    Raises:
        FitError: the tower is of another class or family, wrapped, on the meta device, of another width, depth,
            vocabulary, activation or projection, or has weights that are not finite (in ``dtype``).
        HostError: the slot's own tokenizer or its tower cannot be carried over: see `carry`.
    """
    plain = _plain(slot, tower)
    _same_numbers(slot, plain)
    if slot.kind == "text":
        tokenizer_works(slot)
        carry.check_tokens(slot, plain)
        _same_end(slot, plain)
    carry.check_adapters(slot, plain)
    _finite(slot, plain, dtype)


def class_name(slot: Slot) -> str:
    """Return the name of the class that a slot takes."""
    return f"CLIP{slot.kind.capitalize()}Model{'WithProjection' if slot.projection else ''}"


def _plain(slot: Slot, tower: object) -> nn.Module:
    """Return the tower as a module once it is known to be a plain one of the slot's class, with weights."""
    import torch

    expected, found = class_name(slot), type(tower).__name__
    said = f"slot {slot.name!r}: expected a plain {expected}, got"
    transformers: Any = sys.modules.get("transformers")
    if not isinstance(tower, torch.nn.Module):
        raise FitError(f"{said} {found}; pass a tower, such as the one that safeencoders.load() returns")
    if transformers is None or type(tower) is not getattr(transformers, expected):
        raise FitError(f"{said} {found}; {_remedy(slot, tower)}")
    if any(tensor.is_meta for tensor in (*tower.parameters(), *tower.buffers())):
        raise FitError(f"{said} one on the meta device, without weights; load it on the CPU, and not offloaded")
    if any(hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook") for module in tower.modules()):
        raise FitError(f"{said} one that another pipeline offloads; pass a tower that no pipeline has hooked")
    if carry.layers(tower):
        raise FitError(f"{said} one with live adapters; merge them first: PeftModel.merge_and_unload()")
    if getattr(tower, "hf_quantizer", None) is not None or not all(_is_plain(p) for p in tower.parameters()):
        raise FitError(f"{said} a quantised one; pass it as it was trained, and quantise the protected host")
    return tower


def _is_plain(parameter: nn.Parameter) -> bool:
    import torch

    return type(parameter.data) is torch.Tensor and parameter.is_floating_point()


def _remedy(slot: Slot, tower: nn.Module) -> str:
    """Say how to get from a module of the wrong class to one that fits."""
    import torch

    name, wanted = type(tower).__name__, class_name(slot)
    parallel = isinstance(tower, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel)
    inside = any(kind.__name__ == wanted for part in tower.modules() for kind in type(part).__mro__)
    remedies = (
        (
            hasattr(tower, "_orig_mod"),
            "pass what torch.compile was given (its _orig_mod), and compile it once protected",
        ),
        (hasattr(tower, "merge_and_unload"), "merge the adapters first: tower.merge_and_unload()"),
        (parallel, "pass the module inside: tower.module"),
        (f"{name}WithProjection" == wanted, "load it with its projection: safeencoders.load(..., projection=True)"),
        (name == f"{wanted}WithProjection", "load it without: safeencoders.load(..., projection=False)"),
        (name.startswith(("CLIPText", "CLIPVision")), f"load the other: safeencoders.load(..., tower={slot.kind!r})"),
        (name == "CLIPModel", f"pass one tower of it: {wanted}.from_pretrained(the same folder)"),
        (
            inside,
            "a subclass or wrapper cannot be read back once the pipeline is saved; pass the plain model inside it",
        ),
    )
    other = "a tower of another family reads other ids or pictures; choose an encoder made for this slot"
    return next((remedy for holds, remedy in remedies if holds), other)


def _same_numbers(slot: Slot, tower: nn.Module) -> None:
    """Compare what shapes the output with the tower that is there now; an empty slot has nothing to compare with."""
    if slot.tower is None:
        return
    here: Any = slot.tower.config
    there: Any = tower.config
    fields = (*_FIELDS[slot.kind], *(("projection_dim",) if slot.projection else ()))
    for field in fields:
        expected, found = getattr(here, field), getattr(there, field)
        if expected != found:
            raise FitError(
                f"slot {slot.name!r}: expected a tower of {field} {expected}, got {found}; "
                f"choose an encoder whose base is this host's (safeencoders.list_encoders() says which)"
            )


def tokenizer_works(slot: Slot) -> None:
    """Refuse a text slot whose tokenizer gives no end of text, which every pooled output is read at.

    Raises:
        HostError: there is no tokenizer, it names no end of text, or it does not write it into the ids.
    """
    tokenizer: Any = slot.tokenizer
    if tokenizer is None:
        raise HostError(f"slot {slot.name!r} has no tokenizer; load the whole pipeline, tokenizers included")
    end = getattr(tokenizer, "eos_token_id", None)
    if end is None or end not in tokenizer("a").input_ids:
        raise HostError(
            f"slot {slot.name!r}: expected a tokenizer that ends every prompt with its end-of-text token, got ids "
            "without one, so that all prompts would be pooled at the same place; use the tokenizer of the base model"
        )


def _same_end(slot: Slot, tower: nn.Module) -> None:
    """Compare where a tower pools with what the tokenizer writes."""
    tokenizer: Any = slot.tokenizer
    config: Any = tower.config
    here: Any = slot.tower.config if slot.tower is not None else config
    if config.eos_token_id not in {_LEGACY_EOS, tokenizer.eos_token_id, here.eos_token_id}:
        raise FitError(
            f"slot {slot.name!r}: expected a tower that pools at id {tokenizer.eos_token_id}, the tokenizer's end of "
            f"text, got eos_token_id {config.eos_token_id} in its config; set it right, or choose another encoder"
        )


def _finite(slot: Slot, tower: nn.Module, dtype: torch.dtype) -> None:
    """Look at every weight once, in the number format it would have in the host."""
    for name, value in tower.named_parameters():
        if not value.isfinite().all():
            raise FitError(f"slot {slot.name!r}: weight {name} of the tower is not finite; download or train it again")
        if value.dtype != dtype and not value.to(dtype).isfinite().all():
            raise FitError(
                f"slot {slot.name!r}: weight {name} of the tower is too large for the host's {dtype}; "
                "load the pipeline in bfloat16 or float32"
            )
