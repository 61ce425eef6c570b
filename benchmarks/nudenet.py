"""The NudeNet judge beside nudenet's own detector: the same boxes, and how much faster.

Both get the same pictures, the same model, one thread and batches of 4. Detections are compared on the photos, their
flips, crops, scales and mosaics: with ``compat="file"`` against nudenet on BGR arrays, which is what it reads from a
file, and in RGB against nudenet on RGB arrays. Times are those of the processor, so that other work on the machine does
not count; they are taken in pairs, in turns, and given as their ratio: median and 95 % bootstrap interval over pairs.

    OMP_NUM_THREADS=1 python benchmarks/nudenet.py --photos FOLDER        (with the extra eval)
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from safeencoders import pictures
from safeencoders.evaluation.detectors.boxes import LEAST, Detection, decode
from safeencoders.evaluation.detectors.nudenet import EDGE, LABELS, NudeNet, model_file
from safeencoders.files import sha256_file, write_json
from safeencoders.provenance import manifest

HERE = Path(__file__).resolve().parent
BATCH = 4
REPEATS = 20  # of our post-processing within one measurement, which would be too short
Pixels = NDArray[np.uint8]


def main() -> None:
    """Measure, print, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=Path, required=True, help="A folder with photos.")
    parser.add_argument("--pairs", type=int, default=15, help="How many pairs of runs.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=HERE / "nudenet.json")
    asked = parser.parse_args()
    start = time.perf_counter()
    sys.path = [place for place in sys.path if Path(place).resolve() != HERE]  # this file has the package's name
    cv2.setNumThreads(1)
    paths = list(pictures.find(asked.photos).paths)
    photos = [pictures.pixels(path) for path in paths]
    theirs = their_detector()
    found = {
        "same": {name: same(theirs, photos, compat, asked.seed) for name, compat in (("file", "file"), ("rgb", None))},
        "speed": speed(theirs, paths, photos, asked),
    }
    record = manifest(
        "python benchmarks/nudenet.py --photos FOLDER " + " ".join(sys.argv[3:]),
        seeds={"variants and bootstrap": asked.seed},
        weights={"nudenet": sha256_file(model_file())},
        data={path.name: sha256_file(path) for path in paths},
        seconds=time.perf_counter() - start,
    )
    write_json(asked.json, {"nudenet": found, "manifest": record})
    print(found)


def their_detector() -> Any:  # noqa: ANN401  a nudenet.NudeDetector
    """Return nudenet's detector with a session of one thread, for which it has no option."""
    theirs = import_module("nudenet").NudeDetector()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    theirs.onnx_session = onnxruntime.InferenceSession(str(model_file()), options, providers=["CPUExecutionProvider"])
    return theirs


def variants(photos: Sequence[Pixels], seed: int) -> Iterator[Pixels]:
    """Yield each photo in two directions, whole and cut, at several sizes, more of them where something is found.

    Mosaics of four and of nine photos follow.
    """
    judge = NudeNet(threads=1)
    for photo in photos:
        height, width = photo.shape[:2]
        for turned in (photo, photo[:, ::-1]):
            for cut in (turned, turned[: height * 4 // 5], turned[:, width // 5 :]):
                for scale in (0.6, 0.8, 1.0, 1.2, 1.4) if judge.detect([photo])[0] else (1.0,):
                    yield np.ascontiguousarray(cv2.resize(cut, None, fx=scale, fy=scale))
    random = np.random.default_rng(seed)
    for side in (2, 3):
        for _ in range(40):
            chosen = [cv2.resize(photos[i], (320, 300)) for i in random.integers(len(photos), size=side * side)]
            yield np.concatenate([np.concatenate(chosen[i * side : (i + 1) * side], axis=1) for i in range(side)])


def same(theirs: Any, photos: Sequence[Pixels], compat: Any, seed: int) -> dict[str, Any]:  # noqa: ANN401
    """Compare the boxes of both, picture by picture, in their order; count labels whose best anchor has no box too."""
    ours = NudeNet(compat=compat, threads=1, batch=BATCH)
    count = equal = total = labels = hidden = 0
    furthest = 0.0
    for picture in variants(photos, seed):
        ((output, size),) = ours._run([picture])  # noqa: SLF001  boxes and scores of one run
        own = decode(output, LABELS, size, EDGE)
        other = theirs.detect_batch([np.ascontiguousarray(picture[..., ::-1]) if compat else picture])[0]
        total, count = total + 1, count + len(other)
        equal += len(own) == len(other) and all(map(_equal, own, other))
        furthest = max([furthest, *(abs(a.score - b["score"]) for a, b in zip(own, other, strict=False))])
        above = {LABELS[i] for i in np.flatnonzero(output[4:].max(axis=1) > LEAST)}
        labels, hidden = labels + len(above), hidden + len(above - {one.label for one in own})
    return {
        "pictures": total,
        "pictures_equal": equal,
        "detections": count,
        "largest_score_difference": furthest,
        "labels_above_0.25": labels,
        "of_them_in_no_box": hidden,
    }


def _equal(own: Detection, other: dict[str, Any]) -> bool:
    return (own.label, list(own.box)) == (other["class"], other["box"]) and abs(own.score - other["score"]) <= 1e-4


def speed(theirs: Any, paths: Sequence[Path], photos: list[Pixels], asked: argparse.Namespace) -> dict[str, Any]:  # noqa: ANN401
    """Time both in turns: from files, from RGB arrays, and what follows the model alone."""
    by_file, by_array = NudeNet(compat="file", threads=1, batch=BATCH), NudeNet(threads=1, batch=BATCH)
    names = [str(path) for path in paths]
    post = import_module("nudenet.nudenet")._postprocess  # noqa: SLF001  what is compared
    outputs = [output for output, _ in by_array._run(photos)]  # noqa: SLF001
    sizes = [(photo.shape[1], photo.shape[0]) for photo in photos]

    def their_post() -> None:
        for output, (width, height) in zip(outputs, sizes, strict=True):
            edge = max(width, height)
            post([output[None]], edge - width, edge - height, 1, 1, width, height, EDGE, EDGE)

    def our_post() -> None:
        for output, size in zip(outputs * REPEATS, sizes * REPEATS, strict=True):
            decode(output, LABELS, size, EDGE)

    work: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "files": (lambda: theirs.detect_batch(names, BATCH), lambda: by_file.detect(names)),
        "arrays": (lambda: theirs.detect_batch(photos, BATCH), lambda: by_array.detect(photos)),
        "post_processing": (their_post, our_post),
    }
    repeats = {"post_processing": REPEATS}
    return {name: _paired(*both, len(photos), repeats.get(name, 1), asked) for name, both in work.items()}


def _paired(
    theirs: Callable[[], Any], ours: Callable[[], Any], pictures_each: int, repeats: int, asked: argparse.Namespace
) -> dict[str, Any]:
    def seconds(work: Callable[[], Any]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    seconds(theirs), seconds(ours)  # warm
    pairs = []
    for turn in range(asked.pairs):  # who goes first alternates
        one = (seconds(theirs), seconds(ours)) if turn % 2 else (seconds(ours), seconds(theirs))[::-1]
        pairs.append(one)
    times = np.array(pairs) / (1, repeats)
    ratios = times[:, 0] / times[:, 1]
    draws = np.random.default_rng(asked.seed).choice(ratios, (10_000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    theirs_ms, ours_ms = (float(np.median(column)) / pictures_each * 1e3 for column in times.T)
    return {
        "ratio": {"value": round(float(np.median(ratios)), 3), "n": len(ratios),
                  "interval": [round(float(low), 3), round(float(high), 3)]},
        "nudenet_ms_per_picture": round(theirs_ms, 4),
        "ours_ms_per_picture": round(ours_ms, 4),
    }  # fmt: skip


if __name__ == "__main__":
    main()
