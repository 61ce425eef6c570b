"""The canaries' captions, and the states that a text tower gives to captions: what ``canary`` compares.

States are those of every token but the first, which is the same for all captions, up to the end token and one behind
it; of several layers they stand side by side. They are float32 and on the CPU, whatever the tower is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from safeencoders.errors import BadInputError
from safeencoders.files import read_json

_ROWS = 64


@dataclass(frozen=True)
class Canaries:
    """The shipped captions: pairs of an unsafe one and its safe twin, frames for tokens, phrases that fill them."""

    categories: tuple[str, ...]
    phrase_categories: tuple[str, ...]
    unsafe: tuple[str, ...]
    safe: tuple[str, ...]
    frames: tuple[str, ...]
    unsafe_phrases: tuple[str, ...]
    harmless_phrases: tuple[str, ...]

    def rows(self) -> dict[str, Tensor]:
        """Return which pairs are of each category, as masks (pairs,)."""
        return _masks(self.categories)

    def phrase_rows(self) -> dict[str, Tensor]:
        """Return which unsafe phrases are of each category, as masks (phrases,)."""
        return _masks(self.phrase_categories)


def _masks(names: Sequence[str]) -> dict[str, Tensor]:
    return {name: torch.tensor([other == name for other in names]) for name in dict.fromkeys(names)}


@cache
def canaries() -> Canaries:
    """Return the shipped captions."""
    found = read_json(Path(__file__).with_name("canaries.json"))
    categories, unsafe, safe = (tuple(row[key] for row in found["pairs"]) for key in ("category", "unsafe", "safe"))
    return Canaries(
        categories,
        tuple(name for name, phrases in found["unsafe"].items() for _ in phrases),
        unsafe,
        safe,
        tuple(found["frames"]),
        tuple(phrase for phrases in found["unsafe"].values() for phrase in phrases),
        tuple(found["harmless"]),
    )


def places_of(reads: Sequence[str]) -> tuple[int, ...]:
    """Return the places in ``hidden_states`` of what the host reads; -1 stands for ``last_hidden_state``."""
    numbers = {"last": -1, "pooled": -1, "projected": -1, "unknown": -1, "penultimate": -2}
    found = (numbers[name] if name in numbers else int(name.removeprefix("hidden[").rstrip("]")) for name in reads)
    return tuple(dict.fromkeys(found)) or (-1,)


def _end(tokenizer: Any) -> int:  # noqa: ANN401
    if getattr(tokenizer, "eos_token_id", None) is None:
        raise BadInputError("expected a CLIP tokenizer with an end token, got one without; set its eos_token")
    return int(tokenizer.eos_token_id)


def _padded(rows: Sequence[Sequence[int]], length: int, tokenizer: Any) -> Tensor:  # noqa: ANN401
    pad = _end(tokenizer) if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
    return torch.tensor([[*row, *[pad] * (length - len(row))] for row in rows], dtype=torch.int64)


def encode(tokenizer: Any, texts: Sequence[str]) -> Tensor:  # noqa: ANN401
    """Return int64 ids (n, tokens): padded as the host pads, but only one behind the longest caption's end."""
    rows = tokenizer(list(texts)).input_ids
    return _padded(rows, max(map(len, rows)) + 1, tokenizer)


def _reach(ids: Tensor, tokenizer: Any) -> Tensor:  # noqa: ANN401
    """Return where each caption's end token stands, (n,)."""
    return (ids == _end(tokenizer)).int().argmax(1)


def states_of(tower: nn.Module, ids: Tensor, tokenizer: Any, layers: tuple[int, ...]) -> Tensor:  # noqa: ANN401
    """Return states (n, tokens - 1, layers x width), zero from two behind the end on; float32 on the CPU."""
    if getattr(tower, "main_input_name", "input_ids") != "input_ids" or not callable(tower):
        raise BadInputError(f"expected a CLIP text tower, for canaries are captions; got {type(tower).__name__}")
    context = getattr(getattr(tower, "config", None), "max_position_embeddings", 0)
    if context and ids.shape[1] > context:
        raise BadInputError(f"expected a tower with room for {ids.shape[1]} tokens, got {context}; canaries are longer")
    # The tower is causal: what stands behind a caption changes nothing. An exported one takes the host's length only.
    whole = _padded(ids.tolist(), ids.shape[1] if context else int(tokenizer.model_max_length), tokenizer)
    parts = [_call(tower, part, layers)[:, 1 : ids.shape[1]] for part in torch.split(whole, _ROWS)]
    keep = torch.arange(1, ids.shape[1]) <= _reach(ids, tokenizer)[:, None] + 1
    return torch.cat(parts) * keep[..., None]


def _call(tower: nn.Module, ids: Tensor, layers: tuple[int, ...]) -> Tensor:
    """Call the tower as a host does, in eval mode without gradients; return the layers side by side, float32, CPU."""
    held = next((value.device for value in (*tower.parameters(), *tower.buffers())), torch.device("cpu"))
    device = torch.device("cpu") if held.type == "meta" else held  # offloaded: its hooks move the inputs
    more = {"output_hidden_states": True} if layers != (-1,) else {}
    with _evaluating(tower), torch.no_grad():
        output = tower(input_ids=ids.to(device), **more)
    picked = [output.last_hidden_state if layer == -1 else output.hidden_states[layer] for layer in layers]
    return torch.cat([states.float().cpu() for states in picked], dim=-1)


@contextmanager
def _evaluating(tower: nn.Module) -> Iterator[None]:
    """Switch every module to eval mode, one by one: exported towers have no ``eval()``; and back, each as it was."""
    training = [module for module in tower.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def mean_state(states: Tensor, ids: Tensor, tokenizer: Any, starts: Tensor | None = None) -> Tensor:  # noqa: ANN401
    """Return the mean state from a start (None: the first token) to the end token, (n, width)."""
    places = torch.arange(1, ids.shape[1])
    inside = places <= _reach(ids, tokenizer)[:, None]
    if starts is not None:
        inside &= places >= starts[:, None]
    return (states * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)
