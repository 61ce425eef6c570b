"""Attacks while training: captions with free vectors that bring a tuned text tower back to what the original says.

As AdvUnlearn (Zhang et al., 2024, arXiv 2405.15234), an inner loop attacks the tower as it is now and the objective
undoes what was found. Theirs writes a prefix by projected gradient steps against the denoiser. Ours needs neither
denoiser nor picture: it moves free vectors, before the words that name the concept or in their place, by Adam until the
tuned tower's states are near the original's. Look-alikes are attacked alike, and the objective keeps what comes out:
a vector that brings a benign thing back is no attack.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from safeencoders.errors import BadInputError
from safeencoders.training.distributed import processes
from safeencoders.training.objectives.terms import Role, Source

if TYPE_CHECKING:
    from safeencoders.training.redirect import Encoders


@dataclass(frozen=True)
class Attack:
    """What the inner loop may do in a step.

    Attributes:
        every: one caption in so many is attacked, of the unsafe ones and of the look-alikes.
        vectors: most free vectors in a caption; steps take 1, 2, ... of them in turn.
        steps: of Adam.
        rate: Adam's.
    """

    every: int = 2
    vectors: int = 2
    steps: int = 8
    rate: float = 0.05

    def __post_init__(self) -> None:
        if min(self.every, self.vectors, self.steps) < 1 or not 0 < self.rate < float("inf"):
            raise BadInputError(
                "expected every, vectors and steps >= 1 and a finite rate > 0 in [attack], "
                f"got {self.every}, {self.vectors}, {self.steps} and {self.rate}"
            )


@dataclass(frozen=True)
class Opened:
    """Captions with free positions.

    Attributes:
        ids: int64 (n, L); a free position holds a word of the caption to begin with.
        free: bool (n, L).
        source: int64 (n, L), the position of the caption that each position stands for.
    """

    ids: Tensor
    free: Tensor
    source: Tensor


class Adversary:
    """Makes the attacked captions of a step; the same step and rows give the same.

    Args:
        attack: what it may do.
        encoders: the tower it attacks and the original.
        end: id of the end token.
        micro_batch: captions attacked at a time, 0 for all.
    """

    def __init__(self, attack: Attack, encoders: Encoders, end: int, micro_batch: int = 0) -> None:
        self._attack, self._encoders, self._end, self._micro = attack, encoders, end, micro_batch

    def rows(self, batch: Mapping[Role, Tensor], step: int) -> dict[Role, Tensor]:
        """Return the attacked captions "a", their vectors "a^", and "a0", the captions they are to mean.

        Args:
            batch: with t* and t; c stands in t's place where there is one, and b is attacked where there is one.
            step: chooses how many vectors there are and whether they stand before the words or in their place.

        Raises:
            BadInputError: the processes' parts cannot be divided by ``every``.
        """
        every = self._attack.every
        if processes() > 1 and any(len(batch[role]) % every for role in ("t*", "b") if role in batch):
            raise BadInputError(
                f"expected parts of the batch that can be divided by every = {every} of [attack], got "
                f"{len(batch['t*'])} rows in each of {processes()} processes; change --batch"
            )
        unsafe, meant = batch["t*"][::every], batch.get("c", batch["t"])[::every]
        count, before = 1 + step // 2 % self._attack.vectors, step % 2 == 0
        spans = [changed(*pair, self._end) for pair in zip(unsafe.tolist(), meant.tolist(), strict=True)]
        parts = [open_captions(unsafe, spans, count, self._end, keep=before)]
        captions = [unsafe]
        if "b" in batch:
            benign = batch["b"][::every]
            at = [1 + (sum(row) + step) % (row.index(self._end) - 1) for row in benign.tolist()]
            parts.append(open_captions(benign, [(i, i + 1) for i in at], count, self._end, keep=True))
            captions.append(benign)
        ids, free, source = (torch.cat([getattr(part, name) for part in parts]) for name in ("ids", "free", "source"))
        opened = Opened(*(part.to(unsafe.device) for part in (ids, free, source)))
        return {
            "a": opened.ids,
            "a^": self._found(opened, torch.cat(captions)),
            "a0": torch.cat([meant, *captions[1:]]),
        }

    def _found(self, opened: Opened, captions: Tensor) -> Tensor:
        size = self._micro or len(captions)
        parts = zip(
            *(torch.split(part, size) for part in (opened.ids, opened.free, opened.source, captions)), strict=True
        )
        return torch.cat([self._search(Opened(*part), whole) for *part, whole in parts])

    def _search(self, opened: Opened, captions: Tensor) -> Tensor:
        """Return input vectors, (n, L, width): the words' own, and what was found at the free positions."""
        original = self._encoders.encode(Source("t*"), {"last_hidden"}, {"t*": captions})["last_hidden"]
        wanted = original.gather(1, opened.source[..., None].expand_as(original))
        plain, free = self._encoders.words(opened.ids), opened.free[..., None]
        vectors = plain.clone().requires_grad_()
        optimizer = torch.optim.Adam([vectors], lr=self._attack.rate)
        for _ in range(self._attack.steps):
            with torch.enable_grad():
                rows: dict[Role, Tensor] = {"a": opened.ids, "a^": torch.where(free, vectors, plain)}
                states = self._encoders.encode(Source("a", tuned=True), {"last_hidden"}, rows)["last_hidden"]
                loss = (states - wanted).square().mean((1, 2)).sum()
            (vectors.grad,) = torch.autograd.grad(loss, vectors)
            optimizer.step()
        return torch.where(free, vectors, plain).detach()


def changed(caption: list[int], meant: list[int], end: int) -> tuple[int, int]:
    """Return where the first words begin and end that the caption has and its safe meaning has not."""
    first, second = caption[: caption.index(end)], meant[: meant.index(end)]
    for tag, a, b, *_ in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        if tag in {"replace", "delete"}:
            return a, b
    return len(first) - 1, len(first)


def open_captions(captions: Tensor, spans: list[tuple[int, int]], count: int, end: int, *, keep: bool) -> Opened:
    """Open ``count`` positions, or as many as there is room for, in each caption.

    Args:
        captions: int64 (n, L), padded with the end token.
        spans: for each, the words before which (keep) or in whose place (not keep) the positions are.
    """
    width = captions.shape[1]
    rows = []
    for caption, (begin, stop) in zip(captions.tolist(), spans, strict=True):
        behind = begin if keep else stop
        many = min(count, width - 1 - caption.index(end) + behind - begin)
        places = [min(begin + i, stop - 1) for i in range(many)]
        source = [*range(begin), *places, *range(behind, width), *[width - 1] * width][:width]
        free = [begin <= i < begin + many for i in range(width)]
        rows.append(([caption[i] for i in source], free, source))
    ids, free_at, sources = (torch.tensor(part) for part in zip(*rows, strict=True))
    return Opened(ids, free_at, sources)
