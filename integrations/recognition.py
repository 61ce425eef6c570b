"""Recognising a tower of the shipped world: by its sizes for the canaries, by its weights for its name."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from safeencoders import catalog
from safeencoders.errors import HostError
from safeencoders.fingerprint import fingerprint
from safeencoders.integrations.canary import Canary, Margins
from safeencoders.loading import DEFAULT, load
from safeencoders.pictoworld import models

if TYPE_CHECKING:
    from safeencoders.integrations.slots import Slot


def shipped_name(slot: Slot) -> str | None:
    """Return the name of the shipped encoder whose weights, in float32, are in a slot bit for bit, or None."""
    if slot.tower is None or not _of_the_world(slot.tower, slot.kind):
        return None
    found = fingerprint(slot.tower)
    names = (name for name in models.tower_names() if catalog.info(name).tower(slot.kind))
    return next((name for name in names if _shipped(name, slot.kind, slot.projection) == found), None)


def trained_on(name: str, kind: catalog.TowerName) -> tuple[str, ...] | None:
    """Return which fields of its output a catalogued tower was trained on, None when nobody knows."""
    tower = catalog.info(name).tower(kind)
    return tower.trained_on if tower else None


def measure(tower: Any) -> Margins:  # noqa: ANN401
    """Measure the canaries of a text tower of the world's sizes against the shipped original and default tower.

    Raises:
        HostError: it is none.
    """
    if not _of_the_world(tower, "text"):
        raise HostError(
            "expected a protected host, or a text tower of the shipped world; the canaries of another tower need its "
            "original: protect a pipeline with it and check that"
        )
    return _canary().measure(tower, models.tokenizer())


def _of_the_world(tower: Any, kind: catalog.TowerName) -> bool:  # noqa: ANN401
    config = getattr(tower, "config", None)
    return config is not None and any(encoder.name == DEFAULT for encoder in catalog.fitting(config, kind))


@cache
def _shipped(name: str, kind: catalog.TowerName, projection: bool) -> str:  # noqa: FBT001
    return fingerprint(load(name, tower=kind, projection=projection))


@cache
def _canary() -> Canary:
    return Canary.make(load(catalog.ORIGINAL), load(DEFAULT), models.tokenizer())
