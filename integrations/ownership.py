"""Ownership: is an embedding that somebody hands to a pipeline one that its own safe towers made?

A ledger keeps a sketch of what the towers, and the pipeline's own encode functions, lately put out: each row x of width
d as x P, where P (d, 32) is a random matrix that never leaves the process. A sketch is linear, so what is done to
embeddings on their way is done to their sketches. Definition: a tensor (n, k L, d) is the towers' own when each of its
n k chunks (L, d) is a combination of at most ``ATOMS`` recorded chunks of the same L and d, with coefficients free for
every row, up to ``TOLERANCE`` of the row's length. So these stay own: a cast to half precision, repetition,
concatenation of items or of chunks, a token's weight, interpolation towards the empty prompt or another prompt, a
common factor. A row whose coefficients add up, in absolute value, to more than ``AMPLIFIED`` is own but amplified.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    Shape = tuple[int, int]

SKETCH = 32  # far above ATOMS: a foreign row keeps sqrt((32 - 4) / 32) of its length outside of any four atoms
ATOMS = 4  # a prompt, the empty prompt, and the prompt with and without a word: what weighting tools combine
STARTS = 8  # captions tried as the first of a combination
TOLERANCE = 0.01  # bfloat16 alone moves a row by 0.002 of its length
AMPLIFIED = 4.0  # weight 2 written as empty + 2 (row - empty) has 3
KEPT = 512  # chunks of each shape; 77 rows of 32 numbers are 10 kB

Verdict = Literal["own", "amplified", "foreign"]


@dataclass(frozen=True)
class Finding:
    """What a ledger says of a tensor: its verdict and the share of the worst row's length left unexplained, 0..1."""

    verdict: Verdict
    residual: float


class Ledger:
    """What safe towers lately put out; safe to use from many threads."""

    def __init__(self) -> None:
        """Start empty, with a sketch nobody can foresee."""
        self._seed = secrets.randbits(63)
        self._projections: dict[int, Tensor] = {}
        self._chunks: dict[Shape, deque[Tensor]] = {}
        self._lock = threading.Lock()

    def record(self, rows: Tensor) -> None:
        """Remember rows (n, L, d) or (n, d) of any floating dtype on any device."""
        if rows.ndim == 2:
            rows = rows.unsqueeze(1)
        if rows.ndim != 3:
            return
        sketches = self._sketch(rows)
        with self._lock:
            kept = self._chunks.setdefault((rows.shape[1], rows.shape[2]), deque(maxlen=KEPT))
            kept.extend(sketches.unbind(0))

    def find(self, rows: Tensor) -> Finding:
        """Say whether rows (n, k L, d) or (n, d) are own; the worst chunk decides."""
        if rows.ndim == 2:
            rows = rows.unsqueeze(1)
        known = self._lengths(rows) if rows.ndim == 3 else []
        if not known:
            return Finding("foreign", 1.0)
        return min((self._compare(rows, length) for length in known), key=lambda found: found.residual)

    def _lengths(self, rows: Tensor) -> list[int]:
        with self._lock:
            return [length for length, width in self._chunks
                    if width == rows.shape[2] and rows.shape[1] % length == 0]  # fmt: skip

    def _compare(self, rows: Tensor, length: int) -> Finding:
        import torch

        with self._lock:
            atoms = torch.stack(list(self._chunks[length, rows.shape[2]]))
        chunks = self._sketch(rows).reshape(-1, length, SKETCH)
        worst, size = 0.0, 0.0
        for chunk in torch.unique(chunks, dim=0):
            residual, amplitude = _explain(chunk, atoms)
            if not residual <= TOLERANCE:  # NaN is foreign too
                return Finding("foreign", residual if residual <= 1 else 1.0)
            worst, size = max(worst, residual), max(size, amplitude)
        return Finding("amplified" if size > AMPLIFIED else "own", worst)

    def _sketch(self, rows: Tensor) -> Tensor:
        import torch

        width = rows.shape[-1]
        if width not in self._projections:
            source = torch.Generator().manual_seed(self._seed ^ width)
            self._projections[width] = torch.randn(width, SKETCH, generator=source) / SKETCH**0.5
        return rows.detach().to("cpu", torch.float32) @ self._projections[width]


def _explain(chunk: Tensor, atoms: Tensor) -> tuple[float, float]:
    """Fit a chunk (L, s) by few of the atoms (m, L, s), row by row.

    The atoms are chosen one after the other by orthogonal least squares (Chen et al., 1989), which finds the last one
    of an exact combination for certain; so several first ones are tried, for captions resemble one another.

    Returns:
        The largest share of a row's length left over, and the largest sum of absolute coefficients of a row.
    """
    import torch

    norms = chunk.norm(dim=-1).clamp_min(1e-12)
    goal = chunk / norms[:, None]
    best = (1.0, 0.0)
    energy = (_unit(atoms) * goal).sum(-1).square().sum(-1)
    for first in energy.topk(min(STARTS, len(atoms))).indices.tolist():
        chosen = [first]
        while True:
            basis = atoms[chosen].permute(1, 2, 0)  # (L, s, atoms)
            weights = torch.linalg.pinv(basis, rtol=1e-5) @ chunk[:, :, None]
            rest = (chunk - (basis @ weights)[:, :, 0]) / norms[:, None]
            left = float(rest.norm(dim=-1).max())
            best = min(best, (left, float(weights.abs().sum(1).max())))
            if left <= TOLERANCE:
                return best
            if len(chosen) == min(ATOMS, len(atoms)):
                break
            frame = torch.linalg.qr(basis)[0]  # (L, s, atoms)
            beyond = _unit(atoms - torch.einsum("lsk,mlk->mls", frame, torch.einsum("mls,lsk->mlk", atoms, frame)))
            gain = (beyond * rest).sum(-1).square().sum(-1)
            gain[chosen] = -1
            chosen.append(int(gain.argmax()))
    return best


def _unit(vectors: Tensor) -> Tensor:
    """Return vectors of length 1; what is zero up to rounding stays zero."""
    lengths = vectors.norm(dim=-1, keepdim=True)
    found: Tensor = vectors / lengths.clamp_min(1e-12) * (lengths > 1e-5 * lengths.amax())
    return found
