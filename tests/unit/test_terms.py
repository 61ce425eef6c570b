"""The terms: each theorem beside a twin that shows the test can fail."""

import pytest
import torch

from safeencoders.errors import BadInputError, UnknownNameError
from safeencoders.training.objectives import objectives
from safeencoders.training.objectives.terms import NCE, Align, Embeddings, Hidden, Objective, Source, align, hidden
from safeencoders.training.objectives.terms import nce as scaled_nce

SCALE = 100.0


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nce(first, second, negatives=None):
    return scaled_nce(first, second, SCALE, negatives)


def given(table, kind="projected"):
    return Embeddings({(source, kind): value for source, value in table.items()}, SCALE)


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


@pytest.mark.parametrize("kind", ["last_hidden", "penultimate", "patches"])
def test_hidden_compares_the_layer_it_names_and_wants_no_other(kind):
    first, second = Source("t*", tuned=True), Source("c", seen_from="t*")
    term, far = Hidden(1.0, first, second, kind), rows(2, 5, 3, seed=3)
    assert term.wants == ((first, kind), (second, kind))
    assert term.value(given({first: far, second: far}, kind)).item() == pytest.approx(0)
    assert term.value(given({first: far, second: rows(2, 5, 3)}, kind)).item() > 0.1
    with pytest.raises(KeyError):
        term.value(given({first: far, second: far}, "pooled"))


def test_safe_clip_prints_its_eight_terms_with_the_papers_weights():
    formula = str(objectives.get("safe-clip")())
    assert formula == (
        "L[safe-clip] = 0.1 Align(T(t), T0(t)) + 0.1 Align(T(t*), T0(t)) + 0.1 Align(V(v), V0(v))"
        " + 0.2 Align(V(v*), V0(v)) + 0.25 NCE(T(t), V0(v)) + 0.25 NCE(T(t*), V0(v))"
        " + 0.25 NCE(V(v), T0(t)) + 0.5 NCE(V(v*), T0(t))"
    )


TEXTS, PICTURES = {"t", "t*", "b", "c"}, {"v", "v*", "vb", "vc"}


def kept(name, roles, towers=("text", "vision")):
    """Print what is left of an objective where only some roles are known, and only some towers are trained."""
    found = objectives.get(name)().usable(
        lambda source: source.role in roles and (not source.tuned or source.tower in towers)
    )
    return str(found).split(" = ")[1].split(" + ")


@pytest.mark.parametrize(
    ("name", "roles", "expected"),
    [
        ("safe-clip", {"t", "t*"}, ["0.1 Align(T(t), T0(t))", "0.1 Align(T(t*), T0(t))"]),
        ("safe-clip", {"v", "v*"}, ["0.1 Align(V(v), V0(v))", "0.2 Align(V(v*), V0(v))"]),
        ("safe-clip", {"t", "v"}, ["0.1 Align(T(t), T0(t))", "0.1 Align(V(v), V0(v))", "0.25 NCE(T(t), V0(v))",
                                   "0.25 NCE(V(v), T0(t))"]),
        ("pictoworld", {"t", "t*"}, ["0.1 Align(T(t), T0(t))", "0.1 Align(T(t*), T0(t))", "1 Hidden(T(t), T0(t))"]),
        ("pictoworld", {"v", "v*"}, ["0.1 Align(V(v), V0(v))", "0.1 Align(V(v*), V0(v))", "1 Patches(V(v), V0(v))"]),
        ("text-pairs", {"t", "t*"}, ["1 NCE(T(t*), T0(t))", "1 Align(T(t*), T0(t))",
                                     "1 Align(T(t), T0(t))", "1 Hidden(T(t), T0(t))"]),
    ],
)  # fmt: skip
def test_terms_without_their_roles_are_dropped(name, roles, expected):
    assert kept(name, roles) == expected


@pytest.mark.parametrize("name", ["safe-clip", "pictoworld"])
def test_without_pictures_no_term_reads_a_picture_and_with_them_some_do(name):
    assert not any("V" in term for term in kept(name, TEXTS))
    assert not any("T" in term for term in kept(name, PICTURES))
    assert any("V0(" in term and "T(" in term for term in kept(name, TEXTS | PICTURES))


@pytest.mark.parametrize("name", ["safe-clip", "pictoworld"])
def test_a_tower_that_is_not_trained_is_read_as_reference_only(name):
    terms = kept(name, TEXTS | PICTURES, towers=("text",))
    assert any("V0(" in term for term in terms)
    assert not any("V(" in term for term in terms)


def test_the_pair_terms_need_both_towers():
    both = objectives.get("pictoworld")(pair=1.0)
    one = both.usable(lambda source: not source.tuned or source.tower == "text")
    assert "1 NCE(T(t*), V(v); not V(v*))" in str(both)
    assert "V(v)" not in str(one)


def test_patches_and_attacked_captions_have_weights_of_their_own():
    made = objectives.get("pictoworld")
    assert "3 Patches(V(v*), V0(vc))" in str(made(hidden=3.0))
    assert "7 Patches(V(v*), V0(vc))" in str(made(hidden=3.0, patches=7.0))
    assert "3 Hidden(T(t*), T0(c))" in str(made(hidden=3.0, patches=7.0))
    assert "5 Hidden(T(a), T0(a0))" in str(made(attacked=5.0))
    assert "T(a)" not in str(made())


def test_an_objective_is_the_weighted_sum_of_its_terms():
    first, second = Source("t", tuned=True), Source("t")
    known = given({first: rows(3, 4), second: rows(3, 4, seed=1)})
    one = Align(1.0, first, second).value(known)
    both = Objective("x", (Align(0.5, first, second), Align(2.0, first, second)))
    assert both.value(known).item() == pytest.approx(2.5 * one.item())
    assert both.value(known, lambda term: term.weight).item() == pytest.approx((0.5**2 + 2.0**2) * one.item())


def test_an_objective_decomposes_only_when_every_term_does():
    t, t0, v0 = Source("t", tuned=True), Source("t"), Source("v")
    aligns = Objective("x", (Align(1.0, t, t0), Align(1.0, t, v0)))
    assert aligns.decomposes
    for other in (NCE(1.0, t, v0), Hidden(1.0, t, t0)):
        assert not Objective("x", (*aligns.terms, other)).decomposes


def test_an_objective_wants_every_embedding_once():
    t, t0, v0, x0 = Source("t", tuned=True), Source("t"), Source("v"), Source("v*")
    objective = Objective("x", (Align(1.0, t, t0), NCE(1.0, t, v0, against=x0), Hidden(1.0, t, t0)))
    assert objective.wants == (
        (t, "projected"),
        (t0, "projected"),
        (v0, "projected"),
        (x0, "projected"),
        (t, "last_hidden"),
        (t0, "last_hidden"),
    )


@pytest.mark.parametrize("name", objectives.names())
def test_every_registered_objective_has_terms_and_prints_its_name(name):
    objective = objectives.get(name)()
    assert objective.terms
    assert str(objective).startswith(f"L[{name}] = ")


@pytest.mark.parametrize("name", objectives.names())
def test_a_weight_that_an_objective_has_not_is_refused_with_a_suggestion(name):
    with pytest.raises(UnknownNameError, match=rf"\[weights\] of objective {name}.*Did you mean 'redirect'"):
        objectives.get(name)(redirct=1.0)
    with pytest.raises(BadInputError, match="redirect"):
        objectives.get(name)(redirect="much")
