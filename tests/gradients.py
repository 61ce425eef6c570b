"""Gradients of one step, and whether two are the same: for tests of how a batch is cut."""

import pytest
import torch


def nudge(task):
    """Move the towers away from the original, where many gradients are zero, and LoRA's B with them."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in task.module.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape, generator=draw))
    return task


def gradients(task):
    """Return the loss and every gradient of one step."""
    task.module.train().zero_grad()
    torch.manual_seed(11)
    loss = task.backward(0)
    return loss, {name: p.grad.clone() for name, p in task.module.named_parameters() if p.grad is not None}


def assert_same_gradients(found, expected):
    """Within 1e-5 of each one's own size; those that are zero but for rounding (k_proj.bias) have a floor."""
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    assert found[1].keys() == expected[1].keys()
    floor = 1e-7 * max(value.norm() for value in expected[1].values())
    for name, value in expected[1].items():
        assert (found[1][name] - value).norm() <= 1e-5 * value.norm() + floor, name


def differ(found, expected):
    """Say whether a gradient is another by a thousandth of the largest one's size."""
    size = max(value.norm() for value in expected[1].values())
    return any((found[1][name] - value).norm() / size > 1e-3 for name, value in expected[1].items())
