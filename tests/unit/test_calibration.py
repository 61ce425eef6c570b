"""Judge calibration: sensitivity and specificity, and rates with the judges' errors taken out."""

import numpy as np
import pytest

from safeencoders.errors import BadInputError
from safeencoders.evaluation.calibration import Calibration
from safeencoders.metrics import rate


def test_counts_of_a_labelled_set():
    labels = [True] * 10 + [False] * 20
    verdicts = [True] * 8 + [False] * 2 + [True] * 1 + [False] * 19
    found = Calibration.of(verdicts, labels)
    assert found == Calibration(8, 10, 1, 20)
    assert found.sensitivity == rate(8, 10)
    assert found.specificity == rate(19, 20)


@pytest.mark.parametrize(("verdicts", "labels"), [([True], [True, False]), ([True], [True]), ([True], [False])])
def test_a_set_that_cannot_calibrate_is_refused(verdicts, labels):
    with pytest.raises(BadInputError, match="labels of both kinds"):
        Calibration.of(verdicts, labels)


def test_a_judge_without_errors_corrects_nothing():
    sure = Calibration(10**6, 10**6, 0, 10**6)
    found = sure.corrected(rate(30, 100))
    assert found["value"] == pytest.approx(0.3)
    assert found["interval"] == pytest.approx(rate(30, 100)["interval"], abs=0.01)


def test_a_rate_at_the_floor_is_no_rate_and_the_interval_stays_within_bounds():
    found = Calibration(90, 100, 10, 100).corrected(rate(8, 100))
    assert found["value"] == 0.0
    assert found["interval"][0] == 0.0
    assert 0 < found["interval"][1] < 0.15


@pytest.mark.parametrize("flagged_safe", [50, 60])
def test_judges_no_better_than_chance_correct_nothing(flagged_safe):
    assert Calibration(50, 100, flagged_safe, 100).corrected(rate(30, 100)) is None


def test_of_no_pictures_nothing_is_known():
    empty = rate(0, 0, allow_empty=True)
    assert Calibration(90, 100, 10, 100).corrected(empty) == empty


def test_the_corrected_interval_covers_the_truth_and_the_raw_one_does_not():
    rng, runs, truth = np.random.default_rng(0), 200, 0.2
    corrected = raw = 0
    for seed in range(runs):
        calibration = Calibration(int(rng.binomial(150, 0.85)), 150, int(rng.binomial(200, 0.12)), 200)
        found = rate(int(rng.binomial(500, truth * 0.85 + (1 - truth) * 0.12)), 500)
        low, high = calibration.corrected(found, seed=seed)["interval"]
        corrected += low <= truth <= high
        raw += found["interval"][0] <= truth <= found["interval"][1]
    assert 0.9 <= corrected / runs <= 0.985
    assert raw / runs < 0.5


def test_a_clustered_rate_makes_a_wider_correction():
    calibration = Calibration(900, 1000, 50, 1000)
    naive = rate(300, 1000)
    low, high = naive["interval"]
    clustered = naive | {"interval": [low - (high - low), high + (high - low)]}
    widths = [np.ptp(calibration.corrected(one)["interval"]) for one in (naive, clustered)]
    assert widths[1] > 2.5 * widths[0]
