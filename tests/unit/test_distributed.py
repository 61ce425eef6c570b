"""Several processes equal one: two gloo processes on a batch have its loss and its gradient, and stay together.

Run as a script, this file is one of the two processes: ``test_distributed.py RANK PORT FOLDER``.
"""

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from transformers import CLIPModel

from safeencoders.training import redirect
from safeencoders.training.distributed import from_first, gather_rows, processes, rank, sum_gradients, total
from safeencoders.training.edits import EditSpec
from safeencoders.training.loop import Fit, Schedule
from safeencoders.training.objectives import objectives
from safeencoders.training.objectives.terms import Align, Objective, Source
from safeencoders.training.redirect import RedirectTask

FULL, LORA = EditSpec(), EditSpec("lora", rank=4, alpha=8.0, dropout=0.0)
DROPPING = EditSpec("lora", rank=4, alpha=8.0, dropout=0.1)
ALIGNS = Objective(
    "aligns", (Align(1.0, Source("t*", tuned=True), Source("t")), Align(0.5, Source("b", tuned=True), Source("b")))
)
OURS = objectives.get("pictoworld")()
CASES = {
    "full text": (OURS, FULL, ("text",), 0),
    "lora both": (OURS, LORA, ("text", "vision"), 0),
    "full both, cached": (OURS, FULL, ("text", "vision"), 3),
    "lora text, cached": (OURS, LORA, ("text",), 2),
    "full text, accumulated": (ALIGNS, FULL, ("text",), 3),
    "safe-clip both": (objectives.get("safe-clip")(), LORA, ("text", "vision"), 0),
}


class Rows:
    """The same rows at every step, shared out among the processes."""

    def __init__(self, rows):
        self.rows, self.roles = rows, frozenset(rows)

    def batch(self, _step, part=(0, 1)):
        return {role: rows.tensor_split(part[1])[part[0]] for role, rows in self.rows.items()}


def prepared(clip, rows, objective, edit, towers, micro):
    torch.manual_seed(0)  # of the adapters
    task = RedirectTask(clip, objective, Rows(rows), edit, towers, micro_batch=micro)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in task.module.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape, generator=draw))
    return task


def gradients(task):
    task.module.train()
    torch.manual_seed(11)
    loss = task.backward(0)
    found = {name: p.grad.clone() for name, p in task.module.named_parameters() if p.grad is not None}
    return found | {"loss": torch.tensor([loss], dtype=torch.float64)}


