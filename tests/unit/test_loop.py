"""The loop: a run that was cut resumes to the same bits, and a checkpoint is never half-written."""

import pytest
import torch
from torch import nn

from safeencoders.training.loop import Fit, Schedule


class Toy:
    """Least squares on batches drawn from the step's seed."""

    def __init__(self):
        torch.manual_seed(7)
        self.module = nn.Linear(3, 1)

    def loss(self, _step):
        x = torch.randn(8, 3)
        return (self.module(x) - x.sum(1, keepdim=True)).square().mean()


class Cut(Toy):
    """Fails at a step, as a killed run would."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def loss(self, step):
        if step == self.at:
            raise KeyboardInterrupt
        return super().loss(step)


SCHEDULE = Schedule(steps=40, batch=8, learning_rate=0.05, warmup=5, ema=0.9)


def weights(fit):
    return torch.cat([p.detach().flatten() for p in fit.task.module.parameters()])


def test_a_run_cut_between_checkpoints_resumes_to_the_same_bits(tmp_path):
    whole = Fit(Toy(), SCHEDULE, tmp_path / "whole.pt")
    assert whole.run("whole", seconds=60)
    cut = Fit(Cut(at=23), SCHEDULE, tmp_path / "cut.pt")
    with pytest.raises(KeyboardInterrupt):
        cut.run("cut", seconds=60, every=0.0)
    resumed = Fit(Toy(), SCHEDULE, tmp_path / "cut.pt")
    assert 0 < resumed.step <= 23
    assert resumed.run("resumed", seconds=60)
    assert torch.equal(weights(whole), weights(resumed))
    assert all(torch.equal(whole.average[k], resumed.average[k]) for k in whole.average)


def test_another_seed_gives_other_bits(tmp_path):
    runs = []
    for seed in (0, 1):
        schedule = Schedule(steps=10, batch=8, learning_rate=0.05, warmup=5, seed=seed)
        fit = Fit(Toy(), schedule, tmp_path / f"{seed}.pt")
        fit.run("run", seconds=60)
        runs.append(weights(fit))
    assert not torch.equal(*runs)


def test_a_slice_that_ends_says_that_it_is_not_done(tmp_path):
    fit = Fit(Toy(), SCHEDULE, tmp_path / "slice.pt")
    assert not fit.run("slice", seconds=0)
    assert fit.checkpoint.exists()
    assert not list(tmp_path.glob("*.tmp"))


def test_the_rate_rises_then_falls_to_nothing():
    schedule = Schedule(steps=100, batch=1, learning_rate=1.0, warmup=10, decay=0.5)
    assert schedule.rate(0) == pytest.approx(0.1)
    assert schedule.rate(30) == pytest.approx(1.0)
    assert schedule.rate(75) == pytest.approx(0.5)
    assert schedule.rate(99) < 0.01


def test_finish_puts_the_moving_average_into_the_module(tmp_path):
    fit = Fit(Toy(), SCHEDULE, tmp_path / "ema.pt")
    fit.run("ema", seconds=60)
    before = weights(fit)
    fit.finish()
    assert not torch.equal(before, weights(fit))
    assert torch.equal(fit.task.module.weight, fit.average["weight"])
