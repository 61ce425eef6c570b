"""Tests on paired outcomes, agreement of judges, and the spread over seeds. Exact where it can be; no scipy.

Intervals of single rates are Wilson's and live in `safeencoders.metrics` (`rate`, `mean_rate`, `wilson`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from safeencoders.metrics import Rate, rate


class McNemar(TypedDict):
    """An exact McNemar test: the discordant pairs and the two-sided p-value."""

    first_only: int
    second_only: int
    n: int
    p: float


class SignFlip(TypedDict):
    """An exact paired permutation test over clusters: how many, how many differ, and the two-sided p-value."""

    clusters: int
    differing: int
    p: float


class Spread(TypedDict):
    """The same measurement over several seeds."""

    mean: float
    min: float
    max: float
    n: int
    values: list[float]


class Agreement(TypedDict):
    """How often two judges say the same: raw share, and Cohen's kappa (None where it is undefined)."""

    raw: Rate
    kappa: float | None


def mcnemar(first: npt.ArrayLike, second: npt.ArrayLike) -> McNemar:
    """Exact McNemar test of two yes/no outcomes on the SAME cases, in the same order.

    Only pairs that disagree carry information: if neither system is better, each falls either way with probability
    one half, so p = min(1, 2 P(X <= min(b, c))) with X ~ Binomial(b + c, 1/2). No discordant pair: p = 1.

    Args:
        first: (n,) booleans, or numbers that are exactly 0 or 1.
        second: (n,) likewise; ``second[i]`` is the other system's outcome on case i.

    Returns:
        ``{"first_only": b, "second_only": c, "n": n, "p": p}`` with p in 0..1.

    Raises:
        ValueError: If the shapes differ or are not (n,), or a value is fractional (a tie resolved by expectation
            has no yes/no outcome).
    """
    left, right = _outcomes(first), _outcomes(second)
    if left.shape != right.shape:
        raise ValueError(f"Paired outcomes need equal lengths, got {left.size} and {right.size}.")
    only_left = int(np.count_nonzero(left & ~right))
    only_right = int(np.count_nonzero(right & ~left))
    p = binomial_two_sided_half(only_left, only_left + only_right)
    return {"first_only": only_left, "second_only": only_right, "n": int(left.size), "p": p}


def sign_flip(differences: npt.ArrayLike) -> SignFlip:
    """Exact paired permutation test of two systems on the same cases, when cases come in clusters.

    If neither system is better, swapping the two systems' outcomes within a cluster changes nothing, so the sign of
    each cluster's difference is a fair coin, independent of the others. The test statistic is the sum T of the
    differences; p = P(|T| as large or larger) over all 2^m signs. Its distribution is a convolution of one scaled
    binomial for each size of difference, so nothing is sampled. With differences of -1, 0 and 1 only it is McNemar's.

    Args:
        differences: (m,) whole numbers: successes of the first system minus those of the second, per cluster.

    Raises:
        ValueError: If the shape is not (m,) or a difference is fractional.
    """
    values = np.asarray(differences)
    if values.ndim != 1 or not bool(np.all(values == np.round(values))):
        raise ValueError("Expected one whole number per cluster, shape (m,).")
    whole = np.abs(values).astype(np.int64)
    total = int(whole.sum())
    pmf = np.ones(1)  # of the sum over the clusters whose sign is plus
    for size, count in zip(*np.unique(whole[whole > 0], return_counts=True), strict=True):
        spaced = np.zeros(int(size * count) + 1)
        spaced[::size] = _fair_coins(int(count))
        pmf = np.convolve(pmf, spaced)
    smaller = (total - abs(int(values.sum()))) // 2
    p = min(1.0, 2 * math.fsum(pmf[: smaller + 1].tolist()))
    return {"clusters": int(values.size), "differing": int(np.count_nonzero(whole)), "p": p}


def binomial_two_sided_half(successes: int, n: int) -> float:
    """The two-sided p-value of `successes` in `n` fair coin tosses, in exact integer arithmetic.

    Returns:
        min(1, 2 P(X <= min(successes, n - successes))); 1.0 for n = 0.

    Raises:
        ValueError: If successes is not in 0..n.
    """
    _check_count(successes, n)
    tail = sum(math.comb(n, i) for i in range(min(successes, n - successes) + 1))
    return min(1.0, 2 * tail / (1 << n))


def mean_and_range(values: Sequence[float]) -> Spread:
    """Mean, least and greatest of one number measured with several seeds.

    Args:
        values: At least one finite number.

    Raises:
        ValueError: If there is none, or one is not finite.
    """
    numbers = [float(value) for value in values]
    if not numbers:
        raise ValueError("A mean over seeds needs at least one value, got none.")
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"Values over seeds must be finite, got {numbers}.")
    mean = math.fsum(numbers) / len(numbers)
    return {"mean": mean, "min": min(numbers), "max": max(numbers), "n": len(numbers), "values": numbers}


def agreement(first: Sequence[Hashable], second: Sequence[Hashable]) -> Agreement:
    """Raw agreement and Cohen's kappa of two judges on the same cases.

    kappa = (observed - expected) / (1 - expected), where `expected` is the agreement of independent judges with the
    same label frequencies: 1 is perfect, 0 is chance. It is None when both judges give one and the same label
    throughout (expected = 1), where it is undefined.

    Args:
        first: n labels (strings, booleans, numbers).
        second: n labels of the other judge, in the same order.

    Raises:
        ValueError: If the lengths differ or there is no case.
    """
    if len(first) != len(second):
        raise ValueError(f"Two judges must label the same cases, got {len(first)} and {len(second)} labels.")
    n = len(first)
    same = sum(a == b for a, b in zip(first, second, strict=True))
    raw = rate(same, n)
    left, right = Counter(first), Counter(second)
    by_chance = sum(count * right[label] for label, count in left.items())
    kappa = None if by_chance == n * n else (same * n - by_chance) / (n * n - by_chance)
    return {"raw": raw, "kappa": kappa}


def _fair_coins(n: int) -> list[float]:
    """Return P(k heads in n tosses) for k = 0..n, each rounded once."""
    count, found = 1, []
    for k in range(n + 1):
        found.append(count / (1 << n))
        count = count * (n - k) // (k + 1)
    return found


def _outcomes(values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    outcomes = np.asarray(values)
    if outcomes.ndim != 1:
        raise ValueError(f"Expected one outcome per case, shape (n,), got shape {outcomes.shape}.")
    if not bool(np.isin(outcomes, (0, 1)).all()):
        raise ValueError("Expected yes/no outcomes (booleans, or exactly 0 and 1), got other values.")
    return outcomes.astype(np.bool_)


def _check_count(successes: int, n: int) -> None:
    if not 0 <= successes <= n:
        raise ValueError(f"Expected 0 <= successes <= n, got successes={successes} and n={n}.")
