"""What a training leaves: towers that plain transformers loads, the loss curve, and train.json with the manifest."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeencoders.files import output_folder, write_atomically, write_json
from safeencoders.fingerprint import fingerprint

if TYPE_CHECKING:
    from safeencoders.cli.train_inputs import Asked, Data, Start
    from safeencoders.training.loop import Fit
    from safeencoders.training.recipe import Recipe
    from safeencoders.training.redirect import RedirectTask

RESULT, RUN, CHECKPOINT = "train.json", "run", "checkpoint.safetensors"
CLASSES = {"text": "CLIPTextModel", "vision": "CLIPVisionModel"}


def write_outputs(
    asked: Asked,
    fit: Fit[RedirectTask],
    recipe: Recipe,
    start: Start,
    data: Data,
    processes: int,
    identity: Mapping[str, str],
    begin: float,
) -> None:
    """Write the towers and the curve, train.json last, and say how to use them.

    Raises:
        OutputError: the place is not writable, or the disk is full; the checkpoint stays.
    """
    from safeencoders.evaluation.plots import lines
    from safeencoders.training.edits import trainable
    from safeencoders.training.export import save_tower

    edits, out = fit.task.edits, asked.out
    begins = {name: start.towers.get(name) or start.clip.get_submodule(f"{name}_model") for name in edits}
    ends: dict[str, str] = {name: fingerprint(edit.merge()) for name, edit in edits.items()}
    record: dict[str, Any] = {
        "formula": str(fit.task.objective),
        "recipe": dataclasses.asdict(recipe),
        "towers": list(edits),
        "trainable": trainable({name: edit.tuned for name, edit in edits.items()}),
        "model": start.name,
        "start": {name: fingerprint(tower) for name, tower in begins.items()},
        "end": ends,
        "steps": fit.step,
        "best_step": fit.best_step,
        "resumed_from_step": fit.resumed_from_step,
        "seconds": round(fit.seconds, 1),
        "curve": fit.curve,
        "validations": [{"step": step, **metrics} for step, metrics in fit.validations],
        "processes": processes,
        "identity": dict(identity),
    }
    kept = {key: record[key] for key in ("formula", "model", "steps", "best_step")}
    provenance = {"recipe": recipe.name, "seed": recipe.schedule.seed, "start": start.sha256, **kept}
    for name, edit in edits.items():
        if not (out / name).exists():  # a run that was killed in here has written it whole
            with output_folder(out / name) as folder:
                save_tower(start.clip, name, edit, folder, provenance)
    if fit.curve:
        points = [(float(step), loss) for step, loss in fit.curve]
        write_atomically(out / "curve.svg", lines(f"Loss of {recipe.name}", {"loss": points}))
    result = {"training": record, "data": data.row, "manifest": manifest_of(start, data, recipe, ends, begin)}
    for path in (asked.json_file, out / RESULT):
        if path is not None:
            write_json(path, result)
    shutil.rmtree(out / RUN)
    _say(out, fit, list(edits))


def _say(out: Path, fit: Fit[RedirectTask], towers: list[Any]) -> None:
    """Say what came out and how it is loaded."""
    found = dict(fit.validations)
    if fit.best_step is not None:
        kept = fit.best_step if fit.schedule.keep_best else fit.step
        metrics = ", ".join(f"{name} {value:.3f}" for name, value in found[kept].items())
        print(f"kept: step {kept}; best of {len(found)} validations: step {fit.best_step}. At step {kept}: {metrics}")
    for tower in towers:
        argument = "" if tower == "text" else f', tower="{tower}"'
        print(f"\n{out / tower}")
        print(f'    safeencoders.load("{out}"{argument})')
        print(f'    transformers.{CLASSES[tower]}.from_pretrained("{out / tower}")')
    print(f"\n{out / RESULT}")


def manifest_of(start: Start, data: Data, recipe: Recipe, ends: Mapping[str, str], begin: float) -> dict[str, Any]:
    """Return the manifest of a run; ``ends`` are the fingerprints of the towers that it made."""
    from safeencoders.provenance import manifest

    return manifest(
        ["safeencoders", *sys.argv[1:]],
        seeds={"training": recipe.schedule.seed},
        weights={"start": start.sha256, **ends},
        data={data.row["source"]: data.sha256},
        seconds=time.monotonic() - begin,
    )
