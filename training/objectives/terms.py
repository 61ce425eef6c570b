"""Terms: pure functions of student and reference embeddings, the parts of every objective.

Symbols: t, v a safe text and image, t*, v* their unsafe twins, b, vb a benign look-alike's text and image, c, vc the
safe text and image that follow from t* (what t* hides is filled in by a fixed counterpart, where t's own cannot be
known), a an attacked caption and a0 what it is to mean (``training.adversary``); T, V the tuned towers and T0, V0 the
frozen references. x^ is x / |x|. A batch holds some of these roles; a term whose roles are missing is dropped.
Every term is a mean over the batch, so a permutation of the rows changes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

Role = Literal["t", "t*", "b", "c", "a", "a0", "a^", "v", "v*", "vb", "vc"]
"""a^ are the vectors that a tower reads for the tokens of a; no tower embeds them alone."""
Kind = Literal["projected", "pooled", "last_hidden", "penultimate", "patches"]
"""projected and pooled are (n, d); last_hidden and penultimate (n, tokens, d), the states before and after the last
layer as SD 1.x and SDXL read them; patches are the penultimate states without the class token, as LLaVA reads them."""
TowerName = Literal["text", "vision"]


@dataclass(frozen=True)
class Source:
    """One side of a term: the embedding of a role by the tuned or by the reference tower.

    Attributes:
        seen_from: a text role; each of its tokens is given the state of the token that stands for it here.
    """

    role: Role
    tuned: bool = False
    seen_from: Role | None = None

    @property
    def tower(self) -> TowerName:
        """The tower that embeds the role."""
        return "vision" if self.role.startswith("v") else "text"

    def __str__(self) -> str:
        """Print as in the papers: T(t*) or V0(v)."""
        return f"{'V' if self.tower == 'vision' else 'T'}{'' if self.tuned else '0'}({self.role})"


Want = tuple[Source, Kind]


@dataclass(frozen=True)
class Embeddings:
    """Every embedding of a batch that an objective wants.

    Attributes:
        known: by source and kind; rows are the batch, references carry no gradient.
        scale: the original CLIP's own logit scale, exp of the learned one and fixed here; 100 for OpenAI's.
    """

    known: Mapping[Want, Tensor]
    scale: float

    def get(self, source: Source, kind: Kind = "projected") -> Tensor:
        """Return one embedding; KeyError when the objective did not say that it wants it."""
        return self.known[source, kind]


class Term(Protocol):
    """A named, weighted part of an objective."""

    @property
    def weight(self) -> float:
        """The factor of the term in the sum."""
        ...

    @property
    def wants(self) -> tuple[Want, ...]:
        """The embeddings without which the term is dropped."""
        ...

    @property
    def decomposes(self) -> bool:
        """Whether the term over a batch is the mean of the term over its parts, weighted by their rows."""
        ...

    def value(self, embeddings: Embeddings) -> Tensor:
        """Return the unweighted scalar."""
        ...


def nce(first: Tensor, second: Tensor, scale: float, negatives: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE at a fixed scale (Radford et al., 2021; Safe-CLIP, eq. 3).

    Args:
        first: (n, d), any norm.
        second: (n, d), row i is the match of row i of ``first``.
        scale: factor of the cosines.
        negatives: (m, d) further rows that ``first`` must not match; they join its gallery only.

    Returns:
        0-dimensional tensor >= 0.
    """
    a, b = functional.normalize(first, dim=-1), functional.normalize(second, dim=-1)
    target = torch.arange(len(a), device=a.device)
    logits = scale * a @ b.T
    backward = functional.cross_entropy(logits.T, target)
    if negatives is not None:
        logits = torch.cat([logits, scale * a @ functional.normalize(negatives, dim=-1).T], dim=1)
    return (functional.cross_entropy(logits, target) + backward) / 2


def align(first: Tensor, second: Tensor) -> Tensor:
    """Mean of 1 - cos over rows (Safe-CLIP, eq. 4 and 5); (n, d) each, in 0..2."""
    return (1 - functional.cosine_similarity(first, second, dim=-1)).mean()


