"""Our recipe: Safe-CLIP's terms, the unsafe twin as a negative, and the states that hosts read."""

from dataclasses import dataclass
from typing import Any

from safeencoders.training.objectives.terms import NCE, Align, Hidden, Objective, Source, Term
from safeencoders.training.settings import fill


@dataclass(frozen=True)
class Weights:
    """Weights of the recipe's parts; those of one tower's terms are the other's too.

    Attributes:
        redirect: contrast of T(t*) with V0(v), and of V(v*) with T0(t).
        preserve: of the terms that keep T(t) and V(v) where they were.
        benign: of the terms that keep T(b) and V(vb), the look-alikes, where they were.
        hidden: of the terms on the states that hosts read: tokens for a UNet, patches for a language model.
        patches: of the terms on patches; None: that of hidden.
        vision_keep: further factor of preserve and benign for the vision tower, whose host reads every patch.
        twins: whether the other tower's unsafe twin is a negative: V0(v*) of T(t*), T0(t*) of V(v*).
        attacked: of the term on the states of attacked captions.
        pair: contrast of T(t*) with V(v) against V(v*), and of V(v*) with T(t) against T(t*): both tuned, so that
            the pair, and not only each tower beside an original, puts the safe twin first.
    """

    redirect: float = 0.25
    preserve: float = 1.0
    benign: float = 1.0
    hidden: float = 1.0
    patches: float | None = None
    vision_keep: float = 1.0
    twins: bool = True
    attacked: float = 0.0
    pair: float = 0.0


def objective(**numbers: Any) -> Objective:  # noqa: ANN401  checked by fill
    """Return the objective; the numbers are those of ``Weights``. A term of weight 0 is left out."""
    w = fill(Weights, numbers, "[weights] of objective pictoworld")
    terms = [*_text(w), *_vision(w), *_pair(w)]
    return Objective("pictoworld", tuple(term for term in terms if term.weight))


def _text(w: Weights) -> list[Term]:
    t, u, b = Source("t", tuned=True), Source("t*", tuned=True), Source("b", tuned=True)
    t0, b0, v0, x0 = (Source(role) for role in ("t", "b", "v", "v*"))
    return [
        Align(0.1 * w.preserve, t, t0),
        Align(0.1 * w.benign, b, b0),
        NCE(0.25 * w.preserve, t, v0),
        Align(0.1, u, t0),
        NCE(w.redirect, u, v0, against=x0 if w.twins else None),
        Hidden(w.hidden * w.preserve, t, t0),
        Hidden(w.hidden * w.benign, b, b0),
        Hidden(w.hidden, u, Source("c", seen_from="t*")),
        Hidden(w.attacked, Source("a", tuned=True), Source("a0", seen_from="a")),
    ]


def _vision(w: Weights) -> list[Term]:
    v, x, b = Source("v", tuned=True), Source("v*", tuned=True), Source("vb", tuned=True)
    v0, b0, c0, t0, u0 = (Source(role) for role in ("v", "vb", "vc", "t", "t*"))
    patches = w.hidden if w.patches is None else w.patches
    preserve, benign = w.vision_keep * w.preserve, w.vision_keep * w.benign
    return [
        Align(0.1 * preserve, v, v0),
        Align(0.1 * benign, b, b0),
        NCE(0.25 * preserve, v, t0),
        Align(0.1, x, v0),
        NCE(w.redirect, x, t0, against=u0 if w.twins else None),
        Hidden(patches * preserve, v, v0, "patches"),
        Hidden(patches * benign, b, b0, "patches"),
        Hidden(patches, x, c0, "patches"),
    ]


def _pair(w: Weights) -> list[Term]:
    t, u, v, x = (Source(role, tuned=True) for role in ("t", "t*", "v", "v*"))
    return [NCE(w.pair, u, v, against=x), NCE(w.pair, x, t, against=u)]
