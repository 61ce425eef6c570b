"""Terms: pure functions of student and reference embeddings, the parts of every objective.

Symbols: t, v a safe text and image, t*, v* their unsafe twins, b a benign look-alike's text, c the safe text that
follows from t* (what t* hides is filled in by a fixed counterpart, where t's own cannot be known); T, V the tuned
towers and T0, V0 the frozen references. x^ is x / |x|. A batch holds some of these roles; a term whose roles
are missing is dropped. Every term is a mean over the batch, so a permutation of the rows changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

Role = Literal["t", "v", "t*", "v*", "b", "c"]
Kind = Literal["projected", "last_hidden"]


@dataclass(frozen=True)
class Source:
    """One side of a term: the embedding of a role by the tuned or by the reference tower."""

    role: Role
    tuned: bool = False

    def __str__(self) -> str:
        """Print as in the papers: T(t*) or V0(v)."""
        return f"{'V' if self.role[0] == 'v' else 'T'}{'' if self.tuned else '0'}({self.role})"


class Embeddings(Protocol):
    """Gives each embedding of a batch, encoding every (source, kind) once.

    Attributes:
        scale: the original CLIP's own logit scale, exp of the learned one and fixed here; 100 for OpenAI's.
    """

    scale: float

    def has(self, source: Source) -> bool:
        """Return whether the batch holds the role and, for a tuned source, whether its tower is trained."""
        ...

    def get(self, source: Source, kind: Kind) -> Tensor:
        """Return (n, d) for "projected", (n, tokens, d) for "last_hidden"; references carry no gradient."""
        ...

    def aligned(self, role: Role, target: Source) -> Tensor:
        """Return (n, tokens, d): for each token of ``role`` the state of the token of ``target`` it stands for."""
        ...


class Term(Protocol):
    """A named, weighted part of an objective."""

    @property
    def weight(self) -> float:
        """The factor of the term in the sum."""
        ...

    @property
    def sources(self) -> tuple[Source, ...]:
        """The embeddings without which the term is dropped."""
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
    def sources(self) -> tuple[Source, ...]:
        """Both sides."""
        return (self.first, self.second)

    def __str__(self) -> str:
        """Print the kind and its sources."""
        return f"{type(self).__name__}({self.first}, {self.second})"


@dataclass(frozen=True)
class NCE(_Pair):
    """Contrast of matched pairs; ``against`` adds a role's embeddings as further negatives of the first side."""

    against: Source | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """Both sides and the extra negatives."""
        return (self.first, self.second, *([self.against] if self.against else []))

    def value(self, embeddings: Embeddings) -> Tensor:
        """Return ``nce`` of the projected embeddings."""
        extra = embeddings.get(self.against, "projected") if self.against else None
        first, second = embeddings.get(self.first, "projected"), embeddings.get(self.second, "projected")
        return nce(first, second, embeddings.scale, extra)

    def __str__(self) -> str:
        """Print the kind and its sources."""
        return f"NCE({self.first}, {self.second}{f'; not {self.against}' if self.against else ''})"


@dataclass(frozen=True)
class Align(_Pair):
    """Distance of matched pairs in angle."""

    def value(self, embeddings: Embeddings) -> Tensor:
        """Return ``align`` of the projected embeddings."""
        return align(embeddings.get(self.first, "projected"), embeddings.get(self.second, "projected"))


@dataclass(frozen=True)
class Hidden(_Pair):
    """Distance of the token states that a UNet reads; tokens of another role are aligned word by word."""

    def value(self, embeddings: Embeddings) -> Tensor:
        """Return ``hidden`` of the last hidden states."""
        if self.first.role == self.second.role:
            target = embeddings.get(self.second, "last_hidden")
        else:
            target = embeddings.aligned(self.first.role, self.second)
        return hidden(embeddings.get(self.first, "last_hidden"), target)


@dataclass(frozen=True)
class Objective:
    """A named sum of weighted terms; prints as its formula."""

    name: str
    terms: tuple[Term, ...]

    def usable(self, embeddings: Embeddings) -> Objective:
        """Return the objective without the terms that lack a role or a trained tower."""
        kept = tuple(term for term in self.terms if all(embeddings.has(source) for source in term.sources))
        return Objective(self.name, kept)

    def value(self, embeddings: Embeddings) -> Tensor:
        """Return the weighted sum of the terms."""
        return torch.stack([term.weight * term.value(embeddings) for term in self.terms]).sum()

    def __str__(self) -> str:
        """Print the formula, e.g. L = 0.1 Align(T(t), T0(t)) + ..."""
        return f"L[{self.name}] = " + " + ".join(f"{term.weight:g} {term}" for term in self.terms)
