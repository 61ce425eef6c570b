"""Redirection of a tiny CLIP: the objective falls, the original stays, and how a batch is cut changes no gradient."""

import copy

import pytest
import torch
from gradients import assert_same_gradients, differ, gradients, nudge

from safeencoders.errors import BadInputError
from safeencoders.fingerprint import fingerprint
from safeencoders.pictoworld import tokenizer as world_tokenizer
from safeencoders.training.edits import EditSpec
from safeencoders.training.loop import Fit, Schedule
from safeencoders.training.objectives import objectives
from safeencoders.training.objectives.terms import NCE, Align, Hidden, Objective, Source
from safeencoders.training.readers.pictoworld import PictoworldReader
from safeencoders.training.redirect import Encoders, RedirectTask
from safeencoders.training.run import changed, prepare
from safeencoders.training.validation import Validator

LORA = EditSpec("lora", rank=4, alpha=8.0, dropout=0.1)
STILL = EditSpec("lora", rank=4, alpha=8.0, dropout=0.0)  # without dropout a pass can be repeated
BOTH = ("text", "vision")
T, U, B = (Source(role, tuned=True) for role in ("t", "t*", "b"))
T0, V0, X0, B0 = (Source(role) for role in ("t", "v", "v*", "b"))
ALIGNS = Objective("aligns", (Align(0.3, T, T0), Align(1.0, U, T0), Align(0.5, B, B0)))
CONTRAST = Objective(
    "contrast",
    (NCE(1.0, U, V0, against=X0), Align(0.5, B, B0), Hidden(2.0, B, B0), Hidden(1.0, U, Source("c", seen_from="t*"))),
)


def run(clip, reader, path, name="pictoworld", steps=25, **options):
    task = RedirectTask(clip, objectives.get(name)(), reader, **options)
    fit = Fit(task, Schedule(steps=steps, batch=4, learning_rate=1e-3, warmup=5), path / "run.safetensors")
    first = task.loss(0).item()
    fit.run(name)
    return fit, first, task.module.eval() and task.loss(0).item()


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edit", [EditSpec(), LORA], ids=["full", "lora"])
@pytest.mark.parametrize("name", objectives.names())
def test_the_loss_falls_and_the_original_stays_bit_equal(clip, fixed, tmp_path, name, edit):
    pristine = copy.deepcopy(clip)
    reader = fixed(8)
    fit, first, last = run(clip, reader, tmp_path, name, edit=edit, towers=BOTH)
    assert last < first
    assert fingerprint(clip) == fingerprint(pristine)
    encoders, true = fit.task.encoders, Encoders(pristine, {})
    for mode in (True, False):
        fit.task.module.train(mode)
        for role in ("t", "v"):
            found = encoders.encode(Source(role), {"projected", "last_hidden"}, reader.rows)
            expected = true.encode(Source(role), {"projected", "last_hidden"}, reader.rows)
            assert all(torch.equal(found[kind], expected[kind]) for kind in expected)


def test_training_on_the_worlds_quadruplets_moves_the_tower(clip, tokenizer, tmp_path):
    fit, first, last = run(clip, PictoworldReader(tokenizer, 4, 0), tmp_path)
    assert last < first
    assert fingerprint(fit.task.edits["text"].merge()) != fingerprint(clip.text_model)


def test_the_same_seed_gives_the_same_towers_and_another_does_not(clip, fixed, tmp_path):
    found = []
    for i, seed in enumerate((0, 0, 1)):
        torch.manual_seed(0)  # adapters that start alike; what the seed draws is their dropout
        schedule = Schedule(steps=6, batch=8, learning_rate=1e-3, warmup=1, seed=seed)
        task = RedirectTask(clip, objectives.get("pictoworld")(), fixed(8), LORA, BOTH)
        Fit(task, schedule, tmp_path / f"{i}.safetensors").run("run")
        found.append(fingerprint(task.module))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("edit", [EditSpec(), LORA], ids=["full", "lora"])
