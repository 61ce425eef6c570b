"""How good a panel of judges is on pictures with known labels, and what a rate is when its errors are taken out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from safeencoders.errors import BadInputError
from safeencoders.metrics import EmptyRate, Rate, rate, wilson

_DRAWS = 20_000


@dataclass(frozen=True)
class Calibration:
    """The verdicts on labelled pictures, counted.

    Attributes:
        flagged_unsafe: unsafe pictures that were called unsafe.
        unsafe: unsafe pictures, at least 1.
        flagged_safe: safe pictures that were called unsafe.
        safe: safe pictures, at least 1.
    """

    flagged_unsafe: int
    unsafe: int
    flagged_safe: int
    safe: int

    @classmethod
    def of(cls, verdicts: npt.ArrayLike, labels: npt.ArrayLike) -> Calibration:
        """Count.

        Args:
            verdicts: (n,) booleans: what the judges said.
            labels: (n,) booleans: whether the picture is unsafe.

        Raises:
            BadInputError: the shapes differ, or there is no unsafe or no safe picture.
        """
        said, truth = np.asarray(verdicts, dtype=np.bool_), np.asarray(labels, dtype=np.bool_)
        if said.shape != truth.shape or truth.all() or not truth.any():
            raise BadInputError(
                f"expected a verdict for each label, and labels of both kinds, got {said.size} verdicts and "
                f"{truth.size} labels, {np.count_nonzero(truth)} of them unsafe."
            )
        return cls(
            int(np.count_nonzero(said & truth)),
            int(np.count_nonzero(truth)),
            int(np.count_nonzero(said & ~truth)),
            int(np.count_nonzero(~truth)),
        )

    @classmethod
    def from_dict(cls, found: object) -> Calibration:
        """Return what ``to_dict`` was made of, from its counts.

        Raises:
            BadInputError: a count is missing, or they cannot be the counts of pictures.
        """
        held = found if isinstance(found, Mapping) else {}
        counts = [held.get(field.name) for field in fields(cls)]
        whole = [count for count in counts if isinstance(count, int) and not isinstance(count, bool)]
        if len(whole) < len(counts) or not (0 <= whole[0] <= whole[1] > 0 and 0 <= whole[2] <= whole[3] > 0):
            raise BadInputError(
                "expected the counts of a calibration (flagged_unsafe of unsafe, and flagged_safe of safe pictures), "
                f"got {counts}; make it again with `safeencoders evaluate calibrate`"
            )
        return cls(*whole)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and the rates that follow from them, for JSON."""
        return asdict(self) | {"sensitivity": self.sensitivity, "specificity": self.specificity}

    @property
    def informs(self) -> bool:
        """Whether the judges are better than chance on these pictures; else their rates cannot be corrected."""
        return self.sensitivity["value"] + self.specificity["value"] > 1

    @property
    def sensitivity(self) -> Rate:
        """Unsafe pictures that are called unsafe."""
        return rate(self.flagged_unsafe, self.unsafe)

    @property
    def specificity(self) -> Rate:
        """Safe pictures that are not."""
        return rate(self.safe - self.flagged_safe, self.safe)

    def corrected(self, found: Mapping[str, Any], *, seed: int = 0) -> Rate | EmptyRate | None:
        """Return the rate of unsafe pictures that a rate of verdicts stands for (Rogan and Gladen, 1978).

        true = (found + specificity - 1) / (sensitivity + specificity - 1), clipped to 0..1. The interval takes in that
        all three are estimates: each is drawn from its Beta posterior (Jeffreys' prior), that of ``found`` with as many
        cases as make its posterior as wide as its interval. The judges' errors are taken to be as frequent in these
        pictures as in the labelled ones; labelled pictures of another kind correct nothing.

        Args:
            found: a rate; with a clustered one the interval allows for clusters.
            seed: of the draws.

        Returns:
            The corrected rate; None when the judges are no better than chance on the labelled pictures.
        """
        if found["value"] is None:
            return {"value": None, "n": 0, "interval": [0.0, 1.0]}
        value, n = float(found["value"]), int(found["n"])
        sensitivity, specificity = self.sensitivity["value"], self.specificity["value"]
        if not self.informs:
            return None
        rng = np.random.default_rng(seed)
        cases = _cases(value, n, found["interval"])
        drawn = _posterior(rng, value * cases, cases)
        hit = _posterior(rng, self.flagged_unsafe, self.unsafe)
        clear = _posterior(rng, self.safe - self.flagged_safe, self.safe)
        better = hit + clear > 1
        true = np.clip((drawn + clear - 1)[better] / (hit + clear - 1)[better], 0, 1)
        low, high = np.quantile(true, (0.025, 0.975))
        point = (value + specificity - 1) / (sensitivity + specificity - 1)
        return {"value": min(1.0, max(0.0, point)), "n": n, "interval": [float(low), float(high)]}


def _posterior(rng: np.random.Generator, successes: float, cases: float) -> npt.NDArray[np.float64]:
    return rng.beta(successes + 0.5, cases - successes + 0.5, size=_DRAWS)


def _cases(value: float, n: int, interval: Sequence[float]) -> int:
    """Return how many independent cases have Wilson's interval of this width, by bisection; at most n."""
    width = interval[1] - interval[0]
    few, many = 1, n
    while few < many:
        middle = (few + many) // 2
        low, high = wilson(value, middle)
        few, many = (few, middle) if high - low <= width else (middle + 1, many)
    return few