def fitted(clip, rows, folder, seconds=1000.0):
    """Train six steps; the validation's score is another one on every process, and the first one's counts."""
    schedule = Schedule(steps=6, batch=8, learning_rate=1e-3, warmup=1, validate_every=1, patience=2)
    scores = [0.1, 0.5, 0.4, 0.3, 0.2, 0.1] if not rank() else [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    fit = Fit(
        prepared(clip, rows, OURS, FULL, ("text",), 0),
        schedule,
        folder / f"run{rank()}.safetensors",
        validate=lambda: {"score": scores.pop(0)},
    )
    fit.run("run", seconds, every=0.0)
    fit.finish()
    steps = torch.tensor([fit.step, fit.best_step or 0])
    return {name: value.detach().clone() for name, value in fit.task.module.state_dict().items()} | {"steps": steps}


def work(folder):
    """What each process does; everything it found is written to the folder."""
    clip, rows = CLIPModel.from_pretrained(folder / "clip").eval(), load_file(folder / "rows.safetensors")
    found = {name: gradients(prepared(clip, rows, *case)) for name, case in CASES.items()}
    redirect.sum_gradients = lambda _: None  # the fault of the released HySAC script
    found["alone"] = gradients(prepared(clip, rows, *CASES["full text"]))
    redirect.sum_gradients = sum_gradients
    found["fit"] = fitted(clip, rows, folder, seconds=1000.0 if not rank() else 0.0)
    local = torch.full((2, 3), float(rank()), requires_grad=True)
    met = gather_rows(local)
    met.square().sum().backward()
    found["parts"] = {"met": met.detach(), "gradient": local.grad, "total": torch.tensor([total(rank() + 1.5)])}
    found["first"] = {"value": torch.tensor(from_first([rank() + 7]))}
    task = prepared(clip, rows, OURS, DROPPING, ("text",), 0)
    same = {role: part[:1].expand(len(part), *part.shape[1:]) for role, part in rows.items()}
    task._reader = Rows(same)  # every process has the same rows, so that only dropout can differ
    passed = []
    task._value = lambda local: passed.append(local) or torch.zeros((), requires_grad=True)
    torch.manual_seed(3)
    task.module.train()
    task.backward(0)
    found["dropout"] = {"t": passed[0][Source("t", tuned=True), "projected"].detach()}
    for name, tensors in found.items():
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{name}.{rank()}.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture
def start(clip, rows):
    return clip, rows(8, benign=4)


@pytest.fixture
def found(folder, start):
    """Start the two processes once, and give what they found by case and process."""
    if not (folder / "clip").exists():
        start[0].save_pretrained(folder / "clip")
        save_file(start[1], folder / "rows.safetensors")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        script = [sys.executable, __file__]
        # another order of sets in each process, in which nothing may be sent
        running = [
            subprocess.Popen(
                [*script, str(i), str(port), str(folder)],
                env=environment | {"PYTHONHASHSEED": str(i)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in range(2)
        ]
        try:
            said = [process.communicate(timeout=240)[1] for process in running]
        finally:
            for process in running:
                process.kill()
        assert [process.returncode for process in running] == [0, 0], "\n".join(said)
    return lambda case: [load_file(folder / f"{case}.{i}.safetensors") for i in range(2)]


def distance(found, expected):
    """Return the largest distance of a gradient from the expected one, relative to that one's size."""
    assert found.keys() == expected.keys()
    size = max(value.norm() for name, value in expected.items() if name != "loss")
    names = [
        name for name in expected if name != "loss"
    ]  # k_proj.bias is zero but for rounding, hence the share of size
    return max(float((found[name] - expected[name]).norm() / (expected[name].norm() + 1e-2 * size)) for name in names)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_loss_and_the_gradient_of_one(found, start, case):
    expected = gradients(prepared(*start, *CASES[case]))
    for ours in found(case):
        torch.testing.assert_close(ours["loss"], expected["loss"], atol=1e-6, rtol=1e-6)
        assert distance(ours, expected) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_every_process_has_the_same_bits(found, case):
    first, second = found(case)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_without_the_sum_of_gradients_the_processes_would_drift_apart(found, start):
    expected = gradients(prepared(*start, *CASES["full text"]))
    first, second = found("alone")
    assert torch.equal(first["loss"], second["loss"])  # the loss does not tell
    assert distance(first, second) > 0.1
    assert min(distance(first, expected), distance(second, expected)) > 0.1
    summed = {name: first[name] + second[name] for name in first if name != "loss"}
    assert distance(summed | {"loss": expected["loss"]}, expected) < 1e-5


def test_a_gather_that_carries_every_gradient_would_count_the_rows_twice(found):
    for i, ours in enumerate(found("parts")):
        assert ours["met"].tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
        assert torch.equal(ours["gradient"], torch.full((2, 3), 2.0 * i))
        assert ours["total"].item() == pytest.approx(4.0)


def test_what_the_first_process_says_counts_on_all(found):
    assert [ours["value"].tolist() for ours in found("first")] == [[7], [7]]


def test_training_ends_on_all_processes_together_and_with_the_weights_of_one(found, start, folder, tmp_path):
    """Though the second process has no time left, and validates to other scores."""
    first, second = found("fit")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["steps"].tolist() == [4, 2]
    alone = fitted(*start, tmp_path)
    names = [name for name in alone if name != "steps" and not name.endswith("k_proj.bias")]
    assert max((first[name] - alone[name]).abs().max() for name in names) < 1e-4
    assert (folder / "run0.safetensors").exists()
    assert not (folder / "run1.safetensors").exists()


def test_every_process_has_its_own_dropout(found):
    first, second = found("dropout")
    assert not torch.equal(first["t"], second["t"])


def test_one_process_needs_no_group():
    x = torch.ones(2, 3, requires_grad=True)
    assert (processes(), rank()) == (1, 0)
    assert gather_rows(x) is x
    assert (total(1.5), from_first("x")) == (1.5, "x")
    sum_gradients([torch.nn.Parameter(torch.ones(1))])


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[2]}
    distributed.init_process_group("gloo", rank=int(sys.argv[1]), world_size=2, timeout=timedelta(seconds=120))
    work(Path(sys.argv[3]))
    distributed.destroy_process_group()
