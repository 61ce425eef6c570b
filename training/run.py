"""A run: a CLIP, a recipe and a reader become a fit that can be run, resumed and exported."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from safeencoders.training.loop import Fit, Metrics
from safeencoders.training.objectives.terms import Role, TowerName
from safeencoders.training.recipe import Recipe, Towers
from safeencoders.training.redirect import RedirectTask
from safeencoders.training.validation import Validator

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-untyped]  # no py.typed marker
    from transformers import CLIPModel

    from safeencoders.training.readers import Reader

TOWERS: Mapping[str, tuple[TowerName, ...]] = {
    "text": ("text",),
    "vision": ("vision",),
    "both": ("text", "vision"),
}


def changed(
    recipe: Recipe, *, seed: int, steps: int | None = None, batch: int | None = None, towers: Towers | None = None
) -> Recipe:
    """Return the recipe with a seed, and other steps (warm-up in proportion), batch or towers where asked."""
    old = recipe.schedule
    steps = steps or old.steps
    warmup = -(-old.warmup * steps // old.steps)
    schedule = dataclasses.replace(old, seed=seed, steps=steps, warmup=warmup, batch=batch or old.batch)
    return dataclasses.replace(recipe, schedule=schedule, towers=towers or recipe.towers)


def prepare(
    clip: CLIPModel,
    recipe: Recipe,
    reader: Reader,
    checkpoint: Path,
    *,
    rows: Mapping[Role, Tensor] | None = None,
    micro_batch: int = 0,
    accelerator: Accelerator | None = None,
    identity: Mapping[str, str] | None = None,
    log: Callable[[Metrics, int], None] | None = None,
    start: Mapping[TowerName, nn.Module] | None = None,
) -> Fit[RedirectTask]:
    """Prepare a redirection; ``run`` it, then ``finish`` it and take ``task.edits``.

    Args:
        clip: the original; its weights are not changed.
        recipe: what to do, its seed and steps included.
        reader: source of batches of the recipe's size.
        checkpoint: file from which the run resumes and to which it saves.
        rows: held-out rows for validation, by role; without them nothing is validated and the last weights count.
        micro_batch: rows that are encoded at a time, 0 for all; the result is the same.
        accelerator: gives device and precision; None for the CPU in float32.
        identity: what the run is; a checkpoint of another run is refused.
        log: is told every loss and metric with its step.
        start: by tower; where an earlier run ended, from which this one goes on.

    Raises:
        BadInputError: the data have no role that the objective can use, or the checkpoint is another run's.
    """
    options = {} if accelerator is None else {"device": accelerator.device, "autocast": accelerator.autocast}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.schedule.seed)  # adapters start from random weights
        task = RedirectTask(
            clip,
            recipe.terms(),
            reader,
            recipe.edit,
            TOWERS[recipe.towers],
            reference=recipe.reference,
            micro_batch=micro_batch,
            start=start,
            attack=recipe.attack,
            **options,
        )
    validate = None if rows is None else Validator(task.encoders, rows)
    return Fit(task, recipe.schedule, checkpoint, validate=validate, identity=identity, log=log)
