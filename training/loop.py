"""One loop for everything that is trained here, in resumable slices.

Everything random is drawn from (seed, step), so a run that was killed and resumed gives the same weights as
one that was not. A checkpoint holds weights that gave a finite loss; it is written to a temporary name and renamed.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from safeencoders.errors import BadInputError
from safeencoders.training import checkpoints
from safeencoders.training.distributed import from_first, rank

SCORE = "score"
WINDOW = 20
MAX_SEED = 2**32


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to fit.

    Attributes:
        steps: optimiser steps in all.
        batch: quadruplets (or pictures) in a step.
        learning_rate: peak rate of AdamW.
        warmup: steps of linear warm-up.
        decay: share of the steps, at the end, over which the rate falls to zero along a cosine; 0 keeps it.
        weight_decay: AdamW's, on matrices only.
        betas: AdamW's.
        clip: largest norm of the gradient.
        ema: decay of the moving average of the weights; 0 keeps none.
        validate_every: steps between two validations; 0 for none.
        keep_best: whether the weights of the best validation are kept rather than the last.
        patience: validations without a better score after which training ends; 0 never ends it.
        seed: of the weights and of every batch.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    decay: float = 1.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    ema: float = 0.0
    validate_every: int = 0
    keep_best: bool = True
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not 0 < self.learning_rate < math.inf:
            raise BadInputError(
                "expected steps >= 1, batch >= 1 and a finite learning_rate > 0, "
                f"got {self.steps}, {self.batch} and {self.learning_rate}"
            )
        if not 0 <= self.decay <= 1 or not 0 <= self.ema < 1 or self.warmup < 0:
            raise BadInputError(
                f"expected decay in 0..1, ema in 0..1 and warmup >= 0, got {self.decay}, {self.ema}, {self.warmup}"
            )
        if not 0 <= self.weight_decay < math.inf or not self.clip > 0 or not all(0 <= b < 1 for b in self.betas):
            raise BadInputError(
                "expected a finite weight_decay >= 0, clip > 0 and betas in 0..1, "
                f"got {self.weight_decay}, {self.clip} and {self.betas}"
            )
        if self.validate_every < 0 or self.patience < 0 or not 0 <= self.seed < MAX_SEED:
            raise BadInputError(
                f"expected validate_every >= 0, patience >= 0 and a seed in 0..{MAX_SEED - 1}, "
                f"got {self.validate_every}, {self.patience} and {self.seed}"
            )

    def rate(self, step: int) -> float:
        """Return the learning rate at a step (0-based)."""
        falling = max(1, round(self.steps * self.decay))
        share = max(0.0, (step - (self.steps - falling)) / falling)
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


class DivergedError(BadInputError):
    """The loss is not a number, or grew instead of falling."""


class Task(Protocol):
    """What is fitted: a module and the gradient of a step's loss."""

    module: nn.Module

    def backward(self, step: int) -> float:
        """Add the gradient of the step's batch to the module's parameters; return the loss."""
        ...


class LossTask:
    """A task that is given by its loss.

    Attributes:
        module: what is fitted.
    """

    module: nn.Module

    def loss(self, step: int) -> Tensor:
        """Return the scalar loss of the step's batch."""
        raise NotImplementedError

    def backward(self, step: int) -> float:
        """Add the gradient of the loss to the module's parameters; return the loss."""
        loss = self.loss(step)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        return float(loss.detach())


TaskT = TypeVar("TaskT", bound=Task)
Metrics = dict[str, float]


