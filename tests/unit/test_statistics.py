"""The exact tests against known values; each theorem has a twin that shows it could fail."""

import math
from typing import Any

import numpy as np
import pytest

from safeencoders.evaluation.statistics import (
    agreement,
    binomial_two_sided_half,
    mcnemar,
    mean_and_range,
)


def outcomes(both: int, first: int, second: int, neither: int) -> list[list[int]]:
    pairs = [(1, 1)] * both + [(1, 0)] * first + [(0, 1)] * second + [(0, 0)] * neither
    return [list(column) for column in zip(*pairs, strict=True)]


@pytest.mark.parametrize(
    ("b", "c", "p"), [(0, 0, 1.0), (3, 3, 1.0), (0, 5, 0.0625), (1, 9, 0.021484375), (10, 2, 0.038574)]
)
def test_mcnemar_known_values(b: int, c: int, p: float) -> None:
    result = mcnemar(*outcomes(20, b, c, 7))
    assert result == {"first_only": b, "second_only": c, "n": 27 + b + c, "p": pytest.approx(p, abs=1e-6)}


def test_mcnemar_ignores_concordant_pairs_the_order_of_cases_and_of_systems() -> None:
    first, second = map(np.array, outcomes(5, 12, 3, 5))
    p = mcnemar(first, second)["p"]
    order = np.random.default_rng(0).permutation(len(first))
    assert mcnemar(first[order], second[order])["p"] == p
    assert mcnemar(second, first)["p"] == p
    assert mcnemar(*outcomes(500, 12, 3, 900))["p"] == p


def test_mcnemar_does_see_a_broken_pairing() -> None:
    first, second = map(np.array, outcomes(20, 12, 0, 20))
    shuffled = second[np.random.default_rng(0).permutation(len(second))]
    assert mcnemar(first, shuffled)["p"] > mcnemar(first, second)["p"]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [([1, 0], [1], "equal lengths"), ([0.5], [1], "yes/no"), ([[1]], [[1]], "shape")],
)
def test_mcnemar_refuses_what_is_not_paired_yes_or_no(first: Any, second: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mcnemar(first, second)


def test_mcnemar_stays_exact_for_many_pairs() -> None:
    assert 0 < binomial_two_sided_half(900, 2000) < 1e-5
    assert binomial_two_sided_half(1000, 2000) == 1.0


def test_coin_tosses_against_the_sum_written_out() -> None:
    assert binomial_two_sided_half(9, 10) == pytest.approx(2 * (10 + 1) / 2**10)
    assert binomial_two_sided_half(0, 0) == 1.0


@pytest.mark.parametrize("successes", [-1, 6])
def test_coin_tosses_refuse_a_count_that_cannot_be(successes: int) -> None:
    with pytest.raises(ValueError, match="Expected 0"):
        binomial_two_sided_half(successes, 5)


def test_mean_and_range() -> None:
    assert mean_and_range([0.2, 0.4, 0.3]) == {
        "mean": pytest.approx(0.3), "min": 0.2, "max": 0.4, "n": 3, "values": [0.2, 0.4, 0.3],
    }  # fmt: skip
    with pytest.raises(ValueError, match="at least one"):
        mean_and_range([])
    with pytest.raises(ValueError, match="finite"):
        mean_and_range([0.1, math.nan])


def test_kappa_known_value() -> None:
    # Textbook table: 20 both yes, 5 only first, 10 only second, 15 both no: raw 0.70, kappa 0.40.
    result = agreement(*outcomes(20, 5, 10, 15))
    assert result["raw"]["value"] == 0.7
    assert result["kappa"] == pytest.approx(0.4)


def test_kappa_is_one_for_equals_zero_for_chance_and_does_not_depend_on_names() -> None:
    labels = ["a", "b", "c", "a"]
    assert agreement(labels, labels)["kappa"] == 1.0
    assert agreement(*outcomes(9, 9, 9, 9))["kappa"] == 0.0
    first, second = outcomes(20, 5, 10, 15)
    assert agreement([f"x{v}" for v in first], [f"x{v}" for v in second]) == agreement(first, second)


def test_kappa_sees_what_raw_agreement_hides() -> None:
    often = agreement(*outcomes(0, 5, 5, 90))
    assert often["raw"]["value"] == 0.9
    assert often["kappa"] is not None
    assert often["kappa"] < 0


def test_agreement_edges() -> None:
    assert agreement(["x"] * 3, ["x"] * 3)["kappa"] is None
    with pytest.raises(ValueError, match="the same cases"):
        agreement(["x"], [])
    with pytest.raises(ValueError, match="n=0"):
        agreement([], [])
