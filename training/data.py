"""Readers: whatever the pairs come from, a step's batch is a mapping from role to model inputs.

Texts are token ids, int64 (n, context); images are pixel values, float32 (n, 3, height, width).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from safeencoders.pictoworld import tokenizer as world_tokenizer
from safeencoders.pictoworld.pixels import pixel_values
from safeencoders.pictoworld.renderer import render_batch
from safeencoders.pictoworld.scenes import stream
from safeencoders.training.objectives.terms import Role

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


class Reader(Protocol):
    """A source of batches; the same step always gives the same batch."""

    def batch(self, step: int) -> dict[Role, Tensor]:
        """Return the inputs of every role the data has."""
        ...


class PictoworldReader:
    """Quadruplets of the world's train split, as far as redirection may see it, and its seen look-alikes."""

    def __init__(self, tokenizer: CLIPTokenizer, batch: int, seed: int) -> None:
        self._tokenizer, self._batch, self._seed = tokenizer, batch, seed

    def batch(self, step: int) -> dict[Role, Tensor]:
        """Return roles t, t*, c, v, v* of n quadruplets and role b of n // 4 look-alikes."""
        quads, benigns = stream("redirect", self._seed, step, self._batch, everything=False)
        return {
            "t": world_tokenizer.encode(self._tokenizer, [q.safe_text for q in quads]),
            "t*": world_tokenizer.encode(self._tokenizer, [q.unsafe_text for q in quads]),
            "c": world_tokenizer.encode(self._tokenizer, [q.counterpart_text for q in quads]),
            "b": world_tokenizer.encode(self._tokenizer, [b.text for b in benigns]),
            "v": pixel_values(render_batch(q.safe for q in quads)),
            "v*": pixel_values(render_batch(q.unsafe for q in quads)),
        }
