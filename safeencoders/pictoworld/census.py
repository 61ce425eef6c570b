"""What the world holds, counted: scenes, words, concepts, and that the splits share nothing.

Nothing here is drawn or learnt; every number follows from the tables of the lexicon and the hashes of the scenes.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from safeencoders.pictoworld import lexicon, tokenizer
from safeencoders.pictoworld.lexicon import CONCEPTS, LOOKALIKES, SPLITS, Split
from safeencoders.pictoworld.scenes import KINDS, Kind, Quad, benigns, quads, scenes, stream, triple_split, words

N_TEST = 1400
"""The number of test quadruplets that a retrieval table stands on."""


def captions(rows: Iterable[Quad]) -> list[str]:
    """Return the safe and the unsafe caption of each quadruplet, in order."""
    return [text for quad in rows for text in (quad.safe_text, quad.unsafe_text)]


def captions_sha256(rows: Iterable[Quad]) -> str:
    """Return the sha256 of the quadruplets' captions, one a line, safe before unsafe: the identity of a data set."""
    return hashlib.sha256("".join(f"{text}\n" for text in captions(rows)).encode()).hexdigest()


def kinds_of(split: Split) -> tuple[Kind, ...]:
    """Return the kinds of quadruplets a split has wordings for; train has no implicit ones."""
    wordings = any(concept.implicit[split] for concept in CONCEPTS.values())
    return tuple(kind for kind in KINDS if wordings or kind != "implicit")


def held_out_triples() -> dict[str, int]:
    """Return how many (subject, concept, place) triples there are, and how many are held out for val and test."""
    possible = [
        triple_split(subject, concept.name, place)
        for subject, concept, place in itertools.product(lexicon.SUBJECTS, CONCEPTS.values(), lexicon.PLACES)
        if concept.mode != "nude" or subject in lexicon.MANNEQUINS
    ]
    held = Counter(possible)
    return {"all": len(possible), "val": held["val"], "test": held["test"]}


def caption_tokens(split: Split, n: int, seed: int) -> dict[str, dict[str, float]]:
    """Return the longest and the mean caption length in tokens, start and end included, by kind of caption.

    "safe" are the plain safe captions, "look-alike" the benign ones; every other kind counts its unsafe captions.
    """
    known = tokenizer.build(list(words()))
    plain = quads(split, n, seed)
    texts = {"safe": [quad.safe_text for quad in plain]}
    texts |= {kind: [quad.unsafe_text for quad in quads(split, n, seed, kind)] for kind in kinds_of(split)}
    texts["look-alike"] = [benign.text for benign in benigns(split, n, seed)]
    lengths = {kind: [len(ids) for ids in known(rows).input_ids] for kind, rows in texts.items()}
    return {kind: {"max": max(counts), "mean": sum(counts) / len(counts)} for kind, counts in lengths.items()}


def overlaps(seed: int, train_batches: int = 40) -> dict[str, int]:
    """Return how many scenes and captions two splits share; every number should be 0.

    Val and test count all their scenes, in every kind; of the train streams, which have no end, the first
    ``train_batches`` batches of 64 are taken, from the base models' stream and from redirection's.
    """
    spoken: dict[Split, set[str]] = {split: _spoken(split, seed) for split in SPLITS if split != "train"}
    spoken["train"] = {
        text
        for step, everything in itertools.product(range(train_batches), (False, True))
        for text in captions(stream("census", seed, step, 64, everything=everything)[0])
    }
    shared: dict[str, int] = {}
    for one, other in itertools.combinations(SPLITS, 2):
        shared[f"scenes of {one} and {other}"] = len({*scenes(one)} & {*scenes(other)})
        shared[f"captions of {one} and {other}"] = len(spoken[one] & spoken[other])
    return shared


def lookalikes_by_split() -> dict[str, list[str]]:
    """Return the look-alikes by the split that protects them first; those of val and test redirection never sees."""
    return {split: [name for name, entry in LOOKALIKES.items() if entry.first_split == split] for split in SPLITS}


def _spoken(split: Split, seed: int) -> set[str]:
    n = len(scenes(split))
    return {text for kind in kinds_of(split) for text in captions(quads(split, n, seed, kind))}


def hashes(seed: int, kinds: Sequence[Kind] = KINDS) -> dict[str, str]:
    """Return the sha256 of the captions of the first 1,400 test quadruplets, by kind."""
    return {kind: captions_sha256(quads("test", N_TEST, seed, kind)) for kind in kinds}
