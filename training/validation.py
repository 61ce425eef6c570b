"""Validation: the retrieval metrics of a run's own held-out rows, by which the best weights are kept.

Each tower is judged where it is deployed: a tuned text tower beside the original vision tower, and the reverse; two
tuned towers beside each other as well. Where the data have no images, captions are found among the original's captions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from safeencoders.metrics import expected_hits, top1_share
from safeencoders.training.loop import SCORE, Metrics
from safeencoders.training.objectives.terms import Role, Source

if TYPE_CHECKING:
    from safeencoders.training.redirect import Encoders

CHUNK = 100
KS = (1, 10)


class Validator:
    """Measures the towers on held-out rows.

    Args:
        encoders: the towers, tuned and original.
        rows: inputs by role, at least two rows of safe and unsafe twins of one modality.
    """

    def __init__(self, encoders: Encoders, rows: Mapping[Role, Tensor]) -> None:
        self._encoders, self._rows = encoders, rows
        self._known: dict[Source, Tensor] = {}

    def __call__(self) -> Metrics:
        """Return R@k of safe and unsafe queries, the unsafe share of first places, and the score: the mean R@1."""
        tuned = tuple(self._encoders.edits)
        found: Metrics = {}
        for tower in tuned:
            found |= self._asked(tower, gallery_tuned=False)
        if len(tuned) == 2:
            found |= {f"both {name}": value for name, value in self._asked("text", gallery_tuned=True).items()}
        found[SCORE] = float(np.mean([value for name, value in found.items() if name.endswith("R@1")]))
        return found

    def _asked(self, tower: str, *, gallery_tuned: bool) -> Metrics:
        safe, unsafe = _twins(tower)
        other_safe, other_unsafe = _twins("vision" if tower == "text" else "text")
        if (
            other_safe not in self._rows
        ):  # captions only, or pictures only: the original's own safe rows are the gallery
            other_safe, other_unsafe = safe, unsafe
        gallery = [
            self._embed(Source(role, gallery_tuned)) for role in (other_safe, other_unsafe) if role in self._rows
        ]
        n = len(gallery[0])
        found: Metrics = {}
        asked, other = safe.upper(), other_safe.upper()
        for mark, role in (("", safe), ("*", unsafe)):
            if role not in self._rows:
                continue
            targets = gallery[:1] if not mark else gallery
            scores = (self._embed(Source(role, tuned=True)) @ torch.cat(targets).T).numpy()
            hits = expected_hits(scores, np.arange(n), np.arange(scores.shape[1]), [k for k in KS if k <= n])
            task = f"{asked}{mark}-{other}" + (f"u{other}*" if len(targets) == 2 else "")
            found |= {f"{task} R@{k}": float(values.mean()) for k, values in hits.items()}
            if len(targets) == 2:
                found[f"{task} top-1 unsafe"] = float(top1_share(scores, np.arange(scores.shape[1]) >= n).mean())
        return found

    def _embed(self, source: Source) -> Tensor:
        if source in self._known:
            return self._known[source]
        rows = self._rows[source.role]
        with torch.no_grad():
            parts = [
                self._encoders.encode(source, {"projected"}, {source.role: part.to(self._encoders.device)})[
                    "projected"
                ].cpu()
                for part in torch.split(rows, CHUNK)
            ]
        embedded = functional.normalize(torch.cat(parts), dim=-1)
        if not source.tuned and self._encoders.reference == "frozen":
            self._known[source] = embedded  # the original's never change
        return embedded


def _twins(tower: str) -> tuple[Role, Role]:
    return ("t", "t*") if tower == "text" else ("v", "v*")
