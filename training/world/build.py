"""Retraining every shipped model from nothing, a stage at a time, in slices that can be resumed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from safeencoders.catalog import TOWERS
from safeencoders.files import write_json
from safeencoders.loading import load
from safeencoders.pictoworld import models, scenes
from safeencoders.pictoworld import tokenizer as world_tokenizer
from safeencoders.training.loop import Fit
from safeencoders.training.readers.pictoworld import PictoworldReader
from safeencoders.training.recipe import Recipe, read
from safeencoders.training.run import changed, prepare
from safeencoders.training.world import autoencoder, clip, export, generator, judge, vlm

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from torch import nn
    from transformers import CLIPModel, CLIPTokenizer

    from safeencoders.catalog import TowerName
    from safeencoders.training.world.autoencoder import AutoencoderTask

MAX_LOGIT_SCALE = 4.6052
RECIPES = ("pictoworld", "safe-clip", "robust")
STARTS = {"robust": "pictoworld"}
"""Whose towers a recipe goes on from; the others start from the original."""


class WorldBuild:
    """The stages of the world's models, each from its recipe, with checkpoints and exports in one folder.

    Args:
        folder: checkpoints (``NAME.safetensors``), the autoencoder, cached latents; ``weights/`` is what is shipped.
        seed: of everything random.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.weights = folder / "weights"
        self.stages: dict[str, Callable[[float], bool]] = {
            "clip": self._clip,
            "vae": self._vae,
            "generator": self._generator,
            "judge": self._judge,
            "vlm": self._vlm,
            "encoders": self._encoders,
        }

    def run(self, stage: str, seconds: float) -> bool:
        """Go on with a stage for at most the given seconds; return whether it is finished and exported."""
        done = self.stages[stage](seconds)
        if done:
            export.write_hashes(self.weights)
        return done

    def exported(self, stage: str) -> bool:
        """Return whether the stage's models are already there; deleting their log trains them again."""
        names = RECIPES if stage == "encoders" else (stage,)
        return all((self.weights / f"{name}.json").exists() for name in names)

    def _fit(self, task: Any, recipe: Recipe, seconds: float) -> Fit[Any] | None:  # noqa: ANN401  any training.loop.Task
        """Run a slice; return the fit when it is finished."""
        fit = Fit(
            task, dataclasses.replace(recipe.schedule, seed=self.seed), self.folder / f"{recipe.name}.safetensors"
        )
        if not fit.run(recipe.name, seconds):
            return None
        fit.finish()
        return fit

    def _log(self, name: str, fit: Fit[Any]) -> None:
        write_json(self.weights / f"{name}.json", {"steps": fit.step, "seconds": fit.seconds, "curve": fit.curve})

    def _tokenizer(self) -> CLIPTokenizer:
        return world_tokenizer.build(list(scenes.words()))

    def _trained_clip(self) -> CLIPModel:
        """Return the finished CLIP as it will be shipped.

        Raises:
            BadInputError: its stage is not finished.
        """
        from transformers import CLIPModel

        model: CLIPModel = CLIPModel.from_pretrained(export.finished(self.weights / "clip"))
        model.eval().requires_grad_(False)
        return model

    def _trained_autoencoder(self) -> AutoencoderKL:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        model: AutoencoderKL = AutoencoderKL.from_pretrained(export.finished(self.folder / "vae"))
        model.eval().requires_grad_(False)
        return model

    def _clip(self, seconds: float) -> bool:
        recipe, tokenizer = read("clip"), self._tokenizer()
        task = clip.ClipTask(tokenizer, recipe.schedule.batch, self.seed)
        fit = self._fit(task, recipe, seconds)
        if fit:
            with torch.no_grad():
                task.model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
            export.save_clip(task.model, tokenizer, self.weights / "clip")
            self._log("clip", fit)
        return fit is not None

    def _vae(self, seconds: float) -> bool:
        """Fit encoder and decoder together, then the decoder alone on the latents the generator will be taught."""
        begin = time.monotonic()
        both, alone = read("autoencoder"), read("decoder")
        task = autoencoder.AutoencoderTask(both.schedule.batch, self.seed)
        if not self._fit(task, both, seconds):
            return False
        task = autoencoder.AutoencoderTask(alone.schedule.batch, self.seed, start=task.model)
        fit = self._fit(task, alone, seconds - (time.monotonic() - begin))
        if fit:
            self._save_autoencoder(task)
            self._log("vae", fit)
        return fit is not None

    def _save_autoencoder(self, task: AutoencoderTask) -> None:
        model = task.model.eval()
        model.register_to_config(scaling_factor=generator.scaling_factor(model))
        model.half().save_pretrained(self.folder / "vae")

    def _generator(self, seconds: float) -> bool:
        recipe, tokenizer, text = read("generator"), self._tokenizer(), self._trained_clip().text_model
        vae = self._trained_autoencoder()
        data = generator.latents(vae, self.folder / "latents", recipe.options["chunks"], self.seed)
        task = generator.GeneratorTask(text, tokenizer, data, recipe.schedule.batch, self.seed)
        fit = self._fit(task, recipe, seconds)
        if fit:
            pipeline = generator.pipeline(task.model, vae, text, tokenizer)
            export.save_pipeline(pipeline, self.weights / "generator")
            self._log("generator", fit)
        return fit is not None

    def _judge(self, seconds: float) -> bool:
        recipe = read("judge")
        task = judge.JudgeTask(self._trained_autoencoder(), recipe.schedule.batch, self.seed)
        fit = self._fit(task, recipe, seconds)
        if fit:
            export.save_judge(task.model, self.weights / "judge")
            self._log("judge", fit)
        return fit is not None

    def _vlm(self, seconds: float) -> bool:
        recipe = read("vlm")
        task = vlm.VlmTask(self._trained_clip().vision_model, recipe.schedule.batch, self.seed)
        fit = self._fit(task, recipe, seconds)
        if fit:
            export.save_vlm(task.model, vlm.processor(), self.weights / "vlm")
            self._log("vlm", fit)
        return fit is not None

    def _encoders(self, seconds: float) -> bool:
        original, tokenizer, begin = self._trained_clip(), self._tokenizer(), time.monotonic()
        for name in RECIPES:
            recipe = changed(read(name), seed=self.seed)
            reader = PictoworldReader(tokenizer, recipe.schedule.batch, self.seed)
            start = self._shipped(STARTS[name]) if name in STARTS else None
            fit = prepare(original, recipe, reader, self.folder / f"{name}.safetensors", start=start)
            if not fit.run(name, seconds - (time.monotonic() - begin)):
                return False
            fit.finish()
            target = self._towers(name)
            for tower, edit in fit.task.edits.items():
                provenance = {"recipe": name, "seed": self.seed, "steps": fit.step}
                export.ship_tower(original, tower, edit, target / tower, provenance)
            self._log(name, fit)
        return True

    def _towers(self, name: str) -> Path:
        """Return where a recipe's towers are shipped."""
        return self.weights / models.TOWERS / ("pictoworld" if name == "pictoworld" else f"pictoworld/{name}")

    def _shipped(self, name: str) -> dict[TowerName, nn.Module]:
        """Return a recipe's towers as they are shipped."""
        return {tower: load(str(self._towers(name)), tower=tower) for tower in TOWERS}
