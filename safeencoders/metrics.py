"""Recall, rates and intervals: pure numpy, the lowest layer, so that training may use it for early stopping.

Conventions.
    Q queries, G gallery items; ``similarity[q, g]`` is larger for a better match (a distance must be negated).
    *Duplicates.* Gallery items with identical content (the same scene, the same caption) share a group id and count
    as ONE item, which scores as its best member. A query's answer is a group, so finding any copy is a hit.
    *Ties.* A tie is resolved by expectation over a random order of the tied items, never by position. Scores that
    differ by at most ``tolerance`` count as tied: a collapsed tower gives equal embeddings whose products differ in
    the last bits by their position in the matrix, and a rank must not depend on that.
    *Rates.* ``{"value": fraction in 0..1, "n": int, "interval": [low, high]}``; the interval is Wilson's, 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict, overload

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

Z95 = 1.959963984540054
TOLERANCE = 1e-6


class Rate(TypedDict):
    """A measured fraction in 0..1, the number of cases it rests on, and its 95 % interval."""

    value: float
    n: int
    interval: list[float]


class EmptyRate(TypedDict):
    """The rate of no cases: nothing is known, so ``value`` is None and ``interval`` is [0.0, 1.0]."""

    value: None
    n: int
    interval: list[float]


def wilson(proportion: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Args:
        proportion: The observed fraction, in 0..1; need not be a multiple of 1/n.
        n: The number of cases, at least 1.
        z: The normal quantile; the default gives 95 %.

    Returns:
        (low, high), within 0..1; low is exactly 0 at proportion 0 and high exactly 1 at proportion 1.

    Raises:
        ValueError: If n < 1, or the proportion is not in 0..1.
    """
    if n < 1:
        raise ValueError(f"An interval needs at least one case, got n={n}.")
    if not 0.0 <= proportion <= 1.0:
        raise ValueError(f"A proportion lies in 0..1, got {proportion!r}.")
    centre = proportion + z * z / (2 * n)
    half = z * math.sqrt(proportion * (1 - proportion) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if proportion == 0.0 else max(0.0, (centre - half) / scale)
    high = 1.0 if proportion == 1.0 else min(1.0, (centre + half) / scale)
    return low, high


@overload
def rate(successes: int, n: int, *, allow_empty: Literal[False] = False) -> Rate: ...
@overload
def rate(successes: int, n: int, *, allow_empty: bool) -> Rate | EmptyRate: ...
def rate(successes: int, n: int, *, allow_empty: bool = False) -> Rate | EmptyRate:
    """The rate of `successes` among `n` cases, with Wilson's 95 % interval.

    Args:
        successes: A count in 0..n.
        n: The number of cases.
        allow_empty: What to do with n = 0. False (default): raise, because a rate of nothing is usually a mistake.
            True: return ``{"value": None, "n": 0, "interval": [0.0, 1.0]}``, for breakdowns with empty classes.

    Raises:
        ValueError: If successes is not in 0..n, n is negative, or n is 0 and `allow_empty` is False.
    """
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"Expected 0 <= successes <= n, got successes={successes} and n={n}.")
    if n == 0:
        if allow_empty:
            return {"value": None, "n": 0, "interval": [0.0, 1.0]}
        raise ValueError("A rate of no cases (n=0) has no value; pass allow_empty=True to get a null rate.")
    value = int(successes) / int(n)
    return {"value": value, "n": int(n), "interval": list(wilson(value, int(n)))}


