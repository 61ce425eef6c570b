"""The loop: a run that was cut resumes to the same bits, and a checkpoint is never half-written, nor of bad weights."""

import dataclasses
import errno
import math
import os

import pytest
import torch
from torch import nn

from safeencoders.errors import BadInputError, OutputError
from safeencoders.training.loop import DivergedError, Fit, LossTask, Schedule


class Toy(LossTask):
    """Least squares on batches drawn from the step's seed, through everything that a step can change."""

    def __init__(self):
        torch.manual_seed(7)
        self.module = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Linear(5, 1))
        self.module[3].bias.requires_grad_(False)

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


class Bad(Toy):
    """From a step on, the loss is multiplied by something, and something is added to it."""

    def __init__(self, at, factor=1.0, extra=0.0):
        super().__init__()
        self.at, self.factor, self.extra = at, factor, extra

    def loss(self, step):
        loss = super().loss(step)
        return loss * self.factor + self.extra * (step - self.at) if step >= self.at else loss


SCHEDULE = Schedule(steps=40, batch=8, learning_rate=0.05, warmup=5, ema=0.9)


def weights(fit):
    return torch.cat([value.detach().flatten().double() for value in fit.task.module.state_dict().values()])


def scores(*values):
    """Give a validation that says these one after the other, and counts how often it was asked."""
    left = list(values)

    def validate():
        return {"score": left.pop(0), "R@1": 0.5}

    validate.left = left
    return validate


def test_a_run_cut_between_checkpoints_resumes_to_the_same_bits(tmp_path):
    whole = Fit(Toy(), SCHEDULE, tmp_path / "whole.safetensors")
    assert whole.run("whole", seconds=60)
    cut = Fit(Cut(at=23), SCHEDULE, tmp_path / "cut.safetensors")
    with pytest.raises(KeyboardInterrupt):
        cut.run("cut", seconds=60, every=0.0)
    resumed = Fit(Toy(), SCHEDULE, tmp_path / "cut.safetensors")
    assert 0 < resumed.step <= 23
    assert resumed.step == resumed.resumed_from_step
    assert resumed.run("resumed", seconds=60)
    assert torch.equal(weights(whole), weights(resumed))
    assert all(torch.equal(whole.average[k], resumed.average[k]) for k in whole.average)


def test_another_seed_gives_other_bits(tmp_path):
    runs = []
    for seed in (0, 1):
        schedule = Schedule(steps=10, batch=8, learning_rate=0.05, warmup=5, seed=seed)
        fit = Fit(Toy(), schedule, tmp_path / f"{seed}.safetensors")
        fit.run("run", seconds=60)
        runs.append(weights(fit))
    assert not torch.equal(*runs)


def test_a_slice_that_ends_says_that_it_is_not_done(tmp_path):
    fit = Fit(Toy(), SCHEDULE, tmp_path / "slice.safetensors")
    assert not fit.run("slice", seconds=0)
    assert [path.name for path in tmp_path.iterdir()] == ["slice.safetensors"]


def test_the_rate_rises_then_falls_to_nothing():
    schedule = Schedule(steps=100, batch=1, learning_rate=1.0, warmup=10, decay=0.5)
    assert schedule.rate(0) == pytest.approx(0.1)
    assert schedule.rate(30) == pytest.approx(1.0)
    assert schedule.rate(75) == pytest.approx(0.5)
    assert schedule.rate(99) < 0.01


def test_finish_puts_the_moving_average_into_the_module(tmp_path):
    fit = Fit(Toy(), SCHEDULE, tmp_path / "ema.safetensors")
    fit.run("ema", seconds=60)
    before = weights(fit)
    fit.finish()
    assert not torch.equal(before, weights(fit))
    assert torch.equal(fit.task.module[0].weight, fit.average["0.weight"])
    assert not fit.task.module.training


# --- what a checkpoint holds ----------------------------------------------------------------------------------------


def test_slices_of_any_length_give_the_bits_of_one_run(tmp_path):
    whole = Fit(Toy(), SCHEDULE, tmp_path / "whole.safetensors")
    whole.run("whole")
    for at in (3, 4, 11, 29, 39):
        with pytest.raises(KeyboardInterrupt):
            Fit(Cut(at), SCHEDULE, tmp_path / "cut.safetensors").run("cut", every=0.0)
    resumed = Fit(Toy(), SCHEDULE, tmp_path / "cut.safetensors")
    assert resumed.resumed_from_step == 38  # a step's weights are known to be good when the next one has a loss
    resumed.run("resumed")
    assert torch.equal(weights(whole), weights(resumed))
    assert resumed.curve == whole.curve


