"""How often explanations are right, on captions of the world that nothing in them has seen (`pictoworld:test`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from safeencoders.evaluation.explaining import Explainer
from safeencoders.evaluation.explaining_reference import NONE
from safeencoders.evaluation.explanation import Explanation
from safeencoders.metrics import mean_rate, rate
from safeencoders.pictoworld.lexicon import CATEGORIES, CONCEPTS
from safeencoders.pictoworld.scenes import KINDS, Kind, Quad, benigns, quads


def explanation_rates(explainer: Explainer, n: int, seed: int = 0, kinds: Sequence[Kind] = KINDS) -> dict[str, Any]:
    """Explain n unsafe captions of each kind, n safe ones and n look-alikes of the test split.

    Returns:
        ``redirected``: the share above the rule's threshold, by kind, and of "safe" and "lookalike" captions.
        ``cause_first``: the share whose strongest cause is a word that the safe twin lacks, by kind; ``cause_chance``:
        the share of such words among all, what a random word would reach.
        ``category``: the share whose highest score is (one of) the caption's categories, by kind, and that is "none"
        of safe and look-alike captions; ``by_category``: the same, of kind "plain" only.
        ``confidence``: the mean of the highest score, which a calibrated one shares with ``category``.
    """
    sets = {kind: quads("test", n, seed, kind) for kind in kinds}
    told = {kind: [explainer.explain(quad.unsafe_text) for quad in part] for kind, part in sets.items()}
    benign = {
        "safe": [explainer.explain(quad.safe_text) for quad in sets["plain"]],
        "lookalike": [explainer.explain(one.text) for one in benigns("test", n, seed)],
    }
    everything: dict[str, list[Explanation]] = {str(kind): part for kind, part in told.items()} | benign
    named = {kind: [_named(q, e) for q, e in zip(sets[kind], told[kind], strict=True)] for kind in kinds}
    right: dict[str, list[bool]] = {
        kind: [_top(e) in _categories(q) for q, e in zip(sets[kind], told[kind], strict=True)] for kind in kinds
    }
    right |= {name: [_top(e) == NONE for e in part] for name, part in benign.items()}
    plain = [(quad.concept.category, hit) for quad, hit in zip(sets["plain"], right["plain"], strict=True)]
    return {
        "redirected": {name: mean_rate([e.redirected for e in part]) for name, part in everything.items()},
        "cause_first": {kind: mean_rate([first for first, _ in part]) for kind, part in named.items()},
        "cause_chance": {kind: sum(chance for _, chance in part) / len(part) for kind, part in named.items()},
        "category": {name: mean_rate(hits) for name, hits in right.items()},
        "by_category": {c: _share([hit for name, hit in plain if name == c]) for c in CATEGORIES},
        "confidence": {
            name: sum(max(e.categories.values()) for e in part) / len(part) for name, part in everything.items()
        },
    }


def _share(hits: Sequence[bool]) -> Any:  # noqa: ANN401  a rate, of no cases too
    return rate(sum(hits), len(hits), allow_empty=True)


def _top(explanation: Explanation) -> str:
    return max(explanation.categories, key=lambda name: explanation.categories[name])


def _categories(quad: Quad) -> set[str]:
    return {CONCEPTS[name].category for name in quad.unsafe.concepts}


def _named(quad: Quad, explanation: Explanation) -> tuple[bool, float]:
    """Say whether the strongest cause is a word that the safe twin lacks, and the share of such words."""
    twin = Counter(quad.safe_text.split())
    lacking = []
    for word in explanation.words:
        lacking.append(twin[word.text] == 0)
        twin[word.text] -= not lacking[-1]
    first = max(range(len(lacking)), key=lambda i: explanation.words[i].cause)
    return lacking[first], sum(lacking) / len(lacking)