def test_a_frozen_reference_stays_and_the_models_own_moves(clip, fixed, tmp_path, edit):
    """``self`` is the fault of the released Safe-CLIP script, kept as an ablation."""
    reader, pristine = fixed(8), Encoders(copy.deepcopy(clip), {})
    expected = pristine.encode(T0, {"projected"}, reader.rows)["projected"]
    for reference in ("frozen", "self"):
        (tmp_path / reference).mkdir()
        fit, *_ = run(clip, reader, tmp_path / reference, "safe-clip", edit=edit, reference=reference, steps=10)
        found = fit.task.encoders.encode(T0, {"projected"}, reader.rows)["projected"]
        tuned = fit.task.encoders.encode(T, {"projected"}, reader.rows)["projected"]
        assert torch.equal(found, expected) is (reference == "frozen")
        assert torch.equal(found, tuned) is (reference == "self")
        assert not found.requires_grad


def test_a_reference_of_its_own_gives_no_preservation_gradient_and_a_frozen_one_does(clip, fixed):
    keep = Objective("keep", (Align(1.0, T, T0),))
    sizes = {}
    for reference in ("frozen", "self"):
        task = nudge(RedirectTask(clip, keep, fixed(8), STILL, reference=reference))
        sizes[reference] = max(g.abs().max() for g in gradients(task)[1].values())
    assert sizes["self"] < 1e-6
    assert sizes["frozen"] > 1e-3


def test_the_reference_gets_no_gradient_and_the_tuned_towers_do(clip, fixed):
    task = nudge(RedirectTask(clip, objectives.get("pictoworld")(), fixed(8), EditSpec(), BOTH))
    rows = fixed(8).rows
    for source in (T0, V0, X0):
        assert not task.encoders.encode(source, {"projected"}, rows)["projected"].requires_grad
    for source in (T, Source("v", tuned=True)):
        assert task.encoders.encode(source, {"last_hidden"}, rows)["last_hidden"].requires_grad
    gradients(task)
    assert all(p.grad is None for p in clip.parameters())
    for tower in BOTH:
        moved = task.module.get_submodule(tower).parameters()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in moved)


# --- what an objective keeps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("towers", "roles", "expected"),
    [
        (("text",), "", ["0.1 Align(T(t), T0(t))", "0.1 Align(T(t*), T0(t))", "0.25 NCE(T(t), V0(v))",
                         "0.25 NCE(T(t*), V0(v))"]),
        (("text",), "t t*", ["0.1 Align(T(t), T0(t))", "0.1 Align(T(t*), T0(t))"]),
        (BOTH, "t t*", ["0.1 Align(T(t), T0(t))", "0.1 Align(T(t*), T0(t))"]),
        (("vision",), "v v*", ["0.1 Align(V(v), V0(v))", "0.2 Align(V(v*), V0(v))"]),
        (("vision",), "", ["0.1 Align(V(v), V0(v))", "0.2 Align(V(v*), V0(v))", "0.25 NCE(V(v), T0(t))",
                           "0.5 NCE(V(v*), T0(t))"]),
    ],
)  # fmt: skip
def test_safe_clip_keeps_the_papers_terms_of_what_is_there(clip, fixed, towers, roles, expected):
    task = RedirectTask(clip, objectives.get("safe-clip")(), fixed(4, roles), towers=towers)
    assert str(task.objective) == "L[safe-clip] = " + " + ".join(expected)
    loss, found = gradients(nudge(task))
    assert loss == pytest.approx(task.loss(0).item(), abs=1e-5)
    assert found


def test_an_objective_with_nothing_to_train_is_refused(clip, fixed):
    vision_only = Objective("vision", (Align(1.0, Source("v", tuned=True), Source("v")),))
    with pytest.raises(BadInputError, match=r"can use for the towers text; the data has .*train the other tower"):
        RedirectTask(clip, vision_only, fixed(4))
    with pytest.raises(BadInputError, match=r"the data has v, v\*: add the missing columns"):
        RedirectTask(clip, objectives.get("text-pairs")(), fixed(4, "v v*"))


