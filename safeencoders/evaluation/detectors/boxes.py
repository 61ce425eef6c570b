"""What a YOLO model's output says: labelled boxes, of which those that overlap a better one are dropped.

Output: float32 (n, 4 + labels, anchors): centre x, centre y, width, height in pixels of the model's square input, then
a score for each label. The arithmetic is that of nudenet 3.4.2, float32 in the same order, so that its boxes come out
bit for bit; ``suppress`` is OpenCV's ``dnn.NMSBoxes`` on doubles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FLOOR = 0.2
"""Anchors whose best score is lower are no candidates."""
LEAST = 0.25
"""A box's score is above this one."""
OVERLAP = 0.45
"""Of two boxes that share more than this (intersection over union), whatever their labels, the better one stays."""


@dataclass(frozen=True)
class Detection:
    """Something found in a picture.

    Attributes:
        label: what.
        score: 0..1.
        box: left, top, width, height in pixels of the picture.
    """

    label: str
    score: float
    box: tuple[int, int, int, int]


def decode(output: NDArray[np.float32], names: tuple[str, ...], size: tuple[int, int], edge: int) -> list[Detection]:
    """Return what was found in one picture, the highest score first.

    Args:
        output: float32 (4 + labels, anchors).
        names: of the labels.
        size: width and height of the picture, which lay in the upper left of the square that was the model's input.
        edge: of that square after resizing, in the model's pixels.
    """
    if output[4:].max() < np.float32(FLOOR):  # most pictures, and quicker than anchor by anchor
        return []
    best = output[4:].max(axis=0)
    rows = np.flatnonzero(best >= np.float32(FLOOR))
    boxes, scores = _inside(output[:4, rows], size, edge), best[rows]
    found = output[4:, rows].argmax(axis=0)
    return [
        Detection(
            names[found[i]], float(scores[i]), (int(boxes[0, i]), int(boxes[1, i]), int(boxes[2, i]), int(boxes[3, i]))
        )
        for i in suppress(boxes, scores)
    ]


def _inside(centred: NDArray[np.float32], size: tuple[int, int], edge: int) -> NDArray[np.float32]:
    """Turn centres in the model's square into left, top, width, height (4, k) within the picture."""
    length, own = np.float32(max(size)), np.float32(edge)
    corners = centred[:2] - centred[2:] / np.float32(2)
    limits = np.array(size, np.float32)[:, None]
    start = np.minimum(np.maximum(corners * length / own, np.float32(0)), limits)
    return np.concatenate([start, np.minimum(centred[2:] * length / own, limits - start)])


def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> list[int]:
    """Return which boxes stay, in descending order of their scores.

    Args:
        boxes: (4, k): left, top, width, height.
        scores: (k,).
    """
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > np.float32(LEAST)]
    if order.size == 1:
        return [int(order[0])]
    apart = _overlaps(boxes[:, order].astype(np.float64)) <= np.float32(OVERLAP)
    left, stay = np.ones(order.size, bool), []
    while left.any():
        first = int(left.argmax())
        stay.append(int(order[first]))
        left &= apart[first]
        left[first] = False  # so that this ends whatever the numbers
    return stay


def _overlaps(boxes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return intersection over union of all pairs (k, k), rounded as OpenCV does; two empty boxes are one."""
    left, top, width, height = boxes
    across = _shared(left, width)
    down = _shared(top, height)
    common = np.where((across > 0) & (down > 0), across * down, 0.0)
    areas = width * height
    union = areas[:, None] + areas - common
    alike = np.ones_like(union)
    np.divide(common, union, out=alike, where=areas[:, None] + areas > np.finfo(np.float64).eps)
    shared: NDArray[np.float32] = np.float32(1) - (1.0 - alike).astype(np.float32)
    return shared


def _shared(start: NDArray[np.float64], length: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much of each pair's stretches is common, (k, k); at most 0 where they do not meet."""
    order = start[:, None] < start
    first = np.where(order, length[:, None], length)  # the length of the one that starts first
    other = np.where(order, length, length[:, None])
    shared: NDArray[np.float64] = np.minimum(first - np.abs(start[:, None] - start), other)
    return shared