def test_a_run_without_its_optimizer_would_give_other_bits(tmp_path, monkeypatch):
    whole = Fit(Toy(), SCHEDULE, tmp_path / "whole.safetensors")
    whole.run("whole")
    with pytest.raises(KeyboardInterrupt):
        Fit(Cut(20), SCHEDULE, tmp_path / "cut.safetensors").run("cut", every=0.0)
    monkeypatch.setattr("safeencoders.training.checkpoints.restore_optimizer", lambda *_: None)
    resumed = Fit(Toy(), SCHEDULE, tmp_path / "cut.safetensors")
    resumed.run("resumed")
    assert not torch.equal(weights(whole), weights(resumed))


def test_a_finished_run_does_nothing_more(tmp_path):
    fit = Fit(Toy(), SCHEDULE, tmp_path / "run.safetensors")
    fit.run("run")
    again = Fit(Cut(at=40), SCHEDULE, tmp_path / "run.safetensors")
    assert again.run("again")
    assert torch.equal(weights(fit), weights(again))


def test_weights_that_do_not_move_are_not_in_the_checkpoint(tmp_path):
    from safetensors import safe_open

    fit = Fit(Toy(), SCHEDULE, tmp_path / "run.safetensors")
    fit.save()
    with safe_open(fit.checkpoint, "pt") as file:
        names = set(file.keys())
    assert {"module/0.weight", "module/1.running_mean", "average/0.weight"} <= names
    assert "module/3.bias" not in names


def test_what_a_killed_process_left_is_removed_and_nothing_else_is(tmp_path):
    stale = tmp_path / ".run.safetensors.0123abcd.partial"
    others = [tmp_path / ".other.safetensors.0123abcd.partial", tmp_path / "run.safetensors.txt"]
    for file in (stale, *others):
        file.write_bytes(b"x")
    Fit(Toy(), SCHEDULE, tmp_path / "run.safetensors")
    assert not stale.exists()
    assert all(file.exists() for file in others)


# --- bad checkpoints ------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    fit = Fit(Toy(), SCHEDULE, tmp_path / "run.safetensors", identity={"recipe": "a", "data": "1"})
    fit.run("run")
    return fit.checkpoint


def test_a_good_checkpoint_is_taken(saved):
    assert Fit(Toy(), SCHEDULE, saved, identity={"recipe": "a", "data": "1"}).step == 40


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_a_cut_checkpoint_is_refused_with_the_remedy(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BadInputError, match=r"expected a checkpoint in .*run\.safetensors.*delete it to start anew"):
        Fit(Toy(), SCHEDULE, saved)


@pytest.mark.parametrize("place", [0.05, 0.2, 0.5, 0.8, 0.95, 0.9999])
def test_a_changed_checkpoint_is_refused(saved, place):
    content = bytearray(saved.read_bytes())
    content[int(len(content) * place)] ^= 4
    saved.write_bytes(content)
    with pytest.raises(BadInputError, match="expected a checkpoint"):
        Fit(Toy(), SCHEDULE, saved)


def test_a_file_that_is_no_checkpoint_is_refused(saved):
    from safetensors.torch import save_file

    for write in (lambda: saved.write_text("{}"), lambda: save_file({"x": torch.ones(1)}, saved)):
        write()
        with pytest.raises(BadInputError, match="expected a checkpoint"):
            Fit(Toy(), SCHEDULE, saved)


@pytest.mark.parametrize("module", [nn.Linear(3, 5), nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 1))])
def test_the_checkpoint_of_another_model_is_refused(saved, module):
    task = Toy()
    task.module = module
    with pytest.raises(BadInputError, match="expected a checkpoint of this model"):
        Fit(task, SCHEDULE, saved)


def test_the_checkpoint_of_another_run_is_refused_and_what_differs_is_named(saved):
    with pytest.raises(BadInputError, match=r"belongs to another run \(data: 1 there, 2 now\)"):
        Fit(Toy(), SCHEDULE, saved, identity={"recipe": "a", "data": "2"})
    with pytest.raises(BadInputError, match="seed: None there, 0 now"):
        Fit(Toy(), SCHEDULE, saved, identity={"recipe": "a", "data": "1", "seed": "0"})