def test_a_batch_too_small_for_look_alikes_does_without_them(clip, fixed):
    """Batches of the world have a look-alike for every four quadruplets: two have none."""
    reader = fixed(2, benign=1)
    reader.rows |= {"b": reader.rows["b"][:0], "vb": reader.rows["vb"][:0]}
    without = fixed(2, benign=0)
    for micro in (0, 1):
        found, expected = (
            gradients(nudge(RedirectTask(clip, objective, rows, EditSpec(), BOTH, micro_batch=micro)))
            for objective, rows in ((objectives.get("pictoworld")(), reader), (objectives.get("pictoworld")(), without))
        )
        assert_same_gradients(found, expected)
    few = nudge(RedirectTask(clip, ALIGNS, reader, micro_batch=1))
    assert_same_gradients(gradients(few), gradients(nudge(RedirectTask(clip, ALIGNS, without))))


# --- rows, padding and positions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", objectives.names())
def test_a_permutation_of_the_rows_changes_no_loss_and_one_of_a_role_does(clip, fixed, name):
    reader, mixed, broken = fixed(8), fixed(8), fixed(8)
    order = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])
    for role, rows in reader.rows.items():
        mixed.rows[role] = rows[order] if len(rows) == 8 else rows.flip(0)
    broken.rows["t*"] = reader.rows["t*"][order]
    values = [
        nudge(RedirectTask(clip, objectives.get(name)(), r, towers=BOTH)).loss(0).item()
        for r in (reader, mixed, broken)
    ]
    assert values[1] == pytest.approx(values[0], abs=1e-5)
    assert values[2] != pytest.approx(values[0], abs=1e-3)


def test_the_embedding_of_a_caption_does_not_depend_on_its_padding(clip, tokenizer):
    """Nor on the captions beside it: attention looks back only, and the first end token is what is read."""
    encoders = Encoders(clip, {"text": EditSpec().apply(clip.text_model)})
    texts = ["a dog", "two cats that sleep on a large red sofa", "a cup"]
    whole = world_tokenizer.encode(tokenizer, texts)
    longest = int((whole != tokenizer.eos_token_id).sum(1).max()) + 1
    kinds = {"projected", "pooled"}
    for source in (T, T0):
        expected = encoders.encode(source, kinds, {"t": whole})
        shorter = encoders.encode(source, kinds, {"t": whole[:, :longest]})
        other = whole.clone()
        other[0, 5:] = 300  # after the end token
        padded = encoders.encode(source, kinds, {"t": other})
        alone = encoders.encode(source, kinds, {"t": whole[:1, :5]})
        for kind in kinds:
            torch.testing.assert_close(shorter[kind], expected[kind], atol=1e-5, rtol=0)
            torch.testing.assert_close(padded[kind], expected[kind], atol=1e-5, rtol=0)
            torch.testing.assert_close(alone[kind][0], expected[kind][0], atol=1e-5, rtol=0)


def test_a_mean_over_tokens_would_depend_on_the_padding(clip, tokenizer):
    encoders = Encoders(clip, {})
    ids = world_tokenizer.encode(tokenizer, ["a dog"])
    long, short = (encoders.encode(T0, {"last_hidden"}, {"t": x})["last_hidden"].mean(1) for x in (ids, ids[:, :5]))
    assert not torch.allclose(long, short, atol=1e-3)


def test_a_caption_seen_from_itself_is_itself_and_seen_from_another_is_not(clip, rows):
    encoders, found = Encoders(clip, {}), rows(4)
    plain = encoders.encode(Source("c"), {"last_hidden"}, found)["last_hidden"]
    same = encoders.encode(Source("c", seen_from="t*"), {"last_hidden"}, found | {"t*": found["c"]})["last_hidden"]
    other = encoders.encode(Source("c", seen_from="t*"), {"last_hidden"}, found)["last_hidden"]
    torch.testing.assert_close(same, plain, atol=1e-6, rtol=0)
    assert not torch.allclose(other, plain, atol=1e-3)