@overload
def mean_rate(values: npt.ArrayLike, *, allow_empty: Literal[False] = False) -> Rate: ...
@overload
def mean_rate(values: npt.ArrayLike, *, allow_empty: bool) -> Rate | EmptyRate: ...
def mean_rate(values: npt.ArrayLike, *, allow_empty: bool = False) -> Rate | EmptyRate:
    """The mean of per-case hits that may be fractional, such as hit probabilities under ties.

    The interval is Wilson's with n cases at the mean. It equals `rate` when every value is 0 or 1; fractional values
    in 0..1 vary less than 0/1 ones of the same mean, so for them the interval is on the wide side, never too narrow.

    Args:
        values: (n,) numbers or booleans in 0..1.
        allow_empty: As in `rate`.

    Raises:
        ValueError: If `values` is not one-dimensional, holds something outside 0..1 (NaN included), or is empty and
            `allow_empty` is False.
    """
    hits = np.asarray(values, dtype=np.float64)
    if hits.ndim != 1:
        raise ValueError(f"Expected one hit per case, shape (n,), got shape {hits.shape}.")
    if hits.size == 0:
        return rate(0, 0, allow_empty=allow_empty)
    if not bool(np.all((hits >= 0.0) & (hits <= 1.0))):
        raise ValueError(f"Hits lie in 0..1, got values from {hits.min()} to {hits.max()}.")
    value = min(1.0, math.fsum(hits.tolist()) / hits.size)
    return {"value": value, "n": int(hits.size), "interval": list(wilson(value, hits.size))}


def recalls(hits: Mapping[int, npt.ArrayLike]) -> dict[str, Rate]:
    """Name and average per-query hits: ``{1: (Q,), 10: (Q,)}`` gives ``{"R@1": rate, "R@10": rate}``.

    Raises:
        ValueError: As `mean_rate`.
    """
    return {f"R@{k}": mean_rate(values) for k, values in hits.items()}


def expected_hits(
    similarity: npt.ArrayLike,
    target: npt.ArrayLike,
    groups: npt.ArrayLike,
    ks: Sequence[int],
    *,
    tolerance: float = TOLERANCE,
) -> dict[int, Floats]:
    """The probability, per query, that its target is among the first k, over a random order of ties.

    The gallery is reduced to one column per group (the maximum over its members). With `better` groups scoring above
    the target and `tied` groups scoring the same, the target included, the target's rank is uniform on
    better+1 .. better+tied, so P(hit@k) = clip((k - better) / tied, 0, 1).

    Args:
        similarity: (Q, G) real numbers, larger is better; -inf excludes an item, NaN is an error.
        target: (Q,) the GROUP ID each query must find (not a column index).
        groups: (G,) the group id of each gallery item: integers or strings. ``np.arange(G)`` for no duplicates.
        ks: Cut-offs, each at least 1; one beyond the number of groups is a sure hit.
        tolerance: Scores this close count as tied; 0.0 for exact equality.

    Returns:
        ``{k: (Q,) float64 in 0..1}`` in the order of `ks`.

    Raises:
        ValueError: If shapes do not fit, `similarity` holds NaN, a k is below 1, or a target is not in the gallery.
    """
    scores = _scores(similarity)
    _check_ks(ks)
    ids, columns = _group_columns(groups, scores.shape[1])
    wanted = np.asarray(target)
    if wanted.shape != (scores.shape[0],):
        raise ValueError(f"Expected one target group per query, shape ({scores.shape[0]},), got {wanted.shape}.")
    position = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    missing = np.flatnonzero(ids[position] != wanted)
    if missing.size:
        first = wanted[missing[0]]
        raise ValueError(f"{missing.size} queries have a target group that is not in the gallery, first: {first!r}.")
    best = _best_of_groups(scores, columns, len(ids))
    own = np.take_along_axis(best, position[:, None], axis=1)
    better = np.count_nonzero(best > own + tolerance, axis=1)
    tied = np.count_nonzero(best >= own - tolerance, axis=1) - better
    return {int(k): np.clip((k - better) / tied, 0.0, 1.0) for k in ks}


