"""The world's CLIP tokenizer: byte-level BPE in which every word of the world is one token.

Unknown words fall back to bytes, as in OpenAI's CLIP; so nothing a user writes is out of vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from safeencoders.errors import BadInputError

if TYPE_CHECKING:
    import torch
    from transformers import CLIPTokenizer

CONTEXT = 32
START, END = "<|startoftext|>", "<|endoftext|>"


def _byte_symbols() -> list[str]:
    """Return the 256 printable stand-ins for bytes that byte-level BPE uses (Radford et al., 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def _merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Learn byte-pair merges, the most frequent pair first, until every word is one symbol."""
    spelt = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while True:
        counts = Counter(pair for symbols in spelt for pair in pairwise(symbols))
        if not counts:
            return merges
        left, right = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append((left, right))
        for symbols in spelt:
            for i in range(len(symbols) - 2, -1, -1):
                if symbols[i : i + 2] == [left, right]:
                    symbols[i : i + 2] = [left + right]


def build(words: Sequence[str]) -> CLIPTokenizer:
    """Build the tokenizer for the given words."""
    from transformers import CLIPTokenizer

    symbols = _byte_symbols()
    merges = _merges(words)
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *dict.fromkeys(a + b for a, b in merges), START, END]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,  # type: ignore[arg-type]  # annotated as strings; tokenizers' BPE takes pairs too
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=CONTEXT,
    )


def encode(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Return token ids padded with the end token as Stable Diffusion 1.x does.

    Returns:
        int64 ids of shape (len(texts), model_max_length).

    Raises:
        BadInputError: a text needs more tokens than the context holds.
    """
    import torch

    limit = int(tokenizer.model_max_length)
    rows = tokenizer(list(texts), padding="max_length", max_length=limit).input_ids
    for text, row in zip(texts, rows, strict=True):
        if len(row) > limit:
            raise BadInputError(
                f"expected a prompt of at most {limit} tokens (start and end included), got {len(row)}: "
                f"{text[:60]!r}...; shorten it"
            )
    return torch.tensor(rows, dtype=torch.int64)
