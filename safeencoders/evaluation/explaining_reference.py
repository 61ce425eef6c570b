"""What an explanation is measured against: the world's captions as two towers read them.

``x0`` is a state of the ORIGINAL tower, ``x`` of the safe one, both after the final layer norm; the *end state* is the
one at the end token, which CLIP pools. A prompt's *shift* is |x - x0| / |x0| at the end state: 0 is untouched, two
unrelated states are about 1.4 apart. Padding is cut off, which changes nothing: CLIP's text tower is causal.

Everything is drawn from the world with fixed seeds: the bank, the categories and their scale from train and val, the
rule's threshold from val. Nothing here has seen the test split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from safeencoders.errors import BadInputError
from safeencoders.metrics import Rate, rate
from safeencoders.pictoworld import lexicon
from safeencoders.pictoworld import tokenizer as world_tokenizer
from safeencoders.pictoworld.lexicon import Split
from safeencoders.pictoworld.scenes import Kind, benigns, quads

NONE = "none"
CATEGORIES = (*lexicon.CATEGORIES, NONE)
BATCH = 200
RIDGE = 1e-3
TEMPERATURES = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)

TRAIN: Mapping[Kind, int] = {"plain": 1000, "concept": 400, "long": 400}
VAL: Mapping[Kind, int] = {"plain": 300, "synonym": 100, "implicit": 100, "long": 100}
LOOKALIKES: Mapping[Split, int] = {"train": 300, "val": 60, "test": 0}


class Case(NamedTuple):
    """A caption of the world; ``label`` is its concept, its type of look-alike, or "none" for a plain safe one."""

    text: str
    label: str
    category: str


def cases(split: Split, sizes: Mapping[Kind, int]) -> list[Case]:
    """Return unsafe captions of each kind, the safe twins of those that say them their own way, and look-alikes."""
    found = []
    for kind, n in sizes.items():
        drawn = quads(split, n, 0, kind)
        found += [Case(quad.unsafe_text, quad.concept.name, quad.concept.category) for quad in drawn]
        if kind in {"plain", "long"}:
            found += [Case(quad.safe_text, NONE, NONE) for quad in drawn]
    benign = benigns(split, LOOKALIKES[split], 0)
    return found + [Case(one.text, str(one.picture.lookalike), NONE) for one in benign]


@torch.no_grad()
def states(tower: Any, ids: Tensor) -> Tensor:  # noqa: ANN401  a CLIP text tower with or without projection
    """Read token ids (n, tokens); return the states (n, tokens, width) in float32 on the CPU."""
    found: Tensor = tower(input_ids=ids.to(tower.device)).last_hidden_state
    return found.float().cpu()


def ends_of(ids: Tensor, end: int) -> Tensor:
    """Return the position (n,) of the first end token in each row of ids (n, tokens)."""
    return (ids == end).int().argmax(dim=1)


def at_ends(found: Tensor, ends: Tensor) -> Tensor:
    """Return the end states (n, width) of states (n, tokens, width)."""
    chosen: Tensor = found[torch.arange(len(found)), ends]
    return chosen


def _batches(tokenizer: Any, texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:  # noqa: ANN401
    for start in range(0, len(texts), BATCH):
        ids = world_tokenizer.encode(tokenizer, texts[start : start + BATCH])
        ends = ends_of(ids, tokenizer.eos_token_id)
        yield ids[:, : int(ends.max()) + 1], ends


def end_states(tower: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:  # noqa: ANN401
    """Return the end states (n, width) of texts."""
    return torch.cat([at_ends(states(tower, ids), ends) for ids, ends in _batches(tokenizer, texts)])


def summaries(tower: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:  # noqa: ANN401
    """Return (n, 4 * width): the end state first, then mean, maximum and minimum over the tokens before it."""
    return torch.cat([summary(states(tower, ids), ends) for ids, ends in _batches(tokenizer, texts)])


def summary(found: Tensor, ends: Tensor) -> Tensor:
    """Summarise states (n, tokens, width) as `summaries` does; each row has a token between start and end."""
    places = torch.arange(found.shape[1])
    inside = ((places > 0) & (places < ends[:, None]))[..., None]
    mean = (found * inside).sum(1) / inside.sum(1)
    high, low = (sign * (sign * found).masked_fill(~inside, -torch.inf).amax(1) for sign in (1, -1))
    return torch.cat([at_ends(found, ends), mean, high, low], dim=1)


def shifts(safe: Tensor, original: Tensor) -> Tensor:
    """Return |x - x0| / |x0| over the last dimension."""
    share: Tensor = (safe - original).norm(dim=-1) / original.norm(dim=-1)
    return share


@dataclass(frozen=True)
class Probe:
    """Linear discriminants for the world's concepts and look-alikes, summed into categories.

    One class per label, equal priors, one covariance: logits are linear in the summary of the ORIGINAL tower's states.
    """

    weight: Tensor
    bias: Tensor
    into: Tensor

    @classmethod
    def fit(cls, features: Tensor, labelled: Sequence[Case]) -> Probe:
        """Fit the classes' means (each in units of the spread within classes) and their shared covariance."""
        names = {case.label: case.category for case in labelled}
        index = torch.tensor([list(names).index(case.label) for case in labelled])
        x = features.double()
        means = torch.stack([x[index == i].mean(dim=0) for i in range(len(names))])
        within = x - means[index]
        scale = within.std(dim=0).clamp_min(1e-9)
        within, scaled = within / scale, means / scale
        covariance = within.T @ within / len(x) + RIDGE * torch.eye(x.shape[1], dtype=x.dtype)
        weight = torch.linalg.solve(covariance, scaled.T)
        into = functional.one_hot(torch.tensor([CATEGORIES.index(name) for name in names.values()]), len(CATEGORIES))
        return cls(weight / scale[:, None], -(scaled * weight.T).sum(dim=1) / 2, into.double())

    def calibrated(self, features: Tensor, labelled: Sequence[Case]) -> Probe:
        """Return the probe with its logits scaled so that held-out captions are most likely."""
        wanted = torch.tensor([CATEGORIES.index(case.category) for case in labelled])

        def likelihood(factor: float) -> float:
            scores = Probe(self.weight * factor, self.bias * factor, self.into)(features)
            return float(scores[torch.arange(len(wanted)), wanted].clamp_min(1e-12).log().mean())

        best = max(TEMPERATURES, key=likelihood)
        return Probe(self.weight * best, self.bias * best, self.into)

    def __call__(self, features: Tensor) -> Tensor:
        """Return the scores (n, 8) of `CATEGORIES` for summaries (n, 4 * width); each row sums to 1."""
        logits = features.double() @ self.weight + self.bias
        return logits.softmax(dim=1) @ self.into


