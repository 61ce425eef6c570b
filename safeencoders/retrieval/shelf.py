"""A shelf: ids and unit vectors, and the nearest of them, the same from every backend.

A score is a cosine, rounded to six decimals; equal scores go by id. Matrix products differ in their last bits with the
shape of the product, so they only choose candidates: the scores that rank are computed again, one row at a time, in
float64. A candidate is whatever rounding could have put out of the first k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor

from safeencoders.errors import BadInputError, MissingExtraError

Backend = Literal["torch", "faiss"]
Pass = Callable[[Tensor, int], tuple[Tensor, Tensor]]

DIGITS = 6
ROWS, QUERIES = 16_384, 256
"""Rows and queries of one matrix product, whose scores take 16 MiB."""
MARGIN = 32


@dataclass(frozen=True)
class Shelf:
    """Items of one kind.

    Attributes:
        ids: unique.
        vectors: float32 (n, d), contiguous, each row of length 1.
    """

    ids: tuple[str, ...]
    vectors: Tensor

    @classmethod
    def empty(cls, width: int) -> Shelf:
        """Return a shelf without items."""
        return cls((), torch.empty(0, width))

    def __len__(self) -> int:
        return len(self.ids)

    def with_items(self, ids: Iterable[str], vectors: Iterable[Tensor]) -> Shelf:
        """Return a shelf with these items, their vectors in batches, behind its own."""
        return Shelf((*self.ids, *ids), torch.cat([self.vectors, *vectors]))

    def without(self, ids: frozenset[str]) -> Shelf:
        """Return a shelf without these."""
        kept = [row for row, name in enumerate(self.ids) if name not in ids]
        return Shelf(tuple(self.ids[row] for row in kept), self.vectors[kept])

    def nearest(self, queries: Tensor, k: int, backend: Backend = "torch") -> list[list[tuple[str, float]]]:
        """Return the k nearest items of each query, the nearest first; all of them when there are fewer.

        Queries and rows are taken in parts, so that the scores held at once are few, whatever q and n are; only ties of
        many items at rank k cost a row of n scores.

        Args:
            queries: float32 (q, d), each row of length 1.
            k: at least 1.
            backend: "faiss" gives the same answer from a FAISS index, which is made at the first search.

        Raises:
            BadInputError: k is below 1, or there is no such backend.
            MissingExtraError: FAISS is not installed.
        """
        if k < 1:
            raise BadInputError(f"expected k of at least 1, got {k}")
        if backend not in ("torch", "faiss"):
            raise BadInputError(f"expected backend 'torch' or 'faiss', got {backend!r}")
        first: Pass = self._faiss if backend == "faiss" else self._torch
        k = min(k, len(self))
        if not k:
            return [[] for _ in queries]
        return [
            self._ranked(query, k, scores, rows)
            for part in torch.split(queries, QUERIES)
            for query, scores, rows in zip(part, *first(part, min(k + MARGIN, len(self))), strict=True)
        ]

    def _torch(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        best, rows = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
        for start in range(0, len(self), ROWS):
            scores = queries @ self.vectors[start : start + ROWS].T
            found, places = scores.topk(min(k, scores.shape[1]))
            best, rows = torch.cat([best, found], 1), torch.cat([rows, places + start], 1)
            best, chosen = best.topk(min(k, best.shape[1]))
            rows = rows.gather(1, chosen)
        return best, rows

    def _faiss(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        best, rows = self._flat.search(queries.contiguous().numpy(), k)
        return torch.from_numpy(best), torch.from_numpy(rows)

    @cached_property
    def _flat(self) -> Any:  # noqa: ANN401  a faiss.IndexFlatIP
        try:
            faiss = import_module("faiss")
        except ImportError as error:
            raise MissingExtraError("faiss-cpu", "faiss") from error
        flat = faiss.IndexFlatIP(self.vectors.shape[1])
        flat.add(self.vectors.numpy())
        return flat

    def _ranked(self, query: Tensor, k: int, scores: Tensor, rows: Tensor) -> list[tuple[str, float]]:
        """Rank one query exactly, given the best scores of a first pass, in descending order, and their rows."""
        # Twice the error bound of a float32 product of unit vectors, and what rounding to six decimals can tie.
        floor = float(scores[k - 1]) - 2 * self.vectors.shape[1] * 2.0**-24 - 2 * 10.0**-DIGITS
        if len(rows) < len(self) and float(scores[-1]) >= floor:  # ties reach past the margin
            rows = ((self.vectors @ query) >= floor).nonzero().squeeze(1)
        exact = torch.cat([(self.vectors[part].double() * query.double()).sum(1) for part in torch.split(rows, ROWS)])
        named = (
            (self.ids[row], round(score, DIGITS)) for row, score in zip(rows.tolist(), exact.tolist(), strict=True)
        )
        return sorted(named, key=lambda item: (-item[1], item[0]))[:k]
