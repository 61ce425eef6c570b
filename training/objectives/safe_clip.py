"""Safe-CLIP (Poppi et al., ECCV 2024): unsafe inputs to the safe twin, safe inputs where they were.

The eight terms and their weights, in the paper's order. The released code divides by the weights' sum and by
eight, a scale that Adam removes; it is left out.
"""

from dataclasses import dataclass
from typing import Any

from safeencoders.training.objectives.terms import NCE, Align, Objective, Source, Term
from safeencoders.training.settings import fill

WEIGHTS = (0.1, 0.1, 0.1, 0.2, 0.25, 0.25, 0.25, 0.5)


@dataclass(frozen=True)
class Weights:
    """Factors of the paper's weights, for its ablations; all 1 is the paper.

    Attributes:
        redirect: of the terms on unsafe inputs (2, 4, 6, 8).
        preserve: of the terms on safe inputs (1, 3, 5, 7).
        cosine: of the terms in angle (1 to 4).
    """

    redirect: float = 1.0
    preserve: float = 1.0
    cosine: float = 1.0


def objective(**numbers: Any) -> Objective:  # noqa: ANN401  checked by fill
    """Return the paper's objective; the numbers are those of ``Weights``. A term of weight 0 is left out."""
    w = fill(Weights, numbers, "[weights] of objective safe-clip")
    t, u, v, x = (Source(role, tuned=True) for role in ("t", "t*", "v", "v*"))
    t0, v0 = Source("t"), Source("v")
    one, two, three, four, five, six, seven, eight = WEIGHTS
    terms: tuple[Term, ...] = (
        Align(one * w.preserve * w.cosine, t, t0),
        Align(two * w.redirect * w.cosine, u, t0),
        Align(three * w.preserve * w.cosine, v, v0),
        Align(four * w.redirect * w.cosine, x, v0),
        NCE(five * w.preserve, t, v0),
        NCE(six * w.redirect, u, v0),
        NCE(seven * w.preserve, v, t0),
        NCE(eight * w.redirect, x, t0),
    )
    return Objective("safe-clip", tuple(term for term in terms if term.weight))