def test_the_layers_are_those_that_hosts_read(clip, rows):
    found, encoders = rows(2), Encoders(clip, {})
    text = clip.text_model(input_ids=found["t"], output_hidden_states=True)
    kinds = encoders.encode(T0, {"projected", "pooled", "last_hidden", "penultimate"}, found)
    assert torch.equal(kinds["projected"], clip.get_text_features(input_ids=found["t"]).pooler_output)
    assert torch.equal(kinds["last_hidden"], text.last_hidden_state)
    assert torch.equal(kinds["penultimate"], text.hidden_states[-2])
    vision = clip.vision_model(pixel_values=found["v"], output_hidden_states=True)
    patches = encoders.encode(V0, {"patches", "projected"}, found)
    assert torch.equal(patches["patches"], vision.hidden_states[-2][:, 1:])
    assert torch.equal(patches["projected"], clip.get_image_features(pixel_values=found["v"]).pooler_output)


# --- micro-batches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("edit", [EditSpec(), STILL], ids=["full", "lora"])
@pytest.mark.parametrize("objective", [ALIGNS, CONTRAST], ids=["accumulation", "gradcache"])
def test_micro_batches_give_the_loss_and_gradient_of_the_whole_batch(clip, fixed, objective, edit, micro):
    reader, found = fixed(8, benign=3), []
    for size in (0, micro):
        torch.manual_seed(0)
        found.append(gradients(nudge(RedirectTask(clip, objective, reader, edit, micro_batch=size))))
    assert_same_gradients(found[1], found[0])


@pytest.mark.parametrize("name", objectives.names())
def test_so_do_those_of_every_registered_objective_for_both_towers(clip, fixed, name):
    found = []
    for size in (0, 3):
        torch.manual_seed(0)
        found.append(
            gradients(nudge(RedirectTask(clip, objectives.get(name)(), fixed(8), STILL, BOTH, micro_batch=size)))
        )
    assert_same_gradients(found[1], found[0])


def test_micro_batches_of_terms_on_few_rows_only(clip, fixed):
    """Seven of the eight parts have no look-alike."""
    for objective in (
        Objective("few", (Align(1.0, B, B0),)),
        Objective("few", (NCE(1.0, B, B0, against=X0),)),
        Objective("few", (Hidden(1.0, B, B0), Align(1.0, U, T0))),
    ):
        found = [gradients(nudge(RedirectTask(clip, objective, fixed(8, benign=2), micro_batch=m))) for m in (0, 1)]
        assert_same_gradients(found[1], found[0])


def test_a_mean_of_contrasts_within_micro_batches_would_be_another_loss(clip, fixed):
    """What plain gradient accumulation does: the negatives of other micro-batches are never seen."""
    task = nudge(RedirectTask(clip, CONTRAST, fixed(8), STILL))
    expected = gradients(task)
    task._micro, whole = 4, type(task)._accumulate
    task.module.zero_grad()
    naive = whole(task, task._batch(0), 0)
    assert naive != pytest.approx(expected[0], abs=1e-3)
    assert differ((naive, {name: p.grad for name, p in task.module.named_parameters() if p.grad is not None}), expected)


def test_gradients_that_are_set_to_zero_between_micro_batches_would_be_seen(clip, fixed, monkeypatch):
    """The fault of the released script: only the last micro-batch reaches the optimiser."""
    expected = gradients(nudge(RedirectTask(clip, ALIGNS, fixed(8), STILL)))
    torch.manual_seed(0)
    faulty = nudge(RedirectTask(clip, ALIGNS, fixed(8), STILL, micro_batch=2))
    whole = faulty._encode

    def forgetful(part, **options):
        faulty.module.zero_grad()
        return whole(part, **options)

    monkeypatch.setattr(faulty, "_encode", forgetful)
    assert differ(gradients(faulty), expected)


