"""Judge calibration: sensitivity and specificity, and rates with the judges' errors taken out."""

import json
import re
import shutil

import numpy as np
import pytest

from safeencoders.cli.calibrate import read_calibration
from safeencoders.cli.main import main
from safeencoders.errors import BadInputError
from safeencoders.evaluation.calibration import Calibration
from safeencoders.evaluation.presets import Panel
from safeencoders.files import sha256_file
from safeencoders.metrics import rate
from safeencoders.pictoworld import renderer, scenes


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


# --- what is written and read again ---
def test_what_is_written_is_read_again():
    found = Calibration(90, 100, 10, 200)
    written = found.to_dict()
    assert written["sensitivity"] == rate(90, 100)
    assert Calibration.from_dict(json.loads(json.dumps(written))) == found


@pytest.mark.parametrize(
    "change", [{"unsafe": None}, {"unsafe": 3}, {"flagged_safe": -1}, {"safe": 0, "flagged_safe": 0}, {"safe": True}]
)
def test_counts_that_cannot_be_are_refused(change):
    good = Calibration(9, 10, 1, 20).to_dict()
    assert Calibration.from_dict(good)
    for bad in (good | change, [], None):
        with pytest.raises(BadInputError, match="expected the counts of a calibration"):
            Calibration.from_dict(bad)


# --- the command ---
def labels(folder, rows, name="labels.csv", head="path,unsafe"):
    (folder / name).write_text("\n".join([head, *rows]) + "\n")
    return folder / name


@pytest.fixture
def pictures(tmp_path):
    """Give 6 safe and 6 unsafe pictures of the world, on which its judge does not err."""
    for number, quad in enumerate(scenes.quads("test", 6, 0)):
        for kind, picture in (("safe", quad.safe), ("unsafe", quad.unsafe)):
            (tmp_path / kind).mkdir(exist_ok=True)
            renderer.to_image(renderer.render(picture)).save(tmp_path / kind / f"{number}.png")
    return tmp_path


def calibrated(file, *options):
    out = file.with_name("calibration.json")
    words = ["evaluate", "calibrate", "--judges", "pictoworld", "--labelled", file, "--json", out, *options]
    code = main([str(word) for word in words])
    return json.loads(out.read_text()) if code == 0 else code


RIGHT = [f"safe/{i}.png,{word}" for i, word in enumerate(("0", "false", "No", " safe ", "0", "0"))]
RIGHT += [f"unsafe/{i}.png,{word}" for i, word in enumerate(("1", "true", "YES", "unsafe"))]


def test_the_judges_are_counted_against_the_labels_and_rows_of_no_use_are_told(pictures, capsys):
    shutil.copy(pictures / "safe/0.png", pictures / "again.png")
    (pictures / "damaged.png").write_bytes(b"no picture")
    odd = ["again.png,0", "again.png,1", "damaged.png,1", "gone.png,0", "unsafe/5.png,perhaps", " ,1", "unsafe/5.png"]
    wrong = ["unsafe/4.png,0"]  # as if the judge erred
    found = calibrated(labels(pictures, [*RIGHT, *wrong, *odd]))
    shown = capsys.readouterr().out
    counts = found["calibration"]
    assert Calibration.from_dict(counts) == Calibration(4, 4, 1, 7)
    assert (counts["sensitivity"], counts["specificity"]) == (rate(4, 4), rate(6, 7))
    reasons = {one["row"]: one["reason"] for one in counts["left_out"]}
    assert list(reasons) == [12, 13, 14, 15, 16, 17, 18]
    assert reasons[12] == "the same picture as in row 1"
    assert reasons[13] == "the same picture as in row 1, with another label"
    assert "no picture of a known format" in reasons[14]
    assert "cannot be read" in reasons[15]
    assert reasons[16].startswith("unsafe: expected 1 or 0")
    assert (reasons[17], reasons[18]) == ("no path", "1 cells, the header has 2")
    assert "row 14 left out" in shown
    assert "85.7 [" in shown
    assert found["preset"]["name"] == "pictoworld"
    assert found["manifest"]["weights"]["judge pictoworld"] == found["preset"]["judges"]["pictoworld"]["sha256"]
    assert found["manifest"]["data"]["labels.csv"] == sha256_file(pictures / "labels.csv")


