"""Redirected towers of the world: a recipe, the world's CLIP and its quadruplets make a tuned text tower."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from safeencoders.training.data import PictoworldReader
from safeencoders.training.loop import Fit
from safeencoders.training.objectives import objectives
from safeencoders.training.recipe import Recipe
from safeencoders.training.redirect import RedirectTask

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer


def fit(
    clip: CLIPModel, tokenizer: CLIPTokenizer, recipe: Recipe, checkpoint: Path, *, seed: int, steps: int | None = None
) -> Fit[RedirectTask]:
    """Prepare the redirection of the CLIP's text tower; ``run`` it, then take ``task.module``.

    Args:
        clip: the original; it is not changed.
        checkpoint: file from which the run resumes and to which it saves.
        seed: of the batches.
        steps: a shorter run than the recipe's, with the same shape of schedule.
    """
    schedule = dataclasses.replace(recipe.schedule, seed=seed, steps=steps or recipe.schedule.steps)
    make = objectives.get(recipe.objective)
    reader = PictoworldReader(tokenizer, schedule.batch, seed)
    task = RedirectTask(clip, make(**recipe.weights), reader, recipe.frozen)
    return Fit(task, schedule, checkpoint)
