"""Captions only: unsafe captions to their safe twins among all safe captions, safe ones where they were."""

from dataclasses import dataclass
from typing import Any

from safeencoders.training.objectives.terms import NCE, Align, Hidden, Objective, Source, Term
from safeencoders.training.settings import fill


@dataclass(frozen=True)
class Weights:
    """Weights of the parts.

    Attributes:
        redirect: contrast of T(t*) with T0(t) among the safe captions.
        twins: whether T0(t*) is a negative, too; only a tower that tells twins apart well can learn from it.
        align: of T(t*) with T0(t) in angle.
        preserve: of T(t) with T0(t) in angle.
        hidden: of the token states of t.
    """

    redirect: float = 1.0
    align: float = 1.0
    preserve: float = 1.0
    hidden: float = 1.0
    twins: bool = False


def objective(**numbers: Any) -> Objective:  # noqa: ANN401  checked by fill
    """Return the objective; the numbers are those of ``Weights``. A term of weight 0 is left out."""
    w = fill(Weights, numbers, "[weights] of objective text-pairs")
    t, u, t0, u0 = Source("t", tuned=True), Source("t*", tuned=True), Source("t"), Source("t*")
    terms: tuple[Term, ...] = (
        NCE(w.redirect, u, t0, against=u0 if w.twins else None),
        Align(w.align, u, t0),
        Align(w.preserve, t, t0),
        Hidden(w.hidden, t, t0),
    )
    return Objective("text-pairs", tuple(term for term in terms if term.weight))
