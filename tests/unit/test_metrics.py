"""Hand-made retrieval cases with exact answers; each theorem has a twin that shows it could fail."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from safeencoders.metrics import expected_hits, mean_rate, oracle_hits, rate, recalls, top1_share, wilson

ITEMS = np.arange(4)


def hits(
    similarity: Any, target: Any, groups: Any = ITEMS, ks: Sequence[int] = (1, 2, 4), **options: float
) -> dict[int, list[float]]:
    return {k: v.tolist() for k, v in expected_hits(similarity, target, groups, ks, **options).items()}


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(30, 142, 15.2, 28.6), (108, 142, 68.4, 82.3), (0, 10, 0.0, 27.8), (10, 10, 72.2, 100.0)],
)
def test_wilson_known_values(successes: int, n: int, low: float, high: float) -> None:
    assert [round(100 * bound, 1) for bound in rate(successes, n)["interval"]] == [low, high]


def test_wilson_ends_are_exact_and_the_interval_narrows_with_n() -> None:
    assert wilson(0.0, 7)[0] == 0.0
    assert wilson(1.0, 7)[1] == 1.0
    widths = [np.diff(wilson(0.3, n)).item() for n in (10, 100, 1000)]
    assert widths == sorted(widths, reverse=True)
    assert wilson(0.3, 50)[0] < 0.3 < wilson(0.3, 50)[1]


def test_wilson_is_not_the_normal_interval() -> None:
    low, high = wilson(0.1, 10)
    assert low > 0.1 - 1.96 * np.sqrt(0.009)
    assert not np.isclose(low + high, 0.2)


def test_rate_form() -> None:
    assert rate(1, 4) == {"value": 0.25, "n": 4, "interval": list(wilson(0.25, 4))}
    assert rate(0, 0, allow_empty=True) == {"value": None, "n": 0, "interval": [0.0, 1.0]}


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3), (0, -1)])
def test_rate_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        rate(successes, n)


def test_rate_of_nothing_is_refused_unless_asked_for() -> None:
    with pytest.raises(ValueError, match="allow_empty=True"):
        rate(0, 0)
    with pytest.raises(ValueError, match="allow_empty=True"):
        mean_rate([])
    assert mean_rate([], allow_empty=True)["value"] is None


def test_mean_rate_of_whole_hits_is_the_rate() -> None:
    assert mean_rate([True, False, False, True, False]) == rate(2, 5)
    assert mean_rate([0.5, 0.5])["value"] == rate(1, 2)["value"]


@pytest.mark.parametrize("values", [[0.5, 1.5], [-0.1], [float("nan")], [[0.5]]])
def test_mean_rate_refuses_what_is_no_hit(values: Any) -> None:
    with pytest.raises(ValueError, match=r"in 0\.\.1|shape"):
        mean_rate(values)


def test_hits_without_ties() -> None:
    similarity = [[0.9, 0.1, 0.5, 0.3], [0.9, 0.1, 0.5, 0.3]]
    assert hits(similarity, [0, 3]) == {1: [1.0, 0.0], 2: [1.0, 0.0], 4: [1.0, 1.0]}


def test_a_tie_is_resolved_by_expectation() -> None:
    similarity = [[0.5, 0.5, 0.5, 0.9]]  # the target shares ranks 2..4 with two others
    result = hits(similarity, [1], ks=(1, 2, 3, 4, 9))
    assert result == {1: [0.0], 2: [pytest.approx(1 / 3)], 3: [pytest.approx(2 / 3)], 4: [1.0], 9: [1.0]}
    assert hits([[0.5] * 4], [0]) == {1: [0.25], 2: [0.5], 4: [1.0]}


def test_the_expectation_is_what_random_orders_give() -> None:
    rng = np.random.default_rng(0)
    similarity = rng.integers(0, 3, size=(1, 6)).astype(float)
    found = expected_hits(similarity, [2], np.arange(6), [1, 2, 3])
    jitter = similarity + rng.uniform(0, 0.5, size=(20000, 6))
    rank = (jitter > jitter[:, 2:3]).sum(axis=1)
    for k, value in found.items():
        assert value[0] == pytest.approx((rank < k).mean(), abs=0.015)


def test_rounding_noise_is_a_tie_and_exactness_can_be_asked_for() -> None:
    similarity = [[0.5 + 1e-9, 0.5, 0.1, 0.1]]
    assert hits(similarity, [1], ks=[1]) == {1: [0.5]}
    assert hits(similarity, [1], ks=[1], tolerance=0.0) == {1: [0.0]}


def test_duplicates_count_as_one_item_at_its_best() -> None:
    similarity = [[0.9, 0.8, 0.2, 0.7]]
    assert hits(similarity, [3], groups=[0, 0, 2, 3], ks=[1, 2]) == {1: [0.0], 2: [1.0]}
    assert hits(similarity, [3], ks=[1, 2]) == {1: [0.0], 2: [0.0]}  # the twin: ungrouped, two items are ahead
    assert hits(similarity, [7], groups=[7, 5, 7, 5], ks=[1]) == {1: [1.0]}  # any copy is a find
    assert hits([[0.5] * 4], [1], groups=[1, 1, 1, 2], ks=[1]) == {1: [0.5]}  # three copies do not outvote one


def test_groups_may_be_words() -> None:
    assert hits([[0.1, 0.9, 0.3, 0.2]], ["b"], groups=["z", "b", "a", "b"], ks=[1]) == {1: [1.0]}


def test_permuting_the_gallery_or_the_queries_changes_nothing_but_breaking_the_pairs_does() -> None:
    rng = np.random.default_rng(1)
    similarity, target = rng.normal(size=(40, 30)).round(1), rng.integers(0, 20, size=40)
    groups = np.concatenate([np.arange(20), rng.integers(0, 20, size=10)])
    plain = expected_hits(similarity, target, groups, [1, 5])[5]
    columns, rows = rng.permutation(30), rng.permutation(40)
    assert np.array_equal(plain, expected_hits(similarity[:, columns], target, groups[columns], [5])[5])
    assert np.array_equal(plain[rows], expected_hits(similarity[rows], target[rows], groups, [5])[5])
    assert not np.array_equal(plain, expected_hits(similarity[:, columns], target, groups, [5])[5])
    assert not np.array_equal(plain[rows], expected_hits(similarity[rows], target, groups, [5])[5])


def test_hits_grow_with_k_and_end_at_one() -> None:
    rng = np.random.default_rng(2)
    found = expected_hits(rng.normal(size=(9, 12)).round(1), rng.integers(0, 12, 9), np.arange(12), range(1, 13))
    grown = np.stack(list(found.values()))
    assert (np.diff(grown, axis=0) >= 0).all()
    assert (grown[-1] == 1).all()
    assert not (grown[0] == 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": [9]}, "not in the gallery"),
        ({"target": [0, 1]}, "one target group per query"),
        ({"groups": [0, 1]}, "one group id per gallery item"),
        ({"ks": [0]}, "at least 1"),
        ({"similarity": [[np.nan, 0, 0, 0]]}, "NaN"),
        ({"similarity": [0.1, 0.2]}, "shape"),
    ],
)
def test_hits_refuse_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    fitting: dict[str, Any] = {"similarity": [[0.1, 0.2, 0.3, 0.4]], "target": [0], "groups": ITEMS, "ks": [1]}
    assert expected_hits(**fitting)
    with pytest.raises(ValueError, match=message):
        expected_hits(**fitting | change)


def test_an_excluded_item_is_never_found_first() -> None:
    assert hits([[-np.inf, 0.2, -np.inf, 0.1]], [1], ks=[1]) == {1: [1.0]}
    assert hits([[-np.inf, 0.2, -np.inf, 0.1]], [0], ks=[2, 3]) == {2: [0.0], 3: [0.5]}


def test_top1_share() -> None:
    unsafe = np.array([False, False, True, True])
    similarity = np.array([[0.9, 0, 0, 0], [0, 0, 0.9, 0], [0.5, 0.1, 0.5, 0.5], [1, 1, 1, 1]])
    assert top1_share(similarity, unsafe).tolist() == pytest.approx([0, 1, 2 / 3, 0.5])
    assert top1_share(similarity, unsafe, groups=[0, 1, 2, 2]).tolist() == pytest.approx([0, 1, 1 / 2, 1 / 3])
    assert np.add(top1_share(similarity, unsafe), top1_share(similarity, ~unsafe)).tolist() == pytest.approx([1] * 4)


def test_top1_share_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="boolean mask"):
        top1_share([[0.1, 0.2]], [0, 1])
    with pytest.raises(ValueError, match="wholly inside or outside"):
        top1_share([[0.1, 0.2]], np.array([True, False]), groups=[5, 5])


def test_oracle() -> None:
    gallery = [("cat", "park"), ("cat", "park"), ("dog", "park"), ("cat", "sea")]
    queries = [("cat", "park"), ("dog", "park")]
    found = oracle_hits(queries, gallery, [1, 2])
    assert {k: v.tolist() for k, v in found.items()} == {1: [0.5, 1.0], 2: [1.0, 1.0]}
    assert oracle_hits(queries, gallery, [1], groups=[7, 7, 8, 9])[1].tolist() == [1.0, 1.0]


def test_the_oracle_is_what_a_perfect_reader_of_the_key_scores() -> None:
    keys = ["a", "a", "b", "a"]
    similarity = np.array([[float(q == g) for g in keys] for q in keys])
    oracle, reader = oracle_hits(keys, keys, [1, 2]), expected_hits(similarity, ITEMS, ITEMS, [1, 2])
    assert all(np.allclose(oracle[k], reader[k]) for k in (1, 2))
    worse = expected_hits(1 - similarity, ITEMS, ITEMS, [1, 2])
    assert not np.allclose(oracle[1], worse[1])


def test_oracle_refuses_a_lost_key_and_uneven_groups() -> None:
    with pytest.raises(ValueError, match="no gallery item has"):
        oracle_hits(["x"], ["y"], [1])
    with pytest.raises(ValueError, match="one group per gallery item"):
        oracle_hits(["y"], ["y"], [1], groups=[1, 2])


def test_recalls_names_the_rates() -> None:
    named = recalls(expected_hits([[0.5, 0.5, 0.1, 0.0]], [0], ITEMS, [1, 10]))
    assert list(named) == ["R@1", "R@10"]
    assert named["R@1"]["value"] == 0.5


def test_full_size_is_quick() -> None:
    rng = np.random.default_rng(3)
    similarity = rng.normal(size=(1400, 2800)).astype(np.float32)
    start = time.process_time()
    expected_hits(similarity, np.arange(1400), np.arange(2800) % 1500, [1, 10, 20])
    assert time.process_time() - start < 5.0