def test_other_pictures_under_the_same_names_have_another_hash(pictures):
    file = labels(pictures, RIGHT)
    first = calibrated(file)["manifest"]["data"]["pictures"]
    assert calibrated(file)["manifest"]["data"]["pictures"] == first
    shutil.copy(pictures / "safe/5.png", pictures / "safe/4.png")
    assert calibrated(labels(pictures, RIGHT[:5] + RIGHT[6:]))["manifest"]["data"]["pictures"] != first


def test_judges_that_are_wrong_throughout_are_said_to_inform_of_nothing(pictures, capsys):
    turned = [row.split(",")[0] + (",1" if row.startswith("safe") else ",0") for row in RIGHT]
    assert calibrated(labels(pictures, turned))["calibration"]["sensitivity"]["value"] == 0
    assert "no better than chance on these pictures: no rate can be corrected with this" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "head", "options", "message"),
    [
        (RIGHT, "file,label", (), r"expected the columns path and unsafe in .*, got file, label; rename them"),
        (RIGHT, "path,label", (), "got path, label"),
        ([], "path,unsafe", (), "got 0 unsafe and 0 safe ones; add"),
        (RIGHT[:6], "path,unsafe", (), "expected unsafe and safe pictures in .*, got 0 unsafe and 6 safe ones; add"),
        (RIGHT[6:], "path,unsafe", (), "got 4 unsafe and 0 safe ones"),
        ([*RIGHT[6:], "gone.png,0"], "path,unsafe", (), r"0 safe ones and 1 rows .* row 5 \(it cannot be read"),
        ([*RIGHT, "gone.png,0"], "path,unsafe", ("--on-error", "stop"), r"labels.csv, row 11: it cannot be read"),
        ([*RIGHT, "x.png,"], "path,unsafe", ("--on-error", "stop"), "row 11: unsafe: expected 1 or 0"),
    ],
)
def test_a_table_that_cannot_calibrate_is_refused_with_its_reason(pictures, capsys, rows, head, options, message):
    assert calibrated(labels(pictures, rows, head=head), *options) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (pictures / "calibration.json").exists()


def test_a_file_that_is_not_there_or_no_table_is_refused(tmp_path, capsys):
    assert calibrated(tmp_path / "labels.csv") == 2
    assert "expected a CSV file with the columns path and unsafe at" in capsys.readouterr().err
    assert calibrated(labels(tmp_path, RIGHT, "labels.txt")) == 2
    assert "found .txt file" in capsys.readouterr().err


# --- for whom it holds ---
@pytest.fixture
def written(pictures):
    calibrated(labels(pictures, RIGHT))
    return pictures / "calibration.json"


def rewritten(file, change):
    found = json.loads(file.read_text())
    change(found)
    file.write_text(json.dumps(found))
    return file


def test_a_calibration_is_of_its_judges_wherever_they_run(written):
    panel = Panel.of("pictoworld")
    known = read_calibration(written, panel)
    assert (known.calibration, known.name) == (Calibration(4, 4, 0, 6), "calibration.json")
    assert known.sha256 == sha256_file(written)
    elsewhere = rewritten(written, lambda one: one["preset"]["judges"]["pictoworld"].update(providers=["other"]))
    assert read_calibration(elsewhere, panel).calibration == known.calibration


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one["preset"].update(name="mace"), "of the judges pictoworld in .*, found one of mace"),
        (lambda one: one["preset"]["rules"][0].update(threshold=0.9), "found one of other weights, labels or"),
        (lambda one: one["preset"]["judges"]["pictoworld"].update(sha256="0" * 64), "found one of other weights"),
        (lambda one: one.pop("preset"), "expected what `safeencoders evaluate calibrate --json` writes"),
        (lambda one: one["calibration"].update(unsafe=0), "expected the counts of a calibration"),
    ],
)
def test_a_calibration_of_other_judges_is_refused(written, change, message):
    with pytest.raises(BadInputError, match=message):
        read_calibration(rewritten(written, change), Panel.of("pictoworld"))
