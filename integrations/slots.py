"""Slots: the places of a host that hold a CLIP tower, found by class, and what the host reads, found by trying.

A slot is a component of one of the four CLIP classes of transformers, under whatever name; there is no table. What a
host reads is measured on its own encode function, run on a copy of the host whose encoders are stand-ins: they give
random outputs of the right shapes, and a field is read when changing it alone changes what the function returns. No
tower runs, so an offloaded, quantised or guarded one is never touched.
"""

from __future__ import annotations

import inspect
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import nn

Kind = Literal["text", "vision"]
UNKNOWN = ("unknown",)
JUDGE = "safety_checker"  # holds a CLIP vision tower of its own, which judges pictures and conditions none
_CLASSES: dict[str, tuple[Kind, bool]] = {
    "CLIPTextModel": ("text", False),
    "CLIPTextModelWithProjection": ("text", True),
    "CLIPVisionModel": ("vision", False),
    "CLIPVisionModelWithProjection": ("vision", True),
}
_INPUTS: dict[str, Kind] = {"input_ids": "text", "pixel_values": "vision"}
_ENCODE = {
    "text": ("encode_prompt", "_encode_prompt"),
    "vision": ("prepare_ip_adapter_image_embeds", "encode_image", "_encode_image", "get_zero_embed"),
}


@dataclass(frozen=True)
class Slot:
    """A place of a host that holds a CLIP tower, or that is empty and meant for one.

    Attributes:
        name: the component's name in the host, such as "text_encoder_2".
        kind: "text" or "vision".
        tower: what is there now; None for an optional component that is empty.
        projection: its class has a projection head.
        tokenizer: what makes a text slot's ids, where it can be told; None for a vision slot.
    """

    name: str
    kind: Kind
    tower: nn.Module | None
    projection: bool
    tokenizer: Any | None = None


@dataclass(frozen=True)
class Other:
    """A component that reads prompts or pictures and is no CLIP tower, with the reason it stays as it is."""

    name: str
    class_name: str
    kind: Literal["text", "vision", "judge"]
    reason: str


def slots_of(
    components: Mapping[str, object], types: Mapping[str, tuple[object, ...]] | None = None
) -> tuple[Slot, ...]:
    """Return the slots of a host, in the order of its components.

    Args:
        components: what the host is made of, by name, as ``pipe.components``.
        types: what each component may be (see `annotated`); with it, empty components of a CLIP class are slots too.
    """
    found = []
    for name, component in components.items():
        matches = _clip_of(component) or (None if component is not None else _annotation(types, name))
        if name == JUDGE or matches is None:
            continue
        kind, projection = matches
        tokenizer = _tokenizer(components, name) if kind == "text" else None
        found.append(Slot(name, kind, component if isinstance(component, nn.Module) else None, projection, tokenizer))
    return tuple(found)


def others_of(components: Mapping[str, object]) -> tuple[Other, ...]:
    """Return the components that read prompts or pictures, or judge pictures, and are no slots."""
    found = []
    for name, component in components.items():
        if not isinstance(component, nn.Module) or (name != JUDGE and _clip_of(component)):
            continue
        class_name = type(component).__name__
        kind = _INPUTS.get(str(getattr(component, "main_input_name", "")))
        hidden = next((type(part).__name__ for part in component.modules() if _clip_of(part)), None)
        if name == JUDGE or class_name.endswith("SafetyChecker"):
            reason = f"{class_name} judges finished pictures and conditions none; it is left alone"
            found.append(Other(name, class_name, "judge", reason))
        elif hidden:
            reason = f"{class_name} wraps a {hidden}: put the plain tower in its place (merge an adapter first)"
            found.append(Other(name, class_name, kind or _CLASSES[hidden][0], reason))
        elif kind:
            reason = f"{class_name} is no CLIP tower; what it reads reaches the host unfiltered"
            found.append(Other(name, class_name, kind, reason))
    return tuple(found)


def annotated(host: object) -> dict[str, tuple[object, ...]]:
    """Return what each component of a diffusers pipeline may be, by its own annotations; empty for another object."""
    signature = getattr(type(host), "_get_signature_types", None)
    if signature is not None:
        return {name: tuple(kinds) for name, kinds in signature().items()}
    specs = getattr(host, "_component_specs", {})  # a modular pipeline
    return {name: get_args(spec.type_hint) or (spec.type_hint,) for name, spec in specs.items()}


