"""One loop for everything that is trained here, in resumable slices.

Everything random is drawn from (seed, step), so a run that was killed and resumed gives the same weights as
one that was not. A checkpoint is written to a temporary name and renamed.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to fit.

    Attributes:
        steps: optimiser steps in all.
        batch: quadruplets (or pictures) in a step.
        learning_rate: peak rate of AdamW.
        warmup: steps of linear warm-up.
        decay: share of the steps, at the end, over which the rate falls to zero along a cosine.
        weight_decay: AdamW's, on matrices only.
        ema: decay of the moving average of the weights; 0 keeps none.
        seed: of the weights and of every batch.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    decay: float = 1.0
    weight_decay: float = 0.01
    ema: float = 0.0
    seed: int = 0

    def rate(self, step: int) -> float:
        """Return the learning rate at a step (0-based)."""
        falling = max(1, round(self.steps * self.decay))
        share = max(0.0, (step - (self.steps - falling)) / falling)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


class Task(Protocol):
    """What is fitted: a module and the loss of a step."""

    module: nn.Module

    def loss(self, step: int) -> Tensor:
        """Return the scalar loss of the step's batch."""
        ...


TaskT = TypeVar("TaskT", bound=Task)


class Fit(Generic[TaskT]):
    """The state of a fit: weights, their moving average, optimiser, step and loss curve."""

    def __init__(self, task: TaskT, schedule: Schedule, checkpoint: Path) -> None:
        self.task, self.schedule, self.checkpoint = task, schedule, checkpoint
        matrices = [p for p in task.module.parameters() if p.requires_grad and p.ndim > 1]
        others = [p for p in task.module.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98))
        self.average = {name: value.detach().clone() for name, value in task.module.state_dict().items()}
        self.step, self.seconds = 0, 0.0
        self.curve: list[tuple[int, float]] = []
        if checkpoint.exists():
            self._load()

    def _load(self) -> None:
        state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        self.task.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.step = state["average"], state["step"]
        self.seconds, self.curve = state["seconds"], state["curve"]

    def save(self) -> None:
        """Write the checkpoint under a temporary name and rename it."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoint.with_suffix(".tmp")
        state = {"module": self.task.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        rest = {"average": self.average, "step": self.step, "seconds": self.seconds, "curve": self.curve}
        torch.save(state | rest, temporary)
        os.replace(temporary, self.checkpoint)

    def _one(self) -> float:
        rate = self.schedule.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(self.schedule.seed * 1_000_003 + self.step)
        loss = self.task.loss(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        nn.utils.clip_grad_norm_(self.task.module.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        if self.schedule.ema:
            keep = min(self.schedule.ema, (1 + self.step) / (10 + self.step))
            for name, value in self.task.module.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - keep)
        return float(loss.detach())

    def run(self, title: str, seconds: float, every: float = 30.0) -> bool:
        """Go on for at most the given seconds; return whether all steps are done.

        Args:
            title: shown by the progress bar.
            seconds: wall-clock length of this slice.
            every: seconds between checkpoints.
        """
        self.task.module.train()
        begin = saved = time.monotonic()
        before, smooth = self.seconds, None
        with tqdm(total=self.schedule.steps, initial=self.step, desc=title, mininterval=5) as bar:
            while self.step < self.schedule.steps and time.monotonic() - begin < seconds:
                loss = self._one()
                smooth = loss if smooth is None else 0.98 * smooth + 0.02 * loss
                bar.update()
                if self.step % 10 == 0 or self.step == self.schedule.steps:
                    self.curve.append((self.step, round(smooth, 5)))
                    bar.set_postfix(loss=f"{smooth:.4f}")
                if time.monotonic() - saved > every:
                    self.seconds = before + time.monotonic() - begin
                    self.save()
                    saved = time.monotonic()
        self.seconds = before + time.monotonic() - begin
        self.save()
        return self.step >= self.schedule.steps

    def finish(self) -> None:
        """Put the moving average, if one is kept, into the module."""
        if self.schedule.ema:
            self.task.module.load_state_dict(self.average)
        self.task.module.eval()
