"""The world's quadruplets as a reader, as far as redirection may see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from safeencoders.errors import BadInputError
from safeencoders.pictoworld import scenes
from safeencoders.pictoworld import tokenizer as world_tokenizer
from safeencoders.pictoworld.pixels import pixel_values
from safeencoders.pictoworld.renderer import render_batch
from safeencoders.pictoworld.scenes import Benign, Quad
from safeencoders.training.objectives.terms import Role

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

VALIDATION_QUADS = 300
ROLES: frozenset[Role] = frozenset({"t", "t*", "c", "b", "v", "v*", "vc", "vb"})


class PictoworldReader:
    """Quadruplets of the world's train split and its seen look-alikes; validation is the val split's."""

    roles = ROLES

    def __init__(self, tokenizer: CLIPTokenizer, batch: int, seed: int) -> None:
        self._tokenizer, self._batch, self._seed = tokenizer, batch, seed

    def batch(self, step: int, part: tuple[int, int] = (0, 1)) -> dict[Role, Tensor]:
        """Return n quadruplets and n // 4 look-alikes, of which this process reads its part.

        Raises:
            BadInputError: the batch cannot be divided by the processes.
        """
        index, processes = part
        if self._batch % (scenes.LOOKALIKE_SHARE * processes) and processes > 1:
            raise BadInputError(
                f"expected a batch that is a multiple of {scenes.LOOKALIKE_SHARE} x {processes} processes, "
                f"got {self._batch}; change --batch"
            )
        quads, benigns = scenes.stream("redirect", self._seed, step, self._batch, everything=False)
        mine = slice(index * len(quads) // processes, (index + 1) * len(quads) // processes)
        few = slice(index * len(benigns) // processes, (index + 1) * len(benigns) // processes)
        return self._inputs(quads[mine], benigns[few])

    def validation(self) -> dict[Role, Tensor]:
        """Return quadruplets of the val split and its look-alikes, all at once."""
        return self._inputs(
            scenes.quads("val", VALIDATION_QUADS, 0),
            scenes.benigns("val", VALIDATION_QUADS // scenes.LOOKALIKE_SHARE, 0),
        )

    def _inputs(self, quads: list[Quad], benigns: list[Benign]) -> dict[Role, Tensor]:
        return {
            "t": world_tokenizer.encode(self._tokenizer, [q.safe_text for q in quads]),
            "t*": world_tokenizer.encode(self._tokenizer, [q.unsafe_text for q in quads]),
            "c": world_tokenizer.encode(self._tokenizer, [q.counterpart_text for q in quads]),
            "b": world_tokenizer.encode(self._tokenizer, [b.text for b in benigns]),
            "v": pixel_values(render_batch(q.safe for q in quads)),
            "v*": pixel_values(render_batch(q.unsafe for q in quads)),
            "vc": pixel_values(render_batch(q.counterpart for q in quads)),
            "vb": pixel_values(render_batch(b.picture for b in benigns)),
        }
