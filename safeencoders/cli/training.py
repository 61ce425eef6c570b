"""What `safeencoders train` does: check, report, fit in slices that survive a kill, and write the towers.

While it runs, OUT/run holds recipe.json and the checkpoint. At the end OUT holds text/ and vision/, curve.svg and,
written last, train.json; OUT/run is gone. Several processes fit together; the main one alone prints and writes.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from safeencoders.cli.measure import refuse_unwritable
from safeencoders.cli.train_inputs import Asked, Data, Start, load_start, open_data
from safeencoders.cli.train_outputs import CHECKPOINT, RESULT, RUN, manifest_of, write_outputs
from safeencoders.errors import BadInputError, MissingExtraError, OutputError
from safeencoders.files import read_json, write_json
from safeencoders.fingerprint import fingerprint

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-untyped]  # no py.typed marker

    from safeencoders.cli.estimate import Plan
    from safeencoders.training.loop import Fit
    from safeencoders.training.recipe import Recipe
    from safeencoders.training.redirect import RedirectTask

PRECISIONS = {"fp32": "no", "bf16": "bf16"}
VALIDATIONS = 5
PACKAGES = ("accelerate", "peft", "pydantic", "matplotlib", "tensorboard")
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def run_train(asked: Asked) -> None:
    """Train as asked and write the towers to a new folder, or go on with the run that is there.

    Raises:
        BadInputError: an option, the recipe, the model or the data cannot be used, or the run diverged or ran out of
            memory; what was reached before stays in the folder.
        OutputError: the folder is not empty, or cannot be written; the last checkpoint stays.
        MissingExtraError: a package of the extra ``train`` is not installed.
    """
    begin = time.monotonic()
    for package in PACKAGES:
        if find_spec(package) is None:
            raise MissingExtraError(package, "train")
    from safeencoders.training.checkpoints import refuse_other_run

    refuse_unwritable(asked.json_file)
    accelerator = _accelerator(asked)
    finished = asked.resume and (asked.out / RESULT).is_file()
    if not finished:
        _refuse_folder(asked)
    recipe = _recipe(asked)
    start = load_start(asked.model, asked.towers_from)
    data = open_data(asked, start, recipe.schedule)
    recipe = _fitted(recipe, data, accelerator)
    identity = identity_of(recipe, start, data, asked.validation)
    if finished:
        refuse_other_run(asked.out / RESULT, identity, read_json(asked.out / RESULT)["training"]["identity"])
        accelerator.print(f"already finished: {asked.out / RESULT}")
        return
    _train(asked, recipe, start, data, accelerator, identity, begin)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _train(
    asked: Asked,
    recipe: Recipe,
    start: Start,
    data: Data,
    accelerator: Accelerator,
    identity: dict[str, str],
    begin: float,
) -> None:
    from safeencoders.training.run import prepare

    per_process = -(-recipe.schedule.batch // accelerator.num_processes)
    rows = min(asked.micro_batch or per_process, per_process)
    with _memory_explained(recipe, rows, accelerator):
        fit = prepare(
            start.clip,
            recipe,
            data.reader,
            asked.out / RUN / CHECKPOINT,
            rows=data.held,
            micro_batch=asked.micro_batch,
            accelerator=accelerator,
            identity=identity,
            log=accelerator.log if asked.tensorboard else None,
            start=start.towers,
        )
        plan = _plan(fit, recipe, start, data, accelerator, rows) if accelerator.is_main_process else None
        if plan is not None:
            print(f"{data.report}\n{plan.text()}", flush=True)
        if asked.dry_run:
            if plan is not None and asked.json_file is not None:
                said = {"plan": plan.row(), "data": data.row, "manifest": manifest_of(start, data, recipe, {}, begin)}
                write_json(asked.json_file, said)
            return
        _begin(asked, recipe, fit, accelerator)
        _fit(fit, recipe.name, accelerator)
    fit.finish()
    if accelerator.is_main_process:
        write_outputs(asked, fit, recipe, start, data, accelerator.num_processes, identity, begin)


def _accelerator(asked: Asked) -> Accelerator:
    """Choose device and precision; under torchrun, meet the other processes."""
    import torch
    from accelerate import Accelerator

    capable = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    precision = ("bf16" if capable else "fp32") if asked.precision == "auto" else asked.precision
    if precision not in PRECISIONS:
        hint = "; fp16 needs loss scaling and overflows here: use bf16" if precision == "fp16" else ""
        raise BadInputError(f"expected --precision auto, fp32 or bf16, got {precision!r}{hint}.")
    if precision == "bf16" and torch.cuda.is_available() and not capable:
        raise BadInputError("expected a GPU with bf16 for --precision bf16, got an older one; use --precision fp32.")
    return Accelerator(
        cpu=not torch.accelerator.is_available(),  # without it, torchrun's processes on a CPU would not meet
        mixed_precision=PRECISIONS[precision],
        log_with="tensorboard" if asked.tensorboard else None,
        project_dir=str(asked.out),
    )


def _refuse_folder(asked: Asked) -> None:
    """Raise OutputError unless the folder is new or empty, or holds a run that shall be resumed."""
    out = asked.out
    if out.exists() and not out.is_dir():
        raise OutputError(f"expected a new output folder, but {out} is a file; choose another --out.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not asked.resume:
        raise OutputError(
            f"expected a new output folder, but {out} is not empty; choose another --out, or add --resume to go on "
            "with the run in it."
        )
    if not (out / RUN).is_dir():
        raise OutputError(f"expected a run in {out} for --resume, found other files; choose another --out.")


def _recipe(asked: Asked) -> Recipe:
    """Read the recipe, with the seed, towers, batch and length that were asked for."""
    from safeencoders.training.recipe import names, read
    from safeencoders.training.run import changed

    recipe = read(asked.recipe)
    if not recipe.objective:
        known = ", ".join(name for name in names() if read(name).objective)
        raise BadInputError(
            f"expected a recipe with an objective, got {asked.recipe!r}, which makes a base model of the world; "
            f"use one of: {known}."
        )
    seed = recipe.schedule.seed if asked.seed is None else asked.seed
    steps = min(asked.max_steps or recipe.schedule.steps, recipe.schedule.steps)
    return changed(recipe, seed=seed, steps=steps, batch=asked.batch, towers=asked.towers)


def _fitted(recipe: Recipe, data: Data, accelerator: Accelerator) -> Recipe:
    """Leave a tower out that the data have nothing for, and say so; validate where there are held-out rows."""
    from safeencoders.training.run import TOWERS

    roles, towers = data.reader.roles, TOWERS[recipe.towers]
    left = recipe.terms().usable(lambda s: s.role in roles and (not s.tuned or s.tower in towers))
    able = {source.tower for source, _ in left.wants if source.tuned}
    if recipe.towers == "both" and len(able) == 1:
        tower = able.pop()
        accelerator.print(
            f"NOTE: only the {tower} tower is trained, for the data has {', '.join(sorted(roles))} alone "
            f"(t, t* are safe and unsafe texts, v, v* pictures); both were asked for."
        )
        recipe = dataclasses.replace(recipe, towers=tower)
    schedule = recipe.schedule
    if data.held is not None and not schedule.validate_every:
        every = max(1, schedule.steps // VALIDATIONS)
        schedule = dataclasses.replace(schedule, validate_every=every, keep_best=False)
    return dataclasses.replace(recipe, schedule=schedule)


def identity_of(recipe: Recipe, start: Start, data: Data, validation: float) -> dict[str, str]:
    """Say what the run is, each number of the recipe by its name, so that a refused resume names what differs."""
    said: dict[str, Any] = {"model": start.sha256, "data": data.sha256}
    said["towers from"] = {name: fingerprint(tower) for name, tower in start.towers.items()}
    if data.count is not None:
        said["validation"] = validation
    for key, value in dataclasses.asdict(recipe).items():
        if isinstance(value, dict):
            said |= {f"{key}.{name}": number for name, number in value.items()}
        elif key not in {"name", "about"}:
            said[key] = value
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in said.items()}


def _plan(
    fit: Fit[RedirectTask], recipe: Recipe, start: Start, data: Data, accelerator: Accelerator, rows: int
) -> Plan:
    """Try a few rows and say what the run is going to do; ``rows`` are encoded at a time."""
    from safeencoders.cli.estimate import Plan, memory, seconds, try_rows
    from safeencoders.training.edits import trainable

    schedule, processes = recipe.schedule, accelerator.num_processes
    part = (accelerator.process_index, processes)
    trial = try_rows(start.clip, fit.task, data.reader, part, rows)
    return Plan(
        model=start.name,
        weights=sum(p.numel() for p in start.clip.parameters()),
        recipe=f"{recipe.name}, seed {schedule.seed}",
        formula=str(fit.task.objective),
        trainable=trainable({name: edit.tuned for name, edit in fit.task.edits.items()}),
        steps=schedule.steps,
        done=fit.step,
        batch=schedule.batch,
        micro_batch=rows,
        rows=data.count,
        epochs=None if data.count is None else schedule.steps * schedule.batch / data.count,
        held=data.held_count,
        validate_every=schedule.validate_every,
        keep_best=schedule.keep_best,
        device=accelerator.device.type,
        precision="bf16" if accelerator.mixed_precision == "bf16" else "fp32",
        processes=processes,
        memory=memory(fit, start.clip, trial, rows),
        seconds=seconds(fit, trial, -(-schedule.batch // processes), rows),
        trial_rows=trial.rows,
    )


def _begin(asked: Asked, recipe: Recipe, fit: Fit[RedirectTask], accelerator: Accelerator) -> None:
    """Write what a resume needs before the first step, so that even a run that fails at once can be told from none."""
    accelerator.wait_for_everyone()  # every process has looked at the folder before anything is written
    if accelerator.is_main_process:
        for folder in (asked.out, asked.out / RUN):
            for partial in folder.glob(".*.partial"):  # what a kill left of an unfinished write
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
        write_json(asked.out / RUN / "recipe.json", dataclasses.asdict(recipe))
        if not fit.checkpoint.exists():
            fit.save()
    if asked.tensorboard:
        accelerator.init_trackers("tensorboard")


def _fit(fit: Fit[RedirectTask], title: str, accelerator: Accelerator) -> None:
    try:
        fit.run(title)
    except KeyboardInterrupt:
        accelerator.print(f"\nstopped at step {fit.step}; go on with the same command and --resume")
        raise


@contextmanager
def _memory_explained(recipe: Recipe, rows: int, accelerator: Accelerator) -> Iterator[None]:
    """Turn a lack of memory into BadInputError that names the options which help."""
    import torch

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        full = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not full and not any(text in str(error).lower() for text in NO_MEMORY):
            raise
        remedies = [f"--micro-batch {rows // 2}"] if rows > 1 else []
        remedies += ["--precision bf16"] if accelerator.mixed_precision != "bf16" else []
        remedies += ['edit kind = "lora" in the recipe'] if recipe.edit.kind != "lora" else []
        raise BadInputError(
            f"expected the run to fit into the memory of {accelerator.device}, but it ran out with {rows} rows at a "
            f"time; try {', '.join(remedies) or 'a smaller model'}. The last checkpoint is kept for --resume."
        ) from error