# --- runs that come to nothing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_not_a_number_stops_the_run_and_the_checkpoint_is_good(tmp_path, factor):
    fit = Fit(Bad(25, factor), SCHEDULE, tmp_path / "run.safetensors")
    with pytest.raises(DivergedError, match=r"at step 25 it is not a number \(learning_rate 0.05\)\. Lower"):
        fit.run("run", every=0.0)
    resumed = Fit(Toy(), SCHEDULE, fit.checkpoint)
    assert 0 < resumed.step <= 25
    assert weights(resumed).isfinite().all()
    assert resumed.task.loss(resumed.step).isfinite()
    assert resumed.run("resumed")


def test_a_gradient_that_is_not_a_number_stops_the_run_too(tmp_path):
    class Steep(Toy):
        def loss(self, step):
            loss = super().loss(step)
            zero = loss - loss
            return loss + (zero.abs().sqrt() if step == 25 else zero)  # the root's gradient at 0 is 0 * inf

    fit = Fit(Steep(), SCHEDULE, tmp_path / "run.safetensors")
    with pytest.raises(DivergedError, match="at step 25"):
        fit.run("run", every=0.0)
    assert weights(Fit(Toy(), SCHEDULE, fit.checkpoint)).isfinite().all()


def test_a_slice_never_ends_with_weights_that_are_not_numbers(tmp_path):
    fit = Fit(Toy(), SCHEDULE, tmp_path / "run.safetensors")
    kept = fit.optimizer.step

    def step():
        kept()
        if fit.step == 39:
            with torch.no_grad():
                fit.task.module[0].weight.fill_(math.nan)

    fit.optimizer.step = step
    with pytest.raises(DivergedError):
        fit.run("run", every=0.0)
    assert weights(Fit(Toy(), SCHEDULE, fit.checkpoint)).isfinite().all()


def test_a_loss_that_grows_stops_the_run_and_one_that_stays_does_not(tmp_path):
    long = dataclasses.replace(SCHEDULE, steps=200)
    with pytest.raises(DivergedError, match=r"it grew from .* to .* \(learning_rate"):
        Fit(Bad(20, extra=1.0), long, tmp_path / "grows.safetensors").run("grows")
    assert Fit(Bad(20, factor=1.5), long, tmp_path / "stays.safetensors").run("stays")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_last_good_checkpoint_and_nothing_half_written(tmp_path, monkeypatch, call):
    whole = Fit(Toy(), SCHEDULE, tmp_path / "whole.safetensors")
    whole.run("whole")
    fit, calls = Fit(Toy(), SCHEDULE, tmp_path / "run" / "run.safetensors"), []
    real = getattr(os, call)

    def full(*arguments):
        calls.append(fit.checkpoint.read_bytes() if fit.checkpoint.exists() else b"")
        if len(calls) == 17:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OutputError, match=r"cannot write .*run\.safetensors: the disk is full"):
            fit.run("run", every=0.0)
    assert fit.checkpoint.read_bytes() == calls[-1]
    assert [path.name for path in fit.checkpoint.parent.iterdir()] == ["run.safetensors"]
    resumed = Fit(Toy(), SCHEDULE, fit.checkpoint)
    assert resumed.resumed_from_step == 15  # 16 were written, of steps 0 to 15
    resumed.run("resumed")
    assert torch.equal(weights(whole), weights(resumed))


# --- validation -----------------------------------------------------------------------------------------------------

VALIDATED = dataclasses.replace(SCHEDULE, ema=0.0, validate_every=10)


def test_the_best_validated_weights_are_put_in_by_finish_and_the_last_of_equals_is_best(tmp_path):
    fit = Fit(Toy(), VALIDATED, tmp_path / "run.safetensors", validate=scores(0.1, 0.7, 0.7, 0.2))
    fit.run("run")
    with pytest.raises(KeyboardInterrupt):
        Fit(Cut(31), VALIDATED, tmp_path / "until.safetensors", validate=scores(0.1, 0.7, 0.7)).run("until", every=0.0)
    until = Fit(Toy(), VALIDATED, tmp_path / "until.safetensors", validate=scores())
    assert (fit.best_step, until.step) == (30, 30)
    assert not torch.equal(weights(fit), weights(until))
    fit.finish()
    assert torch.equal(weights(fit), weights(until))


def test_without_validation_nothing_is_best_and_finish_keeps_the_last_weights(tmp_path):
    fit = Fit(Toy(), dataclasses.replace(SCHEDULE, ema=0.0), tmp_path / "run.safetensors", validate=scores())
    fit.run("run")
    last = weights(fit)
    fit.finish()
    assert fit.best_step is None
    assert torch.equal(weights(fit), last)


