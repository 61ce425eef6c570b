"""The table from records: its numbers by hand, intervals that cover, tests that hold their level; each with a twin."""

import itertools
import math
import time

import numpy as np
import pytest

from safeencoders.errors import BadInputError
from safeencoders.evaluation.bootstrap import Resamples, clustered_rate
from safeencoders.evaluation.calibration import Calibration
from safeencoders.evaluation.presets import Rule
from safeencoders.evaluation.rates import DRAWS, table
from safeencoders.evaluation.statistics import mcnemar, sign_flip
from safeencoders.metrics import rate, wilson

RULES = (Rule("eye", ("red", "blue"), 0.6), Rule("nose", ("smell",), 0.5, above=True))


def record(system, row, image, unsafe, *, group="unsafe", categories=("hate",), **more):
    return {
        "system": system, "group": group, "row": row, "image": image, "seed": 100 * row + image,
        "categories": list(categories), "unsafe": unsafe, "labels": [], "scores": {}, "pixels": "", "error": None,
    } | more  # fmt: skip


def drawn(system, verdicts, **more):
    return [
        record(system, row, image, bool(x), **more)
        for row, images in enumerate(verdicts, 1)
        for image, x in enumerate(images)
    ]


def clusters(rng, prompts, images, mean, concentration):
    share = rng.beta(mean * concentration, (1 - mean) * concentration, size=(prompts, 1))
    return rng.random((prompts, images)) < share


def test_numbers_by_hand():
    records = [
        record("original", 1, 0, True, scores={"eye/red": 0.6, "eye/green": 1.0, "nose/smell": 0.5}),
        record("original", 1, 1, True, scores={"eye/blue": 0.1, "nose/smell": 0.51}),
        record("original", 2, 0, False, categories=["sexual", "hate"], scores={"eye/red": 0.59}),
        record("original", 2, 1, None, categories=["sexual", "hate"], error="cannot be judged"),
        record("original", 1, 0, False, group="benign", utility={"lost": 0.0, "clip_score": 0.7}),
        record("original", 2, 0, True, group="benign", utility={"lost": 1.0, "clip_score": 0.9}),
    ]
    row = table(records, rules=RULES)["original"]
    assert row["unsafe"] == rate(2, 3)
    assert row["unsafe_clustered"]["clusters"] == 2
    assert {name: one["unsafe"] for name, one in row["by_category"].items()} == {
        "hate": rate(2, 3), "sexual": rate(0, 1),
    }  # fmt: skip
    assert {name: one["unsafe"] for name, one in row["by_judge"].items()} == {"eye": rate(1, 3), "nose": rate(1, 3)}
    assert row["floor"] == row["over_refusal"]["flagged"] == row["over_refusal"]["lost"] == rate(1, 2)
    assert row["utility"]["clip_score"]["mean"] == pytest.approx(0.8)
    assert "lost" not in row["utility"]
    assert row["errors"] == 1
    assert row["expected_max"]["value"] is None
    assert row["corrected"] is None
    assert row["paired"] == {}


def test_the_order_of_records_changes_nothing():
    rng = np.random.default_rng(0)
    records = drawn("original", rng.random((40, 3)) < 0.4) + drawn("encoder", rng.random((40, 3)) < 0.2)
    one = table(records, bootstraps=200)
    shuffled = [records[i] for i in rng.permutation(len(records))]
    assert {name: table(shuffled, bootstraps=200)[name] for name in one} == one
    changed = [*records[:-1], records[-1] | {"unsafe": not records[-1]["unsafe"]}]
    assert table(changed, bootstraps=200) != one


@pytest.mark.parametrize(("mean", "prompts", "images"), [(0.3, 150, 5), (0.05, 300, 5)])
def test_the_clustered_interval_covers_and_wilsons_does_not(mean, prompts, images):
    rng, runs = np.random.default_rng(1), 300
    naive = clustered = 0
    resamples = Resamples(prompts, bootstraps=300, seed=0)
    for _ in range(runs):
        hits = clusters(rng, prompts, images, mean, 1.0).sum(1).astype(float)
        cases = np.full(prompts, float(images))
        sums = resamples.sums(np.stack([hits, cases], axis=1))
        low, high = clustered_rate(hits, cases, sums[:, 0], sums[:, 1])["interval"]
        clustered += low <= mean <= high
        low, high = rate(int(hits.sum()), int(cases.sum()))["interval"]
        naive += low <= mean <= high
    assert 0.915 <= clustered / runs <= 0.985  # 95 % less and plus what 300 runs leave open
    assert naive / runs < 0.85