def component(host: object, name: str) -> Any:  # noqa: ANN401  whatever is there
    """Return what a host holds under a slot's name, which may be a path such as "model.vision_tower"; None: nothing."""
    for part in name.split("."):
        host = getattr(host, part, None)
    return host


def held_inside(host: object, slot: Slot) -> Iterator[tuple[Any, str]]:
    """Give the pipelines inside a host that hold a slot's tower too, each with its name for it.

    A combined pipeline (Kandinsky, Stable Cascade, Wuerstchen) runs the pipelines it made of its components: a tower
    replaced on the outside alone changes nothing.
    """
    for inner in vars(host).values():
        components = getattr(inner, "components", None) if callable(inner) else None
        for name, component in components.items() if isinstance(components, Mapping) else ():
            if component is slot.tower and component is not None:
                yield inner, name


def reads(host: object, slot: Slot) -> tuple[str, ...]:
    """Return which fields of a tower's output reach what the host's own encode function returns.

    The fields are "last" (last_hidden_state), "penultimate" (hidden_states[-2]), "hidden[-k]" for the other layers,
    "pooled" (pooler_output) and "projected" (text_embeds or image_embeds). The host is left as it is.

    Returns:
        The fields in this order; none when the function ignores its tower; ("unknown",) when the host has no such
        function or it cannot be run: an empty slot, no tokenizer, arguments that cannot be guessed.
    """
    if slot.tower is None:
        return UNKNOWN
    with suppress(Exception):  # foreign code with guessed arguments: whatever it raises, the answer is "unknown"
        for inner, name in held_inside(host, slot):
            return reads(inner, replace(slot, name=name))
        probe = _probe(host)
        for encode in _functions(probe, slot.kind):
            with suppress(Exception):
                if (found := _measured(probe, slot.name, encode)) is not None:
                    return found
    return UNKNOWN


# --- finding ---------------------------------------------------------------------------------------------------------
def _clip_of(component: object) -> tuple[Kind, bool] | None:
    """Say which of the four classes a component, compiled or not, is of."""
    if not isinstance(component, nn.Module):
        return None
    import transformers

    plain = getattr(component, "_orig_mod", component)  # what torch.compile wrapped
    names = (name for name in _CLASSES if isinstance(plain, getattr(transformers, name)))
    name = next(names, None)
    return _CLASSES[name] if name else None


def _annotation(types: Mapping[str, tuple[object, ...]] | None, name: str) -> tuple[Kind, bool] | None:
    names = [getattr(kind, "__name__", "") for kind in (types or {}).get(name, ())]
    return next((_CLASSES[each] for each in names if each in _CLASSES), None)


def _tokenizer(components: Mapping[str, object], name: str) -> object | None:
    """Return the tokenizer of the same name and number, or else the only CLIP tokenizer there is."""
    paired = components.get(name.replace("text_encoder", "tokenizer"))
    if paired is not None and "text_encoder" in name:
        return paired
    found = [each for each in components.values() if type(each).__name__.startswith("CLIPTokenizer")]
    return found[0] if len(found) == 1 else None


