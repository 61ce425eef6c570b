"""The plan of a training before it begins: formula, sizes, memory and time on this machine.

Memory in bytes, on the device, in float32 but for activations under bf16:

    weights      4 (weights of the CLIP, of an edit's tuned copy and of its original), each tensor counted once
    gradients    4 M, M being the weights that may move
    optimizer    8 M for AdamW's two moments, 4 M more for each of a moving average and the best validated weights
    activations  what autograd keeps: a line through its bytes for one row and for the rows of the trial
    checkpoint   in the host's memory, while it is written and no activations are held: a copy of the M weights, and
                 twice what the file holds, the weights and the optimizer's part

Time: what reading one batch takes, and rows of a batch / rows of the trial x what the trial took, forward and backward;
a third more with micro-batches, whose first pass runs without a gradient. Both are estimates: a GPU encodes many rows
faster than a few, working memory is not counted, and neither are validations.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from safeencoders.training.loop import Fit
    from safeencoders.training.objectives.terms import Kind, Role, Source
    from safeencoders.training.readers import Reader
    from safeencoders.training.redirect import RedirectTask

TRIAL_ROWS = 4


@dataclass(frozen=True)
class Trial:
    """One forward and backward pass over a few rows of the first batch.

    Attributes:
        rows: how many.
        seconds: it took.
        read_seconds: reading a whole batch took.
        fixed: bytes that autograd keeps between forward and backward however many rows there are.
        per_row: further bytes for each row.
    """

    rows: int
    seconds: float
    read_seconds: float
    fixed: float
    per_row: float


@dataclass(frozen=True)
class Plan:
    """What a run is going to do.

    Attributes:
        model: name of the CLIP.
        weights: its size.
        recipe: name.
        formula: the objective's terms that are left.
        trainable: weights that may move, by tower.
        steps: optimiser steps in all.
        done: those of an earlier run that is resumed.
        batch: rows of a step on all processes.
        micro_batch: rows that a process encodes at a time.
        rows: there are to train on; None where every batch is drawn anew.
        epochs: how often each row is seen, None likewise.
        held: held-out rows; 0 for no validation.
        validate_every: steps between validations; 0 for none.
        keep_best: whether the weights of the best validation are kept rather than the last.
        device: type of the device.
        precision: "fp32" or "bf16".
        processes: that train together.
        memory: bytes of each process by purpose.
        seconds: of the steps that are left.
        trial_rows: rows on which memory and time were estimated.
    """

    model: str
    weights: int
    recipe: str
    formula: str
    trainable: Mapping[str, int]
    steps: int
    done: int
    batch: int
    micro_batch: int
    rows: int | None
    epochs: float | None
    held: int
    validate_every: int
    keep_best: bool
    device: str
    precision: str
    processes: int
    memory: Mapping[str, int]
    seconds: float
    trial_rows: int

    @property
    def peak(self) -> int:
        """The most memory that a process needs on the device."""
        steady = sum(self.memory[name] for name in ("weights", "gradients", "optimizer"))
        passing = self.memory["activations"]
        return steady + (max(passing, self.memory["checkpoint"]) if self.device == "cpu" else passing)

    def row(self) -> dict[str, Any]:
        """Return it for a JSON file."""
        return asdict(self) | {"peak": self.peak}

    def text(self) -> str:
        """Return it as a table for the terminal."""
        parts = ", ".join(f"{name} {_size(size)}" for name, size in self.memory.items())
        trained = ", ".join(f"{name} {size:,}" for name, size in self.trainable.items())
        seen = "drawn anew" if self.epochs is None else f"{self.epochs:.3g} times over {self.rows:,} rows"
        done = f", {self.done:,} done" if self.done else ""
        which = "best" if self.keep_best else "last"
        kept = f"{self.held:,} rows every {self.validate_every:,} steps; the {which} weights are kept"
        lines = {
            "model": f"{self.model}, {self.weights:,} weights",
            "recipe": self.recipe,
            "formula": self.formula,
            "trainable": f"{trained}; {sum(self.trainable.values()):,} in all",
            "steps": f"{self.steps:,} of {self.batch:,} rows, {self.micro_batch:,} at a time, {seen}{done}",
            "validation": kept if self.held and self.validate_every else "none; the last weights are kept",
            "machine": f"{self.device}, {self.precision}, processes: {self.processes}",
            "memory, estimated": f"{_size(self.peak)} at most: {parts} (not with activations)",
            "time, estimated": f"{_words(self.seconds)}, from a trial on {self.trial_rows} rows",
        }
        return "\n".join(f"{name:<26} {value}" for name, value in lines.items())


def try_rows(clip: nn.Module, task: RedirectTask, reader: Reader, part: tuple[int, int], most: int) -> Trial:
    """Go forward and backward over one row and then over a few rows of the first batch; weights do not move.

    Args:
        clip: the original.
        part: which process this is, and how many there are.
        most: rows that a process encodes at a time.
    """
    begin = time.monotonic()
    batch = reader.batch(0, part)
    read_seconds = time.monotonic() - begin
    count = min(max(len(rows) for rows in batch.values()), most, TRIAL_ROWS)
    own = _storages(clip, task)
    task.module.train()
    one = _pass(task, _first(batch, 1, task), own)
    _wait()
    begin = time.monotonic()
    kept = _pass(task, _first(batch, count, task), own)
    _wait()
    per_row = (kept - one) / (count - 1) if count > 1 else one
    return Trial(count, time.monotonic() - begin, read_seconds, one - per_row, per_row)


def _first(batch: Mapping[Role, Tensor], count: int, task: RedirectTask) -> dict[Role, Tensor]:
    """Return the first rows, on the device; of a role with fewer rows, such as look-alikes, its share."""
    share = count / max(len(rows) for rows in batch.values())
    few = {role: rows[: max(1, round(share * len(rows)))].to(task.encoders.device) for role, rows in batch.items()}
    return task.with_attacks(few, 0)


def _pass(task: RedirectTask, batch: Mapping[Role, Tensor], own: Mapping[int, int]) -> int:
    """Return the bytes that autograd kept, those of the weights' own storages left out."""
    from torch.autograd.graph import saved_tensors_hooks

    from safeencoders.training.objectives.terms import Embeddings

    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    wanted: dict[Source, set[Kind]] = {}
    for source, kind in task.objective.wants:
        wanted.setdefault(source, set()).add(kind)
    with saved_tensors_hooks(note, lambda tensor: tensor):
        known = {
            (source, kind): value
            for source, kinds in wanted.items()
            for kind, value in task.encoders.encode(source, kinds, batch).items()
        }
        loss = task.objective.value(Embeddings(known, task.encoders.scale))
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    task.module.zero_grad(set_to_none=True)
    return sum(kept.values())