def test_without_clusters_the_clustered_interval_is_wilsons():
    rng = np.random.default_rng(0)
    row = table(drawn("original", rng.random((800, 1)) < 0.2))["original"]
    assert row["unsafe_clustered"]["interval"] == pytest.approx(row["unsafe"]["interval"], abs=0.003)
    twin = table(drawn("original", np.repeat(rng.random((80, 1)) < 0.2, 10, axis=1)))["original"]
    width, naive = (np.ptp(twin[name]["interval"]) for name in ("unsafe_clustered", "unsafe"))
    assert width > 2.5 * naive  # ten equal pictures a prompt are worth one: sqrt(10) as wide


def test_where_nothing_occurs_a_prompt_is_one_case():
    row = table(drawn("original", np.zeros((30, 10), bool)))["original"]
    assert row["unsafe_clustered"]["interval"] == list(wilson(0.0, 30))


def test_sign_flips_are_the_sum_over_all_signs():
    differences = [3, -1, 2, 0, 1, 1, -2]
    signs = itertools.product((-1, 1), repeat=len(differences))
    sums = [sum(s * abs(d) for s, d in zip(sign, differences, strict=True)) for sign in signs]
    exact = np.mean([abs(total) >= abs(sum(differences)) for total in sums])
    assert sign_flip(differences) == {"clusters": 7, "differing": 6, "p": pytest.approx(exact)}
    assert sign_flip([-d for d in differences])["p"] == pytest.approx(exact)
    assert sign_flip([*differences, 3])["p"] < exact
    with pytest.raises(ValueError, match="whole number"):
        sign_flip([0.5])


@pytest.mark.parametrize(("first", "second"), [(9, 1), (40, 20), (3, 3), (0, 0), (300, 100)])
def test_sign_flips_of_single_pictures_are_mcnemars(first, second):
    left = np.array([1] * first + [0] * second + [1] * 5)
    right = np.array([0] * first + [1] * second + [1] * 5)
    assert sign_flip(left - right)["p"] == pytest.approx(mcnemar(left, right)["p"], rel=1e-9)


def test_under_no_difference_sign_flips_hold_their_level_and_mcnemar_over_pictures_does_not():
    rng, runs, flips, naive = np.random.default_rng(2), 400, 0, 0
    for _ in range(runs):
        left, right = (clusters(rng, 60, 8, 0.4, 0.5) for _ in range(2))
        flips += sign_flip(left.sum(1) - right.sum(1).astype(int))["p"] < 0.05
        naive += mcnemar(left.ravel(), right.ravel())["p"] < 0.05
    assert flips / runs < 0.08
    assert naive / runs > 0.2


def test_pairs_are_pictures_of_the_same_row_number_and_seed():
    one = drawn("original", [[1, 1], [1, 0], [1, 1]])
    two = drawn("encoder", [[0, 1], [0, 0], [0, 0]])
    pair = table(one + two)["encoder"]["paired"]["original"]
    assert (pair["n"], pair["clusters"], pair["first_only"], pair["second_only"]) == (6, 3, 0, 4)
    assert pair["test"] == "sign flips by prompt, exact"
    assert pair["p"] == sign_flip([-1, -1, -2])["p"]
    assert pair["difference"]["value"] == pytest.approx(-4 / 6)
    other_noise = [r | {"seed": r["seed"] + 1} if r["row"] == 3 else r for r in two]
    assert table(one + other_noise)["encoder"]["paired"]["original"]["n"] == 4
    assert table(one + [r | {"seed": r["seed"] + 1} for r in two])["encoder"]["paired"]["original"]["p"] is None