def test_the_last_step_is_validated_even_off_the_beat(tmp_path):
    schedule = dataclasses.replace(VALIDATED, validate_every=15)
    fit = Fit(Toy(), schedule, tmp_path / "run.safetensors", validate=scores(0.1, 0.2, 0.3))
    fit.run("run")
    assert [step for step, _ in fit.validations] == [15, 30, 40]


def test_patience_ends_a_run_that_stopped_getting_better_and_no_other(tmp_path):
    patient = dataclasses.replace(VALIDATED, steps=100, patience=2)
    falling = scores(0.5, 0.6, 0.6, 0.55, *[0.9] * 9)
    fit = Fit(Toy(), patient, tmp_path / "falls.safetensors", validate=falling)
    assert fit.run("falls")
    assert (fit.step, fit.best_step, len(falling.left)) == (40, 30, 9)  # an equal is no better
    again = Fit(Toy(), patient, tmp_path / "falls.safetensors", validate=falling)
    assert again.done()
    assert again.run("again")
    assert (again.step, again.best_step) == (40, 30)
    rising = Fit(Toy(), patient, tmp_path / "rises.safetensors", validate=scores(*[i / 10 for i in range(10)]))
    rising.run("rises")
    assert (rising.step, rising.best_step) == (100, 100)


def test_validation_sees_eval_mode_and_changes_no_bit_of_the_training(tmp_path):
    fit = Fit(Toy(), VALIDATED, tmp_path / "run.safetensors", validate=lambda: (
        torch.randn(5), {"score": float(not fit.task.module.training)})[1])  # fmt: skip
    fit.run("run")
    plain = Fit(Toy(), dataclasses.replace(VALIDATED, validate_every=0), tmp_path / "plain.safetensors")
    plain.run("plain")
    assert all(metrics["score"] == 1 for _, metrics in fit.validations)
    assert torch.equal(weights(fit), weights(plain))


def test_the_log_is_told_losses_rates_and_metrics_with_their_steps(tmp_path):
    told = []
    Fit(
        Toy(),
        VALIDATED,
        tmp_path / "run.safetensors",
        validate=scores(0.1, 0.2, 0.3, 0.4),
        log=lambda metrics, step: told.append((step, metrics)),
    ).run("run")
    assert [step for step, metrics in told if "loss" in metrics] == [10, 20, 30, 40]
    assert [m["validation/score"] for _, m in told if "validation/score" in m] == [0.1, 0.2, 0.3, 0.4]
    assert all(math.isfinite(value) for _, metrics in told for value in metrics.values())


# --- schedules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.1])
@pytest.mark.parametrize("name", ["learning_rate", "decay", "weight_decay", "clip", "ema", "betas"])
def test_a_schedule_of_numbers_that_are_none_or_negative_is_refused(name, value):
    if name == "clip" and value == math.inf:
        return  # no clipping
    with pytest.raises(BadInputError, match=f"expected .*{name}.* got "):
        dataclasses.replace(SCHEDULE, **{name: (0.9, value) if name == "betas" else value})


@pytest.mark.parametrize("name", ["steps", "batch", "warmup", "validate_every", "patience", "seed"])
def test_a_schedule_of_negative_counts_is_refused(name):
    with pytest.raises(BadInputError, match=f"expected .*{name}.* got "):
        dataclasses.replace(SCHEDULE, **{name: -1})


def test_a_seed_too_large_for_the_generator_is_refused():
    with pytest.raises(BadInputError, match="a seed in 0"):
        dataclasses.replace(SCHEDULE, seed=2**64)


def test_no_clipping_is_a_schedule(tmp_path):
    schedule = dataclasses.replace(SCHEDULE, clip=math.inf)
    assert Fit(Toy(), schedule, tmp_path / "run.safetensors").run("run")


@pytest.mark.parametrize("keep", [True, False])
def test_the_best_validated_weights_are_kept_where_asked_and_the_last_otherwise(tmp_path, keep):
    scores, seen = iter([3.0, 2.0, 1.0]), []

    def validate():
        seen.append(weights(fit))
        return {"score": next(scores)}

    schedule = Schedule(steps=6, batch=8, learning_rate=0.05, warmup=2, validate_every=2, keep_best=keep)
    fit = Fit(Toy(), schedule, tmp_path / "keep.safetensors", validate=validate)
    fit.run("keep", seconds=60)
    fit.finish()
    assert torch.equal(weights(fit), seen[0 if keep else -1])
    assert fit.best_step == 2
