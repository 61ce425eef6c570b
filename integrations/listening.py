"""What a vision-language model reads of a tower, found by trying: its own functions run with a stand-in for the tower.

The module that holds the tower is copied without its weights' memory; in the copy a stand-in gives random states and a
listener takes the projector's place. A state is read when changing it alone changes what the listener hears. Neither
the tower nor the language model runs, and the host is never touched. (Configurations do not tell: Video-LLaVA's names
the same strategy for both of its towers, and its video tower keeps the class token.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from safeencoders.integrations.slots import UNKNOWN, Slot

_FUNCTIONS = ("get_image_features", "get_video_features")
_PROJECTOR = "multi_modal_projector"
_TILES = 64  # more pieces than any model cuts a picture into; each takes what it needs


def reads(host: nn.Module, slot: Slot) -> tuple[str, ...]:
    """Return which states of a slot's tower reach the projector.

    Returns:
        "patches" for the layer before the last without the class token; "penultimate" for the same with it; "last",
        and "hidden[-k]" for the other layers; ("unknown",) when the host has no such function or it cannot be run.
    """
    parent, _, attribute = slot.name.rpartition(".")
    holder = host.get_submodule(parent)
    if slot.tower is None or not hasattr(holder, _PROJECTOR):
        return UNKNOWN
    found: set[tuple[int, str]] = set()
    for name in _FUNCTIONS:
        if hasattr(holder, name):
            stand_in = _StandIn(slot.tower)
            probe = _copy(holder, {attribute: stand_in, _PROJECTOR: _Listener()})
            try:
                found |= _measured(getattr(probe, name), stand_in)
            except Exception:  # noqa: BLE001  foreign code with guessed arguments
                return UNKNOWN
    return _named(found) if found else UNKNOWN


def _named(found: set[tuple[int, str]]) -> tuple[str, ...]:
    """Name the layers that are read, counted from the end, the last first."""
    names = []
    for back in sorted({back for back, _ in found}):
        both = {part for at, part in found if at == back} == {"class", "patches"}
        names.append({1: "last", 2: "penultimate" if both else "patches"}.get(back, f"hidden[-{back}]"))
    return tuple(names)


class _HeardError(Exception):
    """What the projector would have read; the function need not go on."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.given = given


class _Listener(nn.Module):
    """Takes the projector's place."""

    def forward(self, given: Tensor, *_: object, **__: object) -> Tensor:
        """Hand what is read to whoever asked."""
        raise _HeardError(given)


class _StandIn(nn.Module):
    """Takes the tower's place: random states of the right shapes, of which one can be changed."""

    def __init__(self, tower: Any) -> None:  # noqa: ANN401  a vision tower
        super().__init__()
        self.config = tower.config
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.changed: tuple[int, str] | None = None
        self.asked = False

    def forward(self, pixel_values: Tensor, *_: object, **__: object) -> Any:  # noqa: ANN401  a model output
        """Return every state, for as many pictures as are given."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        self.asked = True
        layers = self.config.num_hidden_layers + 1
        tokens = (self.config.image_size // self.config.patch_size) ** 2 + 1
        random = torch.Generator().manual_seed(0)
        states = [torch.randn(len(pixel_values), tokens, 2, generator=random) for _ in range(layers)]
        if self.changed is not None:
            back, part = self.changed
            rows = slice(0, 1) if part == "class" else slice(1, None)
            states[-back][:, rows] += 1
        return BaseModelOutputWithPooling(
            last_hidden_state=states[-1],
            pooler_output=states[-1][:, 0],
            hidden_states=tuple(states),
        )


def _copy(module: nn.Module, parts: Mapping[str, nn.Module]) -> Any:  # noqa: ANN401  an object of the same class
    """Copy a module with other parts in the place of its own; the rest is shared."""
    twin = object.__new__(type(module))
    vars(twin).update(vars(module) | {"_modules": vars(module)["_modules"] | parts})
    return twin


def _measured(encode: Callable[..., Any], stand_in: _StandIn) -> set[tuple[int, str]]:
    """Change one state of the stand-in after the other; nothing when the function never asks it."""
    before, found = _heard(encode, stand_in), set()
    if not stand_in.asked:
        return set()
    for back in range(1, stand_in.config.num_hidden_layers + 2):
        for part in ("class", "patches"):
            stand_in.changed = (back, part)
            if not torch.equal(_heard(encode, stand_in), before):
                found.add((back, part))
    stand_in.changed = None
    return found


def _heard(encode: Callable[..., Any], stand_in: _StandIn) -> Tensor:
    try:
        encode(**_arguments(encode, stand_in.config))
    except _HeardError as heard:
        return heard.given
    return torch.empty(0)


def _arguments(encode: Callable[..., Any], config: Any) -> dict[str, Any]:  # noqa: ANN401  a vision configuration
    """Return a picture or a film of two frames, in the form that a function takes."""
    names, side = inspect.signature(encode).parameters, config.image_size
    picture = torch.zeros(config.num_channels, side, side)
    if "pixel_values_videos" in names:
        return {"pixel_values_videos": picture.expand(1, 2, -1, -1, -1)}
    if "image_sizes" in names and names["image_sizes"].default is inspect.Parameter.empty:  # it cuts pictures up
        return {"pixel_values": picture.expand(1, _TILES, -1, -1, -1), "image_sizes": torch.tensor([[side, side]])}
    return {"pixel_values": picture[None]}