class Fit(Generic[TaskT]):
    """The state of a fit: weights, their moving average, optimiser, step, loss curve and validations.

    Args:
        checkpoint: file from which the fit resumes, if it is there, and to which it saves.
        validate: measures the module; its "score" is what the best weights have most of.
        identity: what the run is, by name; a checkpoint of another run is refused.
        log: is told every loss and metric with its step, for example a tensorboard tracker.

    Raises:
        BadInputError: the checkpoint is damaged, or another run's.
    """

    def __init__(
        self,
        task: TaskT,
        schedule: Schedule,
        checkpoint: Path,
        *,
        validate: Callable[[], Metrics] | None = None,
        identity: Mapping[str, str] | None = None,
        log: Callable[[Metrics, int], None] | None = None,
    ) -> None:
        self.task, self.schedule, self.checkpoint = task, schedule, checkpoint
        self._validate = validate if schedule.validate_every else None
        self._identity, self._log = dict(identity or {}), log
        self._moving = {name: p for name, p in task.module.named_parameters() if p.requires_grad}
        matrices = [p for p in self._moving.values() if p.ndim > 1]
        others = [p for p in self._moving.values() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=schedule.betas)
        self.average = self._weights() if schedule.ema else {}
        self.step, self.seconds, self.resumed_from_step = 0, 0.0, 0
        self.curve: list[tuple[int, float]] = []
        self.validations: list[tuple[int, Metrics]] = []
        self.best: dict[str, Tensor] = {}
        self._smooth: float | None = None
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=WINDOW)
        checkpoints.remove_partial(checkpoint)
        if checkpoint.exists():
            self._load()

    def _weights(self) -> dict[str, Tensor]:
        """Return a copy of what a run can change: parameters that move, and buffers."""
        fixed = {name for name, p in self.task.module.named_parameters() if not p.requires_grad}
        state = self.task.module.state_dict()
        return {name: value.detach().clone() for name, value in state.items() if name not in fixed}

    def _put(self, weights: Mapping[str, Tensor]) -> None:
        known = self.task.module.state_dict()
        foreign = [name for name, value in weights.items() if name not in known or known[name].shape != value.shape]
        if foreign or set(self._moving) - set(weights):
            raise BadInputError(f"expected a checkpoint of this model in {self.checkpoint}, got other weights")
        self.task.module.load_state_dict(weights, strict=False)

    def _load(self) -> None:
        found = checkpoints.read(self.checkpoint)
        checkpoints.refuse_other_run(self.checkpoint, self._identity, found.numbers["identity"])
        self._put(found.part("module"))
        checkpoints.restore_optimizer(self.optimizer, found.part("optimizer"))
        self.average = {name: v.to(self.average[name].device) for name, v in found.part("average").items()}
        self.best = found.part("best")
        numbers = found.numbers
        self.step = self.resumed_from_step = numbers["step"]
        self.seconds, self._smooth, self._first = numbers["seconds"], numbers["smooth"], numbers["first"]
        self._last.extend(numbers["last"])
        self.curve = [(step, loss) for step, loss in numbers["curve"]]
        self.validations = [(step, metrics) for step, metrics in numbers["validations"]]

    def _buffers(self) -> dict[str, Tensor]:
        parameters = dict(self.task.module.named_parameters())
        state = self.task.module.state_dict()
        return {name: value.detach().clone() for name, value in state.items() if name not in parameters}

    def save(self, buffers: Mapping[str, Tensor] | None = None) -> None:
        """Write the checkpoint under a temporary name and rename it; one process writes for all.

        Args:
            buffers: the module's, where a pass has changed them since the last whole step.

        Raises:
            OutputError: the disk is full, or the place not writable; the last checkpoint stays.
        """
        if rank():
            return
        module = {**self._weights(), **(buffers or {})}
        parts = {"module": module, "optimizer": checkpoints.optimizer_tensors(self.optimizer)}
        numbers = {
            "identity": self._identity,
            "step": self.step,
            "seconds": self.seconds,
            "smooth": self._smooth,
            "first": self._first,
            "last": list(self._last),
            "curve": self.curve,
            "validations": self.validations,
        }
        checkpoints.write(self.checkpoint, parts | {"average": self.average, "best": self.best}, numbers)

    def _one(self, *, save: Callable[[Mapping[str, Tensor]], None]) -> None:
        """Take one step; ``save`` is called between gradient and update, where the weights are known to be good."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        torch.manual_seed(self.schedule.seed * 1_000_003 + self.step)
        self.optimizer.zero_grad(set_to_none=True)
        buffers = self._buffers()
        loss = self.task.backward(self.step)
        norm = float(nn.utils.clip_grad_norm_(self._moving.values(), self.schedule.clip))
        self._guard(loss, norm)
        save(buffers)
        self.optimizer.step()
        self.step += 1
        self._remember(loss)
        if self.schedule.ema:
            keep = min(self.schedule.ema, (1 + self.step) / (10 + self.step))
            for name, value in self._weights().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - keep)

    def _guard(self, loss: float, norm: float) -> None:
        """Stop a run that has come to nothing; the last checkpoint holds the last good weights."""
        recent = sum(self._last) / WINDOW if len(self._last) == WINDOW else 0.0
        first = sum(self._first) / WINDOW if len(self._first) == WINDOW else math.inf
        if math.isfinite(loss) and math.isfinite(norm) and recent <= 2 * abs(first) + 1:
            return
        what = "is not a number" if not math.isfinite(loss + norm) else f"grew from {first:.3g} to {recent:.3g}"
        raise DivergedError(
            f"expected a loss that falls, but at step {self.step} it {what} (learning_rate "
            f"{self.schedule.learning_rate:g}). Lower learning_rate, lengthen warmup, or check the starting weights "
            f"for NaN; the last good state is in {self.checkpoint}"
        )

    def _remember(self, loss: float) -> None:
        self._smooth = loss if self._smooth is None else 0.98 * self._smooth + 0.02 * loss
        if len(self._first) < WINDOW:
            self._first.append(loss)
        self._last.append(loss)
        if self.step % 10 == 0 or self.step == self.schedule.steps:
            self.curve.append((self.step, round(self._smooth, 5)))
            self._tell({"loss": self._smooth, "learning_rate": self.schedule.rate(self.step - 1)})

    def _tell(self, metrics: Metrics) -> None:
        if self._log and not rank():
            self._log(metrics, self.step)

    def _check(self) -> None:
        """Validate where it is due, and keep the best weights."""
        every = self.schedule.validate_every
        if self._validate is None or (self.step % every and self.step != self.schedule.steps):
            return
        self.task.module.eval()
        metrics = from_first(self._validate())
        self.task.module.train()
        best = not self.validations or metrics[SCORE] >= max(m[SCORE] for _, m in self.validations)
        if best and self.schedule.keep_best:
            self.best = self._weights()
        self.validations.append((self.step, metrics))
        self._tell({f"validation/{name}": value for name, value in metrics.items()})

    @property
    def best_step(self) -> int | None:
        """The step of the best validation, the last of equals; None where nothing was validated."""
        found = max(self.validations, key=lambda entry: (entry[1][SCORE], entry[0]), default=None)
        return None if found is None else found[0]

    def done(self) -> bool:
        """Return whether all steps are taken, or patience has run out."""
        patience = self.schedule.patience
        if patience and len(self.validations) > patience:
            scores = [metrics[SCORE] for _, metrics in self.validations]
            if max(scores[-patience:]) <= max(scores[:-patience]):
                return True
        return self.step >= self.schedule.steps

    def run(self, title: str, seconds: float = math.inf, every: float = 30.0) -> bool:
        """Go on for at most the given seconds; return whether the fit is done.

        Args:
            title: shown by the progress bar.
            seconds: wall-clock length of this slice.
            every: seconds between checkpoints.

        Raises:
            DivergedError: the loss is not finite, or is twice what it was in the beginning.
            OutputError: a checkpoint cannot be written.
        """
        self.task.module.train()
        begin = saved = time.monotonic()
        before = self.seconds

        def save(buffers: Mapping[str, Tensor]) -> None:
            nonlocal saved
            self.seconds = before + time.monotonic() - begin
            if time.monotonic() - saved > every:
                self.save(buffers)
                saved = time.monotonic()

        with tqdm(total=self.schedule.steps, initial=self.step, desc=title, mininterval=5, disable=rank() > 0) as bar:
            while not self.done() and (seconds == math.inf or from_first(time.monotonic() - begin < seconds)):
                self._one(save=save)
                self._check()
                bar.update()
                bar.set_postfix(self._shown(), refresh=False)
        self.seconds = before + time.monotonic() - begin
        self._refuse_nan()
        self.save()
        return self.done()

    def _shown(self) -> dict[str, str]:
        shown = {"loss": f"{self._smooth:.4f}"}
        if self.validations:
            shown["score"] = f"{self.validations[-1][1][SCORE]:.3f}"
        return shown

    def _refuse_nan(self) -> None:
        if any(not torch.isfinite(p).all() for p in self._moving.values()):
            self._guard(math.nan, math.nan)

    def finish(self) -> None:
        """Put the best validated weights, or the moving average, into the module, where either is kept."""
        kept: Mapping[str, Any] = self.best or self.average
        if kept:
            self._put(kept)
        self.task.module.eval()