def memory(fit: Fit[RedirectTask], clip: nn.Module, trial: Trial, rows: int) -> dict[str, int]:
    """Return the bytes a process needs by purpose; the formula is the module's.

    Args:
        rows: that it encodes at a time.
    """
    task, schedule = fit.task, fit.schedule
    moving = sum(p.numel() for p in task.module.parameters() if p.requires_grad)
    copies = 2 + bool(schedule.ema) + bool(schedule.validate_every and schedule.keep_best)
    return {
        "weights": sum(_storages(clip, task).values()),
        "gradients": 4 * moving,
        "optimizer": 4 * moving * copies,
        "activations": round(max(0.0, trial.fixed) + trial.per_row * rows),
        "checkpoint": 4 * moving * (1 + 2 * (1 + copies)),
    }


def seconds(fit: Fit[RedirectTask], trial: Trial, rows: int, most: int) -> float:
    """Return the time of the steps that are left; the formula is the module's.

    Args:
        rows: of a batch that fall to a process.
        most: that it encodes at a time.
    """
    twice = rows > most and not fit.task.objective.decomposes
    step = trial.read_seconds + trial.seconds * rows / trial.rows * (4 / 3 if twice else 1)
    return step * (fit.schedule.steps - fit.step)


def _storages(clip: nn.Module, task: RedirectTask) -> dict[int, int]:
    """Return the bytes of every weight of the original and of the edits, by place."""
    values = list(clip.parameters())
    for edit in task.edits.values():
        with edit.reference() as original:
            values += [*edit.tuned.parameters(), *original.parameters()]
    return {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in values}


def _wait() -> None:
    """Let the device end what it was told to do, so that a clock tells the truth."""
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def _size(count: int) -> str:
    """Say a number of bytes: 40 MB, 3.5 GB."""
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def _words(duration: float) -> str:
    """Say a time as a person would: 40 s, 12 min, 3.5 h."""
    if duration < 100:
        return f"{duration:.0f} s"
    return f"{duration / 60:.0f} min" if duration < 6000 else f"{duration / 3600:.1f} h"