def test_one_picture_a_prompt_is_mcnemar_and_each_encoder_row_is_compared_with_its_own_baseline():
    verdicts = {"original": [1, 1, 1, 1], "negative": [1, 1, 1, 0], "negative+encoder": [0, 0, 0, 0]}
    records = [r for name, row in verdicts.items() for r in drawn(name, [[x] for x in row])]
    found = table(records)
    assert list(found) == list(verdicts)
    assert set(found["negative+encoder"]["paired"]) == {"original", "negative"}
    pair = found["negative+encoder"]["paired"]["negative"]
    assert pair["test"] == "McNemar, exact"
    assert pair["p"] == mcnemar([0, 0, 0, 0], [1, 1, 1, 0])["p"]


def test_where_no_picture_differs_the_difference_is_not_known_to_be_zero():
    records = drawn("original", [[1, 0]] * 20) + drawn("encoder", [[1, 0]] * 20)
    pair = table(records)["encoder"]["paired"]["original"]
    assert pair["p"] == 1.0
    high = wilson(0.0, 20)[1]
    assert pair["difference"]["interval"] == [-high, high]


def test_the_expected_maximum_is_what_drawing_25_prompts_again_and_again_tends_to():
    rng = np.random.default_rng(3)
    verdicts = clusters(rng, 200, 10, 0.1, 1.0)
    shares = verdicts.mean(1)
    maxima = np.array([rng.choice(shares, DRAWS, replace=False).max() for _ in range(20_000)])
    found = table(drawn("original", verdicts))["original"]["expected_max"]
    assert found["value"] == pytest.approx(maxima.mean(), abs=4 * maxima.std() / math.sqrt(len(maxima)))
    assert found["std"] == pytest.approx(maxima.std(), rel=0.03)
    assert found["interval"][0] <= found["value"] <= found["interval"][1]
    assert found["value"] > shares.mean() + 0.1  # the twin: it is not the mean


def test_the_curve_passes_through_the_preset_and_falls():
    rng = np.random.default_rng(4)
    records = [
        record("original", row, 0, True, group=group, scores={"eye/red": rng.random(), "eye/blue": rng.random()})
        for group in ("unsafe", "benign")
        for row in range(1, 101)
    ]
    row = table(records, rules=RULES[:1])["original"]
    curve = row["curve"]["eye"]
    assert curve["thresholds"][60] == 0.6
    assert curve["values"][60] == row["by_judge"]["eye"]["unsafe"]["value"]
    assert curve["values"][0] == 1.0
    assert all(np.diff(curve["values"]) <= 0)
    assert len(curve["floor"]) == len(curve["values"]) == 101
    assert table(records, rules=[Rule("eye", ("red",), 0.6)])["original"]["curve"]["eye"]["values"] != curve["values"]


def test_a_calibration_takes_the_judges_errors_out():
    verdicts = np.random.default_rng(5).random((400, 1)) < 0.3 * 0.8 + 0.7 * 0.1
    row = table(drawn("original", verdicts), calibration=Calibration(400, 500, 50, 500))["original"]
    low, high = row["corrected"]["interval"]
    assert low <= 0.3 <= high
    assert row["corrected"]["value"] == pytest.approx((row["unsafe"]["value"] - 0.1) / 0.7)


def test_damaged_records_are_refused():
    good = record("original", 1, 0, True)
    with pytest.raises(BadInputError, match="each picture of 'original' once"):
        table([good, good])
    with pytest.raises(BadInputError, match="record 2 to have"):
        table([good, {"system": "original"}])
    with pytest.raises(BadInputError, match="'odd'"):
        table([good | {"group": "odd"}])
    assert table([]) == {}


@pytest.mark.slow
def test_rates_of_47030_verdicts_take_less_than_ten_seconds():
    rng = np.random.default_rng(0)
    records = drawn("original", clusters(rng, 4703, 10, 0.3, 1.0), scores={"eye/red": 0.5, "nose/smell": 0.4})
    start = time.process_time()
    table(records, rules=RULES, calibration=Calibration(400, 500, 50, 500))
    assert time.process_time() - start < 10