def hidden(first: Tensor, second: Tensor) -> Tensor:
    """Relative squared error of hidden states, (n, tokens, d) each: over the mean square of ``second``, >= 0."""
    return (first - second).square().mean() / second.square().mean()


@dataclass(frozen=True)
class _Pair:
    """What every term over two matched embeddings has; the first is the tuned side."""

    weight: float
    first: Source
    second: Source

    @property
    def wants(self) -> tuple[Want, ...]:
        """Both sides, projected."""
        return ((self.first, "projected"), (self.second, "projected"))

    @property
    def decomposes(self) -> bool:
        """Rows do not see each other."""
        return True

    def __str__(self) -> str:
        """Print the kind and its sources."""
        return f"{type(self).__name__}({self.first}, {self.second})"


@dataclass(frozen=True)
class NCE(_Pair):
    """Contrast of matched pairs; ``against`` adds a role's embeddings as further negatives of the first side."""

    against: Source | None = None

    @property
    def wants(self) -> tuple[Want, ...]:
        """Both sides and the extra negatives, projected."""
        extra: tuple[Want, ...] = ((self.against, "projected"),) if self.against else ()
        return (*super().wants, *extra)

    @property
    def decomposes(self) -> bool:
        """Every row is a negative of every other."""
        return False

    def value(self, embeddings: Embeddings) -> Tensor:
        """Return ``nce`` of the projected embeddings."""
        extra = embeddings.get(self.against) if self.against else None
        return nce(embeddings.get(self.first), embeddings.get(self.second), embeddings.scale, extra)

    def __str__(self) -> str:
        """Print the kind and its sources."""
        return f"NCE({self.first}, {self.second}{f'; not {self.against}' if self.against else ''})"


@dataclass(frozen=True)
class Align(_Pair):
    """Distance of matched pairs in angle."""

    def value(self, embeddings: Embeddings) -> Tensor:
        """Return ``align`` of the projected embeddings."""
        return align(embeddings.get(self.first), embeddings.get(self.second))


@dataclass(frozen=True)
class Hidden(_Pair):
    """Distance of the states that a host reads: tokens for a UNet, patches for a language model."""

    kind: Kind = "last_hidden"

    @property
    def wants(self) -> tuple[Want, ...]:
        """Both sides, at the layer of the kind."""
        return ((self.first, self.kind), (self.second, self.kind))

    @property
    def decomposes(self) -> bool:
        """The error is relative to the mean square of the whole batch."""
        return False

    def value(self, embeddings: Embeddings) -> Tensor:
        """Return ``hidden`` of the states."""
        return hidden(embeddings.get(self.first, self.kind), embeddings.get(self.second, self.kind))

    def __str__(self) -> str:
        """Print the layer and the sources."""
        layer = "Hidden" if self.kind == "last_hidden" else self.kind.capitalize()
        return f"{layer}({self.first}, {self.second})"


@dataclass(frozen=True)
class Objective:
    """A named sum of weighted terms; prints as its formula."""

    name: str
    terms: tuple[Term, ...]

    @property
    def wants(self) -> tuple[Want, ...]:
        """Every embedding that a term asks for, once."""
        return tuple(dict.fromkeys(want for term in self.terms for want in term.wants))

    @property
    def decomposes(self) -> bool:
        """Whether micro-batches may be told apart; otherwise their embeddings must meet."""
        return all(term.decomposes for term in self.terms)

    def usable(self, has: Callable[[Source], bool]) -> Objective:
        """Return the objective without the terms that lack a role or a trained tower."""
        return Objective(self.name, tuple(term for term in self.terms if all(has(source) for source, _ in term.wants)))

    def value(self, embeddings: Embeddings, share: Callable[[Term], float] = lambda _: 1.0) -> Tensor:
        """Return the weighted sum of the terms.

        Args:
            share: further factor of a term; the part's share of the rows when the batch comes in parts.
        """
        return torch.stack([term.weight * share(term) * term.value(embeddings) for term in self.terms]).sum()

    def __str__(self) -> str:
        """Print the formula, e.g. L = 0.1 Align(T(t), T0(t)) + ..."""
        return f"L[{self.name}] = " + " + ".join(f"{term.weight:g} {term}" for term in self.terms)
