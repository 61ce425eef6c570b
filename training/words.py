"""Word alignment of an unsafe caption with its safe twin.

A UNet reads every token's state, so redirection must say for each token of the unsafe caption which token of
the safe one it should look like: a word in both keeps its place, a replaced one takes its replacement's, an
added one repeats the word before it, and from the end token on both captions are alike.
"""

from __future__ import annotations

from difflib import SequenceMatcher

import torch
from torch import Tensor


def align_tokens(source: list[int], target: list[int]) -> list[int]:
    """Return, for each token of ``source``, the position in ``target`` that stands for it.

    Args:
        source: token ids of the unsafe caption, start and end token included, without padding.
        target: token ids of the safe caption, likewise.
    """
    places = [0] * len(source)
    for tag, a, b, c, d in SequenceMatcher(None, source, target, autojunk=False).get_opcodes():
        for i in range(a, b):
            if tag == "equal":
                places[i] = c + i - a
            elif tag == "replace":
                places[i] = min(c + i - a, d - 1)
            else:
                places[i] = max(c - 1, 0)
    return places


def shift_positions(places: list[int]) -> list[int]:
    """Return the position at which each token of the target is to be read, so that aligned tokens share theirs.

    Args:
        places: for each token of the source (padding included) the token of the target, as ``align_batch`` gives.
    """
    shifted: list[int] = []
    for token in range(len(places)):
        before = shifted[-1] if shifted else 0
        found = places.index(token) if token in places else before
        shifted.append(max(before, found))
    return shifted


def align_batch(source: Tensor, target: Tensor, end: int) -> Tensor:
    """Align every row of two batches of padded token ids.

    Args:
        source: int64 (n, tokens), padded with the end token.
        target: int64 (n, tokens), likewise.
        end: id of the end token.

    Returns:
        int64 (n, tokens): positions in the target's rows; padding is aligned with padding.
    """
    width = source.shape[1]
    rows = []
    for a, b in zip(source.tolist(), target.tolist(), strict=True):
        first, second = a.index(end) + 1, b.index(end) + 1
        places = align_tokens(a[:first], b[:second])
        rows.append(places + [min(second + k, width - 1) for k in range(width - first)])
    return torch.tensor(rows)