@dataclass(frozen=True)
class Rule:
    """A prompt counts as redirected when its shift is above the threshold.

    Attributes:
        threshold: chosen on val so that most unsafe captions are above and most safe ones are not.
        unsafe, safe: the share of val's unsafe and safe captions above it.
    """

    threshold: float
    unsafe: Rate
    safe: Rate

    @classmethod
    def fit(cls, unsafe: Tensor, safe: Tensor) -> Rule:
        """Choose the threshold, midway between two neighbouring shifts, with the largest difference of the shares."""
        values = sorted({*unsafe.tolist(), *safe.tolist()})
        middles = [(low + high) / 2 for low, high in pairwise(values)] + values[-1:]
        best = max(middles, key=lambda t: float((unsafe > t).double().mean() - (safe > t).double().mean()))
        rates = [rate(int((part > best).sum()), len(part)) for part in (unsafe, safe)]
        return cls(best, *rates)


@dataclass(frozen=True)
class Reference:
    """The bank of safe captions, the category probe and the rule for one pair of towers.

    Attributes:
        captions: safe captions of train scenes.
        bank: their end states (n, width) in the ORIGINAL tower, each of length 1: what a place means to a host.
    """

    captions: tuple[str, ...]
    bank: Tensor
    probe: Probe
    rule: Rule

    @classmethod
    def of(cls, safe: Any, original: Any, tokenizer: Any) -> Reference:  # noqa: ANN401
        """Read about 4500 captions; seconds for the world's towers, minutes for CLIP ViT-L/14 on a CPU.

        Raises:
            BadInputError: a tower gives values that are not finite.
        """
        known, held = cases("train", TRAIN), cases("val", VAL)
        seen = summaries(original, tokenizer, [case.text for case in known])
        kept = summaries(original, tokenizer, [case.text for case in held])
        width = seen.shape[1] // 4
        moved = shifts(end_states(safe, tokenizer, [case.text for case in held]), kept[:, :width])
        if not (moved.isfinite().all() and seen.isfinite().all()):
            raise BadInputError("expected towers with finite states, got NaN or infinity; load them in float32")
        unsafe = torch.tensor([case.category != NONE for case in held])
        plain = torch.tensor([case.label == NONE for case in held])
        bank = [i for i, case in enumerate(known) if case.label == NONE]
        return cls(
            captions=tuple(known[i].text for i in bank),
            bank=functional.normalize(seen[bank, :width], dim=1),
            probe=Probe.fit(seen, known).calibrated(kept, held),
            rule=Rule.fit(moved[unsafe], moved[plain]),
        )

    def nearest(self, state: Tensor, count: int) -> list[tuple[str, float]]:
        """Return the captions nearest to an end state (width,), with their cosine similarity, best first."""
        found = (self.bank @ functional.normalize(state, dim=0)).topk(count)
        return [
            (self.captions[i], value) for value, i in zip(found.values.tolist(), found.indices.tolist(), strict=True)
        ]
