"""The NudeNet judge: nudenet's boxes bit for bit where asked, RGB and every score where not, any kind of picture."""

import importlib
import io
import json
import os
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from safeencoders.errors import BadInputError, MissingExtraError
from safeencoders.evaluation.detectors import boxes, nudenet
from safeencoders.evaluation.detectors.nudenet import EDGE, LABELS, STRICT, NudeNet
from safeencoders.files import sha256_file

SHARED = Path(os.environ.get("SAFEENCODERS_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
PEOPLE = ("astronaut.jpg", "camera.jpg", "coco_000000000790.jpg", "coco_000000050811.jpg", "coco_000000199055.jpg")


@pytest.fixture(scope="module")
def judge():
    return NudeNet(threads=1, batch=3)


@pytest.fixture(scope="module")
def by_file():
    return NudeNet(threads=1, compat="file")


@pytest.fixture(scope="module")
def photos():
    folder = SHARED / "photos"
    if not folder.is_dir():
        pytest.skip(f"no photos at {folder}; SAFEENCODERS_SHARED_DATA says where they are")
    return folder


def noise(height=120, width=90, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- the boxes -------------------------------------------------------------------------------------------------------
def crowd(draw, whole):
    """A few boxes on a small grid, so that many overlap, touch, coincide or are empty."""
    count = draw.integers(1, 25)
    found = draw.integers(0, 6, (4, count)).astype(np.float32)
    return found if whole else found + draw.random(found.shape, dtype=np.float32) / 2


def nms_of_opencv(found, scores):
    return [int(i) for i in cv2.dnn.NMSBoxes(found.T.tolist(), scores.tolist(), boxes.LEAST, boxes.OVERLAP)]


@pytest.mark.parametrize("whole", [True, False])
def test_what_stays_is_what_opencv_keeps(whole, monkeypatch):
    draw = np.random.default_rng(0)
    cases = [crowd(draw, whole) for _ in range(1500)]
    scores = [draw.integers(1, 20, case.shape[1]).astype(np.float32) / 20 for case in cases]  # many are equal
    expected = [nms_of_opencv(*one) for one in zip(cases, scores, strict=True)]
    assert [boxes.suppress(*one) for one in zip(cases, scores, strict=True)] == expected
    monkeypatch.setattr(boxes, "OVERLAP", 0.6)  # the twin
    assert [boxes.suppress(*one) for one in zip(cases, scores, strict=True)] != expected


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (320, 320), (17, 1500)])
def test_an_output_is_read_as_nudenet_reads_it(size):
    draw = np.random.default_rng(1)
    output = draw.random((22, 400), dtype=np.float32) ** 6  # some anchors above the floor
    output[:4] = draw.random((4, 400), dtype=np.float32) * np.float32(EDGE)
    width, height = size
    edge = max(size)
    theirs = importlib.import_module("nudenet.nudenet")._postprocess(
        [output[None]], edge - width, edge - height, 1, 1, width, height, EDGE, EDGE
    )
    ours = boxes.decode(output, LABELS, size, EDGE)
    assert len(ours) > 20
    assert [(one.label, list(one.box), one.score) for one in ours] == [
        (one["class"], one["box"], one["score"]) for one in theirs
    ]
    assert boxes.decode(output * 0, LABELS, size, EDGE) == []


def test_on_files_it_is_nudenet_itself(photos, by_file):
    paths = [str(photos / name) for name in PEOPLE]
    theirs = importlib.import_module("nudenet").NudeDetector().detect_batch(paths)
    ours = by_file.detect(paths)
    assert [[(one.label, list(one.box)) for one in found] for found in ours] == [
        [(one["class"], one["box"]) for one in found] for found in theirs
    ]
    flat = [(a.score, b["score"]) for own, other in zip(ours, theirs, strict=True)
            for a, b in zip(own, other, strict=True)]  # fmt: skip
    assert len(flat) >= 8
    assert all(abs(a - b) < 1e-4 for a, b in flat)
    stored = json.loads((photos / "nudenet_detections.json").read_text())
    for name, found in zip(PEOPLE, ours, strict=True):
        assert [(one.label, list(one.box), round(one.score, 4)) for one in found] == [
            (one["class"], one["box"], one["score"]) for one in stored[name]
        ]


def test_the_two_ways_differ_in_the_order_of_colours_alone(photos, judge, by_file):
    picture = np.asarray(Image.open(photos / PEOPLE[0]))
    turned = np.ascontiguousarray(picture[..., ::-1])
    assert by_file.detect([picture]) == by_file.detect([photos / PEOPLE[0]]) == judge.detect([turned])
    assert by_file.detect([picture]) != judge.detect([picture])  # the twin: the order matters
    assert (by_file.identity()["channels"], judge.identity()["channels"]) == ("bgr", "rgb")


# --- the scores ------------------------------------------------------------------------------------------------------
def test_a_label_scores_what_its_best_anchor_says_below_nudenets_floor_too(photos, judge, by_file):
    picture = [photos / PEOPLE[2]]
    free, own = judge(picture)[0].scores, by_file(picture)[0].scores
    assert tuple(free) == tuple(own) == LABELS
    assert all(0 <= score <= 1 for score in free.values())
    assert any(0 < score < boxes.FLOOR for score in free.values())
    assert all(score == 0 or score > boxes.LEAST for score in own.values())  # the twin: on files, boxes alone count
    for one in judge.detect(picture)[0]:
        assert free[one.label] >= one.score


def test_the_five_labels_decide_at_their_threshold():
    low, high = dict.fromkeys(LABELS, 0.59), dict.fromkeys(LABELS, 0.0) | {"BUTTOCKS_EXPOSED": 0.6, "FACE_MALE": 1.0}
    assert nudenet._verdict(low).labels == ()
    assert not nudenet._verdict(low).unsafe
    verdict = nudenet._verdict(high)
    assert (verdict.unsafe, verdict.labels, verdict.score) == (True, ("BUTTOCKS_EXPOSED",), 0.6)
    assert set(STRICT) < set(LABELS)


def test_batches_change_nothing(judge):
    pictures = [noise(seed=i) for i in range(4)]
    one_by_one = [judge([picture])[0].scores for picture in pictures]
    for together, alone in zip(judge(pictures), one_by_one, strict=True):
        assert together.scores == pytest.approx(alone, abs=1e-5)
    assert judge([]) == judge.detect([]) == []


# --- the pictures ----------------------------------------------------------------------------------------------------
def test_however_a_picture_is_given_it_is_the_same(judge, tmp_path):
    pixels = noise()
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    with path.open("rb") as file:
        verdicts = judge([Image.open(path), path, str(path), data, io.BytesIO(data), file, pixels])
    for verdict in verdicts:
        assert verdict.scores == pytest.approx(verdicts[0].scores, abs=1e-5)
    other = judge([noise(seed=9)])[0]  # the twin
    assert other.scores != pytest.approx(verdicts[0].scores, abs=1e-5)


GREY = noise()[..., 0]
ODD = {
    "CMYK": Image.fromarray(noise()).convert("CMYK"),
    "16 bits": Image.fromarray(GREY.astype(np.uint16) * 257),
    "one pixel": Image.new("RGB", (1, 1), "red"),
    "palette": Image.fromarray(noise()).convert("P"),
    "grey with alpha": Image.fromarray(GREY).convert("LA"),
    "a grey array": GREY,
    "an array with alpha": np.dstack([noise(), GREY]),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_are_judged(name, judge):
    verdict = judge([ODD[name]])[0]
    assert set(verdict.scores) == set(LABELS)
    assert not verdict.unsafe


def test_of_an_animation_the_first_frame_is_judged(judge):
    frames = [Image.fromarray(noise(seed=i)).quantize(64) for i in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    expected = judge([frames[0].convert("RGB")])[0].scores
    assert judge([file.getvalue()])[0].scores == pytest.approx(expected, abs=1e-5)


def png():
    file = io.BytesIO()
    Image.fromarray(noise()).save(file, "PNG")
    return file.getvalue()


BAD = {
    "empty": (b"", "the file is empty"),
    "cut": (png()[:2000], "cannot be read, or is damaged"),
    "text": (b"no picture at all", "no picture of a known format"),
    "floats": (noise().astype(np.float32), r"float32 \(120, 90, 3\), not uint8"),
    "two channels": (noise()[..., :2], r"\(120, 90, 2\), not uint8"),
    "a strip": (np.zeros((1, 500, 3), np.uint8), "500 x 1 pixels, a strip longer than 100 : 1"),
    "nothing": (np.zeros((0, 5, 3), np.uint8), "5 x 0 pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_refused_with_the_reason(name, judge):
    given, message = BAD[name]
    with pytest.raises(BadInputError, match=message):
        judge([given])


def test_a_file_that_is_not_there_is_refused_in_both_ways(judge, by_file, tmp_path):
    for one in (judge, by_file):
        with pytest.raises(BadInputError, match=r"none\.png: there is no such file"):
            one([tmp_path / "none.png"])


def square(judge, picture):
    found = np.zeros((3, EDGE, EDGE), np.float32)
    judge._fill(found, picture)
    return found


SIZES = [(480, 640), (427, 640), (640, 427), (512, 512), (1024, 1024), (500, 333), (333, 500), (319, 100), (320, 200),
         (321, 200), (7, 640), (1, 1), (31, 33), (768, 1000), (641, 640), (97, 4001)]  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_the_model_gets_what_nudenet_gives_it(size, judge, by_file):
    picture = noise(*size)
    read = importlib.import_module("nudenet.nudenet")._read_image
    assert np.array_equal(square(judge, picture), read(picture)[0][0])
    turned = np.ascontiguousarray(picture[..., ::-1])
    assert np.array_equal(square(by_file, by_file._read(picture)), read(turned)[0][0])
    assert not np.array_equal(square(judge, picture), read(noise(*size, seed=1))[0][0])  # the twin


def test_a_very_long_picture_is_shrunk_before_it_is_padded(judge, monkeypatch):
    picture = noise(40, 400)
    expected = square(judge, picture)
    monkeypatch.setattr(nudenet, "_LONGEST", 320)
    found = square(judge, picture)
    assert not found[:, 33:].any()  # all below 32 of 320 rows is padding
    assert abs(found - expected)[:, :31].mean() < 0.1


# --- the model -------------------------------------------------------------------------------------------------------
def test_it_says_which_model_it_is(judge):
    found = judge.identity()
    assert found["sha256"] == sha256_file(nudenet.model_file())
    assert found["version"] == f"nudenet {version('nudenet')} 320n.onnx"
    assert "AGPL-3.0" in found["licence"]
    assert found["providers"] == ["CPUExecutionProvider"]
    json.dumps(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"providers": ["NoProvider"]}, r"this onnxruntime has \(.*CPUExecutionProvider.*\), got NoProvider"),
        ({"providers": []}, "got none"),
        ({"threads": 0}, "at least 1, got 8 and 0"),
        ({"batch": 0}, "at least 1, got 0 and None"),
        ({"compat": "files"}, "None or 'file', got 'files'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(BadInputError, match=message):
        NudeNet(**options)


@pytest.mark.parametrize(("environment", "asked", "got"), [("1", None, 1), ("1", 2, 2), ("all", None, 0)])
def test_a_worker_of_one_thread_stays_one_thread(environment, asked, got, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", environment)
    assert NudeNet(threads=asked)._session.get_session_options().intra_op_num_threads == got


def test_without_nudenet_or_its_model_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(nudenet, "_MODEL", "none.onnx")
    with pytest.raises(MissingExtraError, match="'nudenet'"):
        NudeNet()

    def absent(name):
        raise nudenet.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(nudenet.metadata, "distribution", absent)
    with pytest.raises(MissingExtraError, match=r"'nudenet'.*safeencoders\[eval\]"):
        NudeNet()


def test_without_a_package_it_needs_the_extra_is_named(monkeypatch):
    def absent(_):
        raise ImportError

    monkeypatch.setattr(nudenet, "import_module", absent)
    with pytest.raises(MissingExtraError, match=r"opencv-python-headless.*\[eval\]"):
        NudeNet()