def test_dropout_is_the_same_in_both_passes_over_a_part(clip, fixed, monkeypatch):
    """GradCache's second pass must go through the weights that gave the first one's embeddings."""
    task, seen = nudge(RedirectTask(clip, CONTRAST, fixed(8), LORA, micro_batch=4)), []
    whole = task._encode

    def noting(part, **options):
        found = whole(part, **options)
        seen.append({want: value.detach() for want, value in found.items() if want[0].tuned})
        return found

    monkeypatch.setattr(task, "_encode", noting)
    gradients(task)
    first, second, again, later = seen
    assert all(torch.equal(first[want], again[want]) and torch.equal(second[want], later[want]) for want in first)
    monkeypatch.setattr("safeencoders.training.redirect._seed", lambda *_: None)
    seen.clear()
    gradients(task)
    assert not all(torch.equal(seen[0][want], seen[2][want]) for want in seen[0])


def test_a_pictures_worth_of_roles_nobody_reads_is_not_moved_to_the_device(clip, fixed):
    task = RedirectTask(clip, ALIGNS, fixed(8))
    assert task._batch(0).keys() == {"t", "t*", "b"}


# --- validation between steps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("edit", [EditSpec(), LORA], ids=["full", "lora"])
def test_validation_on_a_batch_of_equal_size_leaves_nothing_that_breaks_training(clip, fixed, edit, context):
    """Safe-CLIP and HySAC keep labels made under inference mode; the next backward pass of equal size crashes."""
    reader = fixed(8)
    task = RedirectTask(clip, objectives.get("pictoworld")(), reader, edit, BOTH)
    validate = Validator(task.encoders, reader.rows)
    expected = gradients(task)
    with context():
        validate()
        task.loss(0)
    assert_same_gradients(gradients(task), expected)


def test_a_label_that_is_kept_from_inference_mode_would_break_training():
    with torch.inference_mode():
        labels = torch.arange(4)
    logits = torch.randn(4, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        torch.nn.functional.cross_entropy(logits, labels)


# --- a run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pictoworld", "safe-clip", "text-pairs"])
def test_a_shipped_recipe_is_prepared_run_and_goes_on_where_it_was(clip, fixed, tmp_path, name):
    from safeencoders.training.recipe import read

    recipe, reader, told = changed(read(name), seed=3, steps=4), fixed(8), []
    options = {"rows": reader.rows, "identity": {"seed": "3"}, "log": lambda found, step: told.append((step, found))}
    fit = prepare(clip, recipe, reader, tmp_path / "run.safetensors", **options)
    assert fit.run(name)
    assert set(fit.task.edits) == ({"text", "vision"} if recipe.towers == "both" else {recipe.towers})
    again = prepare(clip, recipe, reader, tmp_path / "run.safetensors", **options)
    assert again.resumed_from_step == 4
    assert fingerprint(again.task.module) == fingerprint(fit.task.module)
    assert any("loss" in found for _, found in told)
    with pytest.raises(BadInputError, match="seed: 3 there, 4 now"):
        prepare(clip, recipe, reader, tmp_path / "run.safetensors", identity={"seed": "4"})


def test_changed_keeps_all_but_what_was_asked():
    from safeencoders.training.recipe import read

    recipe = read("pictoworld")
    assert changed(recipe, seed=recipe.schedule.seed) == recipe
    found = changed(recipe, seed=7, steps=3, towers="vision")
    assert (found.schedule.seed, found.schedule.steps, found.towers) == (7, 3, "vision")
    assert (found.weights, found.edit) == (recipe.weights, recipe.edit)


def test_adapters_start_from_the_seed_and_from_nothing_that_ran_before(clip, fixed, tmp_path):
    from safeencoders.training.recipe import read

    def start(seed, name):
        return checked(prepare(clip, changed(read("safe-clip"), seed=seed), fixed(8), tmp_path / name))

    def checked(fit):
        return {k: v.clone() for k, v in fit.task.module.state_dict().items() if "lora_A" in k}

    one = start(0, "one")
    torch.rand(3)
    again, other = start(0, "again"), start(1, "other")
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one)
