"""Safe-CLIP (Poppi et al., ECCV 2024): unsafe inputs to the safe twin, safe inputs where they were.

The eight terms and their weights, in the paper's order. The released code divides by the weights' sum and by
eight, a scale that Adam removes; it is left out.
"""

from safeencoders.training.objectives.terms import NCE, Align, Objective, Source

WEIGHTS = (0.1, 0.1, 0.1, 0.2, 0.25, 0.25, 0.25, 0.5)


def objective() -> Objective:
    """Return the paper's objective."""
    t, u, v, w = (Source(role, tuned=True) for role in ("t", "t*", "v", "v*"))
    t0, v0 = Source("t"), Source("v")
    one, two, three, four, five, six, seven, eight = WEIGHTS
    return Objective(
        "safe-clip",
        (
            Align(one, t, t0),
            Align(two, u, t0),
            Align(three, v, v0),
            Align(four, w, v0),
            NCE(five, t, v0),
            NCE(six, u, v0),
            NCE(seven, v, t0),
            NCE(eight, w, t0),
        ),
    )
