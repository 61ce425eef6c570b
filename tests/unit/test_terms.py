"""The terms: each theorem beside a twin that shows the test can fail."""

import pytest
import torch

from safeencoders.training.objectives import objectives
from safeencoders.training.objectives.terms import Align, Hidden, Objective, Source, align, hidden
from safeencoders.training.objectives.terms import nce as scaled_nce

SCALE = 100.0


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nce(first, second, negatives=None):
    return scaled_nce(first, second, SCALE, negatives)


class Given:
    """Embeddings looked up in a table."""

    scale = SCALE

    def __init__(self, table, aligned=None):
        self.table, self.states = table, aligned

    def has(self, source):
        return source in self.table

    def get(self, source, _kind):
        return self.table[source]

    def aligned(self, *_):
        return self.states


def test_align_is_zero_at_its_fixed_point_and_two_at_the_opposite():
    x = rows(5, 8)
    assert align(x, 3 * x).item() == pytest.approx(0, abs=1e-12)
    assert align(x, -x).item() == pytest.approx(2)


def test_nce_equals_the_formula_written_out():
    a, b = rows(4, 8), rows(4, 8, seed=1)
    cosine = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T
    logits = SCALE * cosine
    forward = sum(torch.logsumexp(logits[i], 0) - logits[i, i] for i in range(4)) / 4
    backward = sum(torch.logsumexp(logits[:, i], 0) - logits[i, i] for i in range(4)) / 4
    assert nce(a, b).item() == pytest.approx(((forward + backward) / 2).item())


def test_nce_puts_the_negatives_into_the_first_sides_gallery_only():
    a, b, n = rows(4, 8), rows(4, 8, seed=1), rows(3, 8, seed=2)
    unit = torch.nn.functional.normalize
    logits = SCALE * unit(a, dim=1) @ unit(torch.cat([b, n]), dim=1).T
    forward = (torch.logsumexp(logits, 1) - logits.diagonal()).mean()
    backward = (torch.logsumexp(logits[:, :4], 0) - logits.diagonal()).mean()
    assert nce(a, b, n).item() == pytest.approx(((forward + backward) / 2).item())
    assert nce(a, b, n) > nce(a, b)


@pytest.mark.parametrize("term", [align, nce, lambda a, b: hidden(a[:, None], b[:, None])])
def test_permuting_the_rows_together_changes_nothing_and_breaking_the_pairs_does(term):
    a, b = rows(6, 8), rows(6, 8, seed=1)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert term(a[order], b[order]).item() == pytest.approx(term(a, b).item())
    assert term(a[order], b).item() != pytest.approx(term(a, b).item())


@pytest.mark.parametrize("term", [align, nce])
def test_gradients_agree_with_finite_differences(term):
    a, b = rows(3, 4).requires_grad_(), rows(3, 4, seed=1).requires_grad_()
    # a scale of 100 makes finite differences coarse, hence the small step
    assert torch.autograd.gradcheck(term, (a, b), eps=1e-7, atol=1e-4)


def test_align_decomposes_over_micro_batches_and_nce_does_not():
    a, b = rows(8, 6), rows(8, 6, seed=1)
    halves = [(a[:4], b[:4]), (a[4:], b[4:])]
    assert (sum(align(x, y) for x, y in halves) / 2).item() == pytest.approx(align(a, b).item())
    assert (sum(nce(x, y) for x, y in halves) / 2).item() != pytest.approx(nce(a, b).item())


def test_hidden_is_a_share_of_the_targets_size():
    target = rows(2, 5, 3)
    assert hidden(target, target).item() == pytest.approx(0)
    assert hidden(torch.zeros_like(target), target).item() == pytest.approx(1)
    assert hidden(3 * target, target).item() == pytest.approx(4)


def test_hidden_across_roles_asks_for_the_aligned_states_and_within_a_role_does_not():
    first, second, aligned = Source("t*", tuned=True), Source("t"), rows(2, 5, 3, seed=3)
    given = Given({first: aligned, second: rows(2, 5, 3), Source("t", tuned=True): rows(2, 5, 3)}, aligned)
    assert Hidden(1.0, first, second).value(given).item() == pytest.approx(0)
    assert Hidden(1.0, Source("t", tuned=True), second).value(given).item() == pytest.approx(0)
    assert hidden(aligned, rows(2, 5, 3)).item() > 0.1


def test_safe_clip_prints_its_eight_terms_with_the_papers_weights():
    formula = str(objectives.get("safe-clip")())
    assert formula == (
        "L[safe-clip] = 0.1 Align(T(t), T0(t)) + 0.1 Align(T(t*), T0(t)) + 0.1 Align(V(v), V0(v))"
        " + 0.2 Align(V(v*), V0(v)) + 0.25 NCE(T(t), V0(v)) + 0.25 NCE(T(t*), V0(v))"
        " + 0.25 NCE(V(v), T0(t)) + 0.5 NCE(V(v*), T0(t))"
    )


def test_terms_without_their_roles_are_dropped():
    text_only = {Source(role, tuned): rows(3, 4) for role in ("t", "t*") for tuned in (True, False)}
    kept = objectives.get("safe-clip")().usable(Given(text_only))
    assert str(kept) == "L[safe-clip] = 0.1 Align(T(t), T0(t)) + 0.1 Align(T(t*), T0(t))"


def test_an_objective_is_the_weighted_sum_of_its_terms():
    first, second = Source("t", tuned=True), Source("t")
    given = Given({first: rows(3, 4), second: rows(3, 4, seed=1)})
    one = Align(1.0, first, second).value(given)
    both = Objective("x", (Align(0.5, first, second), Align(2.0, first, second)))
    assert both.value(given).item() == pytest.approx(2.5 * one.item())


@pytest.mark.parametrize("name", objectives.names())
def test_every_registered_objective_has_terms_and_prints_its_name(name):
    objective = objectives.get(name)()
    assert objective.terms
    assert str(objective).startswith(f"L[{name}] = ")