# --- measuring -------------------------------------------------------------------------------------------------------
class _StandIn(nn.Module):
    """What a host takes for an encoder: it gives random outputs of the right shapes, and can change one field."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        encoder = next((part for part in encoder.modules() if _clip_of(part)), encoder)  # also inside a wrapper
        self.config: Any = encoder.config
        self.clip = _clip_of(encoder)
        self.scalar = nn.Parameter(torch.zeros(()))  # for hosts that ask the first parameter for its dtype
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.changed = ""
        self.fields: dict[str, None] = {}  # the names given out, in order

    def forward(self, inputs: torch.Tensor | None = None, *_: object, **options: Any) -> Any:  # noqa: ANN401
        """Return a model output of transformers, or the tuple of it."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling
        from transformers.models.clip.modeling_clip import CLIPTextModelOutput, CLIPVisionModelOutput

        given = next(each for each in (inputs, *options.values()) if isinstance(each, torch.Tensor))
        config = self.config if hasattr(self.config, "hidden_size") else self.config.get_text_config()
        kind, projection = self.clip or ("text" if given.ndim == 2 else "vision", False)
        rows, layers = len(given), getattr(config, "num_hidden_layers", 0)
        tokens = given.shape[1] if kind == "text" else (config.image_size // config.patch_size) ** 2 + 1
        output: dict[str, Any] = {"last_hidden_state": self._field("last", rows, tokens, config.hidden_size)}
        if options.get("output_hidden_states", getattr(config, "output_hidden_states", False)):
            names = [f"hidden[-{k}]" if k != 2 else "penultimate" for k in range(layers + 1, 0, -1)]
            output["hidden_states"] = tuple(self._field(name, rows, tokens, config.hidden_size) for name in names)
        found: Any
        if not projection:
            found = BaseModelOutputWithPooling(**output, pooler_output=self._field("pooled", rows, config.hidden_size))
        elif kind == "text":
            found = CLIPTextModelOutput(**output, text_embeds=self._field("projected", rows, config.projection_dim))
        else:
            found = CLIPVisionModelOutput(**output, image_embeds=self._field("projected", rows, config.projection_dim))
        return found if options.get("return_dict") is not False else found.to_tuple()

    def _field(self, name: str, *shape: int) -> torch.Tensor:
        self.fields[name] = None
        seed = zlib.crc32(f"{name} {name == self.changed}".encode())
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _probe(host: Any) -> Any:  # noqa: ANN401  any host
    """Copy a host, without its guard and with stand-ins for its encoders; what the copy keeps, the host never sees."""
    own = type(host)
    same = [kind for kind in own.__mro__ if (kind.__module__, kind.__name__) == (own.__module__, own.__name__)]
    probe: Any = object.__new__(same[-1])  # the class of a guarded host is a subclass under the same name
    vars(probe).update({"_guidance_scale": 1.0} | vars(host))  # which some encode functions look up, set by a call
    components = host.components
    readers = [slot.name for slot in slots_of(components)]
    readers += [other.name for other in others_of(components) if other.kind != "judge"]
    vars(probe).update({name: _StandIn(components[name]) for name in readers})
    return probe


def _functions(probe: Any, kind: Kind) -> Iterator[Callable[..., Any]]:  # noqa: ANN401
    """Give the functions that may encode a prompt or picture: the host's, and those of a modular pipeline's blocks."""
    blocks = list(_blocks(getattr(probe, "_blocks", None)))
    for place in (probe, *blocks, *(sys.modules[type(block).__module__] for block in blocks)):
        yield from (getattr(place, name) for name in _ENCODE[kind] if callable(getattr(place, name, None)))


def _blocks(block: Any) -> Iterator[Any]:  # noqa: ANN401
    for part in getattr(block, "sub_blocks", {}).values():
        yield part
        yield from _blocks(part)


def _measured(probe: Any, name: str, encode: Callable[..., Any]) -> tuple[str, ...] | None:  # noqa: ANN401
    """Change one field of a stand-in after the other; None when the function never asks it for anything."""
    tower: _StandIn = getattr(probe, name)
    tower.fields, tower.changed = {}, ""
    arguments = _arguments(probe, encode)
    before = _tensors(encode(**arguments))
    fields = list(tower.fields)
    order = ("last", "penultimate", *(field for field in reversed(fields) if field.startswith("hidden")))
    found = []
    for tower.changed in [*(field for field in order if field in fields), *(f for f in fields if f not in order)]:
        after = _tensors(encode(**arguments))
        if len(after) != len(before) or not all(map(torch.equal, before, after)):
            found.append(tower.changed)
    return tuple(found) if fields and before else None


def _arguments(probe: Any, encode: Callable[..., Any]) -> dict[str, Any]:  # noqa: ANN401
    """Fill the parameters whose names say what they want; what else has no default is None."""
    size = 224
    picture = torch.linspace(0, 1, 3 * size * size).reshape(1, 3, size, size)
    adapters = getattr(getattr(probe, "unet", None) or getattr(probe, "transformer", None), "encoder_hid_proj", None)
    known = {
        "components": probe,
        "prompt": "a",
        "image": picture,
        "images": picture,
        "ip_adapter_image": [picture] * len(getattr(adapters, "image_projection_layers", [None])),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "batch_size": 1,
        "num_images_per_prompt": 1,
        "num_videos_per_prompt": 1,
        "do_classifier_free_guidance": False,
    }
    parameters = inspect.signature(encode).parameters.values()
    asked = [each for each in parameters if each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD}]
    return {each.name: known.get(each.name) for each in asked if each.name in known or each.default is each.empty}


def _tensors(found: object) -> list[torch.Tensor]:
    """Flatten what an encode function returned into its tensors."""
    if isinstance(found, torch.Tensor):
        return [found]
    parts = found.values() if isinstance(found, Mapping) else found if isinstance(found, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
