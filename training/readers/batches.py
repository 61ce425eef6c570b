"""Batches of pairs, drawn from (seed, step) alone, and how their texts and pictures become a tower's inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from safeencoders.errors import BadInputError
from safeencoders.training.objectives.terms import Role
from safeencoders.training.readers.pairs import IMAGES, ROLES, Pairs, picture

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import CLIPTokenizer
    from transformers.image_processing_utils import BaseImageProcessor


class PairsReader:
    """Batches of pairs; the same step always gives the same batch.

    An epoch is a permutation of the rows, and a batch may run on into the next one, so that no row is left out.

    Attributes:
        roles: the roles of every batch.
    """

    def __init__(
        self,
        pairs: Pairs,
        encode: Callable[[list[str]], Tensor],
        pixels: Callable[[list[Path]], Tensor],
        batch: int,
        seed: int,
    ) -> None:
        if not 1 <= batch <= len(pairs):
            raise BadInputError(
                f"expected a batch of 1 to {len(pairs)} rows, as many as {pairs.source} has for training, got {batch}; "
                "change --batch or give more rows."
            )
        self.roles: frozenset[Role] = frozenset(ROLES[column] for column in pairs.columns)
        self._pairs, self._encode, self._pixels = pairs, encode, pixels
        self._batch, self._seed = batch, seed
        # A batch that runs over an epoch's end needs two permutations.
        self._order = lru_cache(maxsize=2)(self._permutation)

    def batch(self, step: int, part: tuple[int, int] = (0, 1)) -> dict[Role, Tensor]:
        """Return the inputs of every role for this process's rows of the step; only these are read.

        Args:
            step: 0-based.
            part: which process this is, and how many there are.

        Returns:
            Texts as int64 (n, context), pictures as float32 (n, 3, height, width), n = batch / processes.

        Raises:
            BadInputError: the batch cannot be divided by the processes, or a picture cannot be decoded.
        """
        rank, processes = part
        if self._batch % processes:
            raise BadInputError(
                f"expected a batch that is a multiple of the {processes} processes, got {self._batch}; change --batch."
            )
        size = self._batch // processes
        start = step * self._batch + rank * size
        rows = [int(self._order(at // len(self._pairs))[at % len(self._pairs)]) for at in range(start, start + size)]
        inputs: dict[Role, Tensor] = {}
        for column in self._pairs.columns:
            found = self._pairs.entries(column, rows)
            inputs[ROLES[column]] = (
                self._pixels([Path(path) for path in found]) if column in IMAGES else self._encode(found)
            )
        return inputs

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng((self._seed, epoch)).permutation(len(self._pairs))


def encode_texts(tokenizer: CLIPTokenizer, texts: list[str], context: int) -> Tensor:
    """Return token ids, int64 (len(texts), context); longer texts are cut before the end token."""
    rows = tokenizer(texts, padding="max_length", truncation=True, max_length=context).input_ids
    return torch.tensor(rows, dtype=torch.int64)


def count_tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> list[int]:
    """Return the tokens of each text, start and end included, nothing cut."""
    return [len(row) for row in tokenizer(texts, verbose=False).input_ids]


def load_pixels(processor: BaseImageProcessor, paths: Sequence[Path]) -> Tensor:
    """Return the pictures as the processor prepares them, float32 (len(paths), 3, height, width).

    Raises:
        BadInputError: a picture cannot be decoded.
    """
    pixels: Tensor = processor(images=[picture(path) for path in paths], return_tensors="pt")["pixel_values"]
    return pixels.float()
