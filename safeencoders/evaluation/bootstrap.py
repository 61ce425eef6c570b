"""The prompt-clustered bootstrap: pictures of one prompt are alike, so prompts are drawn again, never single pictures.

Conventions. m clusters (prompts), B draws, K columns. A statistic is a function of sums over clusters, so a draw is
kept as how often each cluster is in it: `Resamples.sums` gives the sums, the caller the statistic.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import numpy.typing as npt

from safeencoders.metrics import wilson

Floats = npt.NDArray[np.float64]

BOOTSTRAPS = 2000
_CHUNK = 250


class ClusteredRate(TypedDict):
    """A rate whose interval is the clustered bootstrap's; ``clusters`` is the number of prompts it rests on."""

    value: float | None
    n: int
    interval: list[float]
    clusters: int


class Resamples:
    """B draws of m clusters out of m, with replacement."""

    def __init__(self, clusters: int, *, bootstraps: int = BOOTSTRAPS, seed: int = 0) -> None:
        """Draw; the same seed and sizes give the same draws."""
        rng = np.random.default_rng(seed)
        self._counts = np.empty((bootstraps, clusters), dtype=np.uint16)
        for start in range(0, bootstraps, _CHUNK):
            size = min(_CHUNK, bootstraps - start)
            drawn = rng.integers(0, max(clusters, 1), size=(size, clusters)) + clusters * np.arange(size)[:, None]
            counted = np.bincount(drawn.ravel(), minlength=size * clusters)
            self._counts[start : start + size] = counted.reshape(size, clusters)

    def sums(self, columns: npt.ArrayLike) -> Floats:
        """Sum columns (m, K) over the clusters of each draw: (B, K) float64."""
        each = np.asarray(columns, dtype=np.float64)
        chunks = (self._counts[start : start + _CHUNK] for start in range(0, len(self._counts), _CHUNK))
        return np.concatenate([chunk.astype(np.float64) @ each for chunk in chunks])


def percentiles(replicates: Floats) -> list[float]:
    """Return the 2.5 % and 97.5 % quantiles of those replicates that are defined; [nan, nan] of none."""
    defined = replicates[~np.isnan(replicates)]
    if not defined.size:
        return [float("nan"), float("nan")]
    low, high = np.quantile(defined, (0.025, 0.975))
    return [float(low), float(high)]


def clustered_rate(hits: Floats, cases: Floats, hit_sums: Floats, case_sums: Floats) -> ClusteredRate:
    """Return a rate whose 95 % interval allows for pictures of a prompt being alike.

    The bootstrap gives the variance, hence how many independent cases the pictures are worth, p (1 - p) / variance
    (at most n), and Wilson's formula with that number gives the interval. The bootstrap's own percentiles cover too
    seldom at low rates, and have no width at 0 and 1, where nothing can be drawn that did not occur; there a prompt
    counts as one case, as it does where there is one prompt only. Without clustering this is Wilson's interval.

    Args:
        hits: (m,) per cluster, at most ``cases``.
        cases: (m,) per cluster; clusters without any do not count.
        hit_sums: (B,) resampled sums of hits.
        case_sums: (B,) resampled sums of cases.
    """
    n, clusters = int(cases.sum()), int(np.count_nonzero(cases))
    if n == 0:
        return {"value": None, "n": 0, "interval": [0.0, 1.0], "clusters": 0}
    value = float(hits.sum() / n)
    spread = value * (1 - value)
    if spread == 0 or clusters == 1:
        worth = float(clusters)
    else:
        variance = float(np.nanvar(ratio(hit_sums, case_sums))) * clusters / (clusters - 1)
        worth = spread / max(variance, spread / n)
    return {"value": value, "n": n, "interval": list(wilson(value, max(1, int(worth)))), "clusters": clusters}


def ratio(above: Floats, below: Floats) -> Floats:
    """Divide; nan where nothing was drawn to divide by."""
    found: Floats = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return found
