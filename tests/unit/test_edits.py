"""Edits: the reference is the original, bit for bit, whatever is trained."""

import torch
from torch import nn

from safeencoders.training.edits import FullEdit


def tower():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


def train(module, steps=5):
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.ones(3, 4)).square().sum().backward()
        optimizer.step()


def same(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_reference_and_original_stay_bit_equal_after_training_and_the_tuned_tower_does_not():
    original, pristine = tower(), tower()
    edit = FullEdit(original)
    train(edit.tuned)
    assert same(edit.reference(), pristine)
    assert same(original, pristine)
    assert not same(edit.tuned, pristine)


def test_training_the_original_through_another_name_would_be_seen():
    """The fault of the reference code: reference and tuned model are one object."""
    aliased = tower()
    train(aliased)
    assert not same(aliased, tower())


def test_the_reference_carries_no_gradient():
    edit = FullEdit(tower())
    assert not any(p.requires_grad for p in edit.reference().parameters())
    assert not edit.reference()(torch.ones(1, 4)).requires_grad


def test_frozen_names_do_not_move():
    edit = FullEdit(tower(), frozen=("0.",))
    train(edit.tuned)
    assert torch.equal(edit.tuned[0].weight, edit.reference()[0].weight)
    assert not torch.equal(edit.tuned[2].weight, edit.reference()[2].weight)


def test_merge_gives_a_plain_frozen_copy_with_the_same_outputs():
    edit = FullEdit(tower())
    train(edit.tuned)
    merged = edit.merge()
    x = torch.ones(1, 4)
    assert torch.equal(merged(x), edit.tuned(x))
    assert not any(p.requires_grad for p in merged.parameters())
    train(edit.tuned)
    assert not torch.equal(merged(x), edit.tuned(x))