def top1_share(
    similarity: npt.ArrayLike,
    mask: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    *,
    tolerance: float = TOLERANCE,
) -> Floats:
    """The probability, per query, that its top-1 item lies in `mask` (for instance: is unsafe), ties by expectation.

    Args:
        similarity: (Q, G) real numbers, larger is better; NaN is an error.
        mask: (G,) booleans.
        groups: (G,) group ids as in `expected_hits`, so that a tie with three copies of one picture counts it once;
            None (default): every item is its own group.
        tolerance: Scores this close to the best count as tied with it.

    Returns:
        (Q,) float64 in 0..1.

    Raises:
        ValueError: If shapes do not fit, `similarity` holds NaN, or a group is partly in the mask.
    """
    scores = _scores(similarity)
    chosen = np.asarray(mask)
    if chosen.dtype != np.bool_ or chosen.shape != (scores.shape[1],):
        raise ValueError(f"Expected a boolean mask of shape ({scores.shape[1]},), got {chosen.dtype} {chosen.shape}.")
    ids, columns = _group_columns(np.arange(scores.shape[1]) if groups is None else groups, scores.shape[1])
    inside = np.bincount(columns, weights=chosen, minlength=len(ids))
    mixed = np.flatnonzero((inside > 0) & (inside < np.bincount(columns, minlength=len(ids))))
    if mixed.size:
        first = ids[mixed[0]]
        raise ValueError(f"A group lies wholly inside or outside the mask; {mixed.size} do not, first: {first!r}.")
    best = _best_of_groups(scores, columns, len(ids))
    top = best >= best.max(axis=1, keepdims=True) - tolerance
    share: Floats = top[:, inside > 0].sum(axis=1) / top.sum(axis=1)
    return share


def oracle_hits(
    keys_query: Sequence[Hashable],
    keys_gallery: Sequence[Hashable],
    ks: Sequence[int],
    groups: Iterable[Hashable] | None = None,
) -> dict[int, Floats]:
    """The hit probability of an oracle that knows only what of the target SURVIVES in the query.

    An unsafe query may have lost part of its safe twin (a *replace* concept hides the object). The oracle reads the
    surviving key without error and knows nothing else: all gallery groups with an equal key are tied on top and one
    of them is the target, so P(hit@k) = min(1, k / number of those groups). No encoder that uses the query alone can
    do better in expectation; it is the ceiling that a retrieval row must be read against.

    Args:
        keys_query: Q hashable keys, the surviving part of each query's target.
        keys_gallery: G hashable keys of the gallery items, computed with the same fields. Where queries lose
            different fields, put which fields they are in the key and call once per kind.
        ks: Cut-offs, each at least 1.
        groups: G group ids (duplicates count once); None: every item is its own group.

    Returns:
        ``{k: (Q,) float64 in 0..1}``.

    Raises:
        ValueError: If a k is below 1, `groups` has another length than the gallery, or a query's key is not in the
            gallery (its target would be absent).
    """
    _check_ks(ks)
    names: list[Hashable] = list(range(len(keys_gallery))) if groups is None else list(groups)
    if len(names) != len(keys_gallery):
        raise ValueError(f"Expected one group per gallery item ({len(keys_gallery)}), got {len(names)}.")
    members: dict[Hashable, set[Hashable]] = {}
    for key, name in zip(keys_gallery, names, strict=True):
        members.setdefault(key, set()).add(name)
    lost = [key for key in keys_query if key not in members]
    if lost:
        raise ValueError(f"{len(lost)} queries have a key that no gallery item has, first: {lost[0]!r}.")
    tied = np.array([len(members[key]) for key in keys_query], dtype=np.float64)
    return {int(k): np.minimum(1.0, k / tied) for k in ks}


def _scores(similarity: npt.ArrayLike) -> Floats:
    scores = np.asarray(similarity, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ValueError(f"Expected similarities of shape (Q, G) with G >= 1, got {scores.shape}.")
    if bool(np.isnan(scores).any()):
        raise ValueError("Similarities hold NaN: the embeddings are broken, and a NaN has no rank.")
    return scores


def _check_ks(ks: Sequence[int]) -> None:
    if any(k < 1 for k in ks):
        raise ValueError(f"Every cut-off k must be at least 1, got {list(ks)}.")


def _group_columns(groups: npt.ArrayLike, size: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Sorted distinct ids (U,), and for each gallery item its position in them (G,)."""
    names = np.asarray(groups)
    if names.shape != (size,):
        raise ValueError(f"Expected one group id per gallery item, shape ({size},), got {names.shape}.")
    ids, columns = np.unique(names, return_inverse=True)
    return ids, columns


def _best_of_groups(scores: Floats, columns: npt.NDArray[np.intp], count: int) -> Floats:
    """(Q, G) scores to (Q, count): the maximum over each group's members."""
    order = np.argsort(columns, kind="stable")
    starts = np.searchsorted(columns[order], np.arange(count))
    best: Floats = np.maximum.reduceat(scores[:, order], starts, axis=1)
    return best
