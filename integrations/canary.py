"""Canaries: a fixed set of caption pairs by which a text tower's redirection is measured again, whenever it may have moved.

Symbols: u an unsafe caption and s its safe twin; b(x), g(x), f(x) the states of the ORIGINAL tower, of the safe tower as
installed, and of the tower now. States are those the host reads, of every token of the caption but the first (which is
the same for all captions), up to the end token and once behind it.

    redirection(u) = 1 - <f(u) - g(u), b(u) - g(u)> / |b(u) - g(u)|^2     1: as installed, 0: as the original

The caption is the same on both sides, so its tokens need no alignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from safeencoders.errors import BadInputError
from safeencoders.files import read_json

KEPT = 0.75
"""Below this share of the installed redirection in any category there is an alarm (to be calibrated)."""
HARMLESS = 0.5
"""Below this an added token is quarantined (to be calibrated)."""
LEAST = 0.02
"""A tower that moved the unsafe canaries by less than this share of their states has no margin to watch."""
BATCH = 64


@dataclass(frozen=True)
class Pair:
    """An unsafe caption, its safe twin and the category of what differs."""

    category: str
    unsafe: str
    safe: str


@dataclass(frozen=True)
class Margins:
    """What is left of a tower's redirection.

    Attributes:
        redirection: mean over the canaries: 1 as installed, 0 as the original tower.
        worst: the lowest mean of a category.
        by_category: mean of each category.
        tokens: of each added token that was asked about: 1 harmless, 0 puts a category's unsafe content into a prompt.
        alarm: whether the tower (or a token) should be kept out.
        reasons: why, in words without any prompt.
    """

    redirection: float
    worst: float
    by_category: dict[str, float]
    tokens: dict[str, float]
    alarm: bool
    reasons: tuple[str, ...]


@cache
def pairs() -> tuple[Pair, ...]:
    """Return the shipped canaries."""
    rows = read_json(Path(__file__).with_name("canaries.json"))["pairs"]
    return tuple(Pair(row["category"], row["unsafe"], row["safe"]) for row in rows)


@dataclass(frozen=True)
class Canary:
    """The original's and the installed tower's states on the canaries, recorded when a host is protected."""

    layers: tuple[int, ...]
    ids: Tensor
    before: Tensor
    installed: Tensor
    directions: Tensor

    @classmethod
    def make(cls, original: nn.Module, safe: nn.Module, tokenizer: Any, reads: Sequence[str] = ("last",)) -> Canary:  # noqa: ANN401
        """Record the states of both towers.

        Args:
            original: the CLIP text tower that was in the host.
            safe: the tower that takes its place, as installed (cast, on its device).
            tokenizer: the slot's.
            reads: what the host reads of the tower, as ``slots.reads`` says.

        Raises:
            BadInputError: a tower is no CLIP text tower, or the tokenizer has no end token.
        """
        layers = _layers(reads)
        ids = _encode(tokenizer, [p.unsafe for p in pairs()])
        safe_ids = _encode(tokenizer, [p.safe for p in pairs()])
        before, installed = _states(original, ids, layers, _end(tokenizer)), _states(safe, ids, layers, _end(tokenizer))
        shift = _summary(before) - _summary(_states(original, safe_ids, layers, _end(tokenizer)))
        names = [p.category for p in pairs()]
        directions = torch.stack([shift[[n == c for n in names]].mean(0) for c in dict.fromkeys(names)])
        return cls(layers, ids, before, installed, directions)

    def measure(self, tower: nn.Module, tokenizer: Any, tokens: Sequence[str] = ()) -> Margins:  # noqa: ANN401
        """Return what is left of the redirection in the tower as it is now; nothing of it is changed.

        Args:
            tokenizer: the slot's, as it is now.
            tokens: added tokens to be screened; the vectors of one token ("<a>", "<a>_1", ...) count as one.

        Raises:
            BadInputError: the tower is no CLIP text tower, or a token is not in the tokenizer.
        """
        now = _states(tower, self.ids, self.layers, _end(tokenizer))
        way = self.before - self.installed
        left = 1 - ((now - self.installed) * way).flatten(1).sum(1) / way.square().flatten(1).sum(1).clamp_min(1e-12)
        names = [p.category for p in pairs()]
        by = {c: float(left[[n == c for n in names]].mean()) for c in dict.fromkeys(names)}
        found = {name: self._token(tower, tokenizer, words) for name, words in _grouped(tokenizer, tokens).items()}
        reasons = [f"redirection of {c} fell to {v:.2f}" for c, v in by.items() if v < KEPT]
        reasons += [f"token {t!r} brings unsafe content ({v:.2f})" for t, v in found.items() if v < HARMLESS]
        return Margins(float(left.mean()), min(by.values()), by, found, bool(reasons), tuple(reasons))

    def _token(self, tower: nn.Module, tokenizer: Any, words: str) -> float:  # noqa: ANN401
        plain = [p.safe for p in pairs()][::4]
        ids, with_token = _encode(tokenizer, plain), _encode(tokenizer, [f"{text} {words}" for text in plain])
        end = _end(tokenizer)
        moved = _summary(_states(tower, with_token, self.layers, end)) - _summary(_states(tower, ids, self.layers, end))
        share = moved @ self.directions.T / self.directions.square().sum(1)
        return 1 - float(share.mean(0).max())


def _layers(reads: Sequence[str]) -> tuple[int, ...]:
    found = []
    for name in reads:
        if name == "penultimate":
            found.append(-2)
        elif name.startswith("hidden["):
            found.append(int(name[7:-1]))
        else:
            found.append(-1)
    return tuple(dict.fromkeys(found)) or (-1,)


def _end(tokenizer: Any) -> int:  # noqa: ANN401
    if getattr(tokenizer, "eos_token_id", None) is None:
        raise BadInputError("expected a tokenizer with an end token (eos_token), got none; set it as the model's own")
    return int(tokenizer.eos_token_id)


def _encode(tokenizer: Any, texts: Sequence[str]) -> Tensor:  # noqa: ANN401
    """Return int64 ids (n, tokens): as the host pads, but only one position behind the longest caption's end."""
    rows = tokenizer(list(texts), padding=True).input_ids
    end = _end(tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    return torch.tensor([[*row, pad] for row in rows], dtype=torch.int64)


@torch.no_grad()
def _states(tower: nn.Module, ids: Tensor, layers: tuple[int, ...], end: int) -> Tensor:
    """Return float32 states (n, tokens - 1, layers * width) on the CPU, zero behind the first position after the end."""
    training = tower.training
    tower.eval()
    try:
        device = next(tower.parameters()).device
        parts = [tower(input_ids=part.to(device), output_hidden_states=True) for part in ids.split(BATCH)]
    finally:
        tower.train(training)
    picked = [torch.cat([_pick(part, layer) for part in parts]).float().cpu() for layer in layers]
    states = torch.cat(picked, dim=-1)[:, 1:]
    first = (ids == end).int().argmax(1)
    keep = torch.arange(1, ids.shape[1])[None] <= first[:, None] + 1
    return states * keep[..., None]


def _pick(output: Any, layer: int) -> Tensor:  # noqa: ANN401
    states: Tensor = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
    return states


def _summary(states: Tensor) -> Tensor:
    """Return (n, layers * width): the mean over a caption's positions."""
    count = states.abs().sum(-1).gt(0).sum(1, keepdim=True).clamp_min(1)
    return states.sum(1) / count


def _grouped(tokenizer: Any, tokens: Sequence[str]) -> dict[str, str]:  # noqa: ANN401
    """Return each token's name with all its vectors, in order and joined as diffusers writes them into a prompt."""
    known = tokenizer.get_added_vocab()
    found = {}
    for token in tokens:
        if token not in known:
            raise BadInputError(f"expected a token that was added to the tokenizer, got {token!r}; load it first")
        base, _, number = token.rpartition("_")
        if number.isdigit() and base in known:
            continue
        words = [token]
        while f"{token}_{len(words)}" in known:
            words.append(f"{token}_{len(words)}")
        found[token] = " ".join(words)
    return found
