"""Our recipe for a text tower: Safe-CLIP's text terms, the unsafe twin as a negative, and the states a UNet reads."""

from dataclasses import dataclass
from typing import Any

from safeencoders.training.objectives.terms import NCE, Align, Hidden, Objective, Source, Term


@dataclass(frozen=True)
class Weights:
    """Weights of the recipe's parts.

    Attributes:
        redirect: contrast of T(t*) with V0(v).
        preserve: of the terms that keep T(t) where it was.
        benign: of the terms that keep T(b), the look-alikes, where it was.
        hidden: of the terms on token states.
        twins: whether V0(v*) is a negative of T(t*).
    """

    redirect: float = 0.25
    preserve: float = 1.0
    benign: float = 1.0
    hidden: float = 1.0
    twins: bool = True


def objective(**numbers: Any) -> Objective:  # noqa: ANN401  checked by Weights
    """Return the objective; the numbers are those of ``Weights``."""
    w = Weights(**numbers)
    t, u, b = Source("t", tuned=True), Source("t*", tuned=True), Source("b", tuned=True)
    t0, b0, c0, v0, w0 = (Source(role) for role in ("t", "b", "c", "v", "v*"))
    terms: list[Term] = [
        Align(0.1 * w.preserve, t, t0),
        Align(0.1 * w.benign, b, b0),
        NCE(0.25 * w.preserve, t, v0),
        Align(0.1, u, t0),
        NCE(w.redirect, u, v0, against=w0 if w.twins else None),
    ]
    if w.hidden:
        terms += [
            Hidden(w.hidden * w.preserve, t, t0),
            Hidden(w.hidden * w.benign, b, b0),
            Hidden(w.hidden, u, c0),
        ]
    return Objective("pictoworld", tuple(terms))
