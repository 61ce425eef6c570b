"""The inner loop finds what brings a tower back, the outer one undoes it, and how a batch is cut changes neither."""

import copy

import pytest
import torch
from gradients import assert_same_gradients, differ, gradients, nudge

from safeencoders.errors import BadInputError, UnknownNameError
from safeencoders.fingerprint import fingerprint
from safeencoders.training import adversary
from safeencoders.training.adversary import Adversary, Attack, changed, open_captions
from safeencoders.training.edits import EditSpec
from safeencoders.training.loop import Fit, Schedule
from safeencoders.training.objectives import objectives
from safeencoders.training.objectives.terms import Hidden, Objective, Source
from safeencoders.training.recipe import from_values
from safeencoders.training.redirect import RedirectTask

ATTACK = Attack(every=2, vectors=2, steps=4)
A, A0 = Source("a", tuned=True), Source("a0", seen_from="a")
UNDO = Objective("undo", (Hidden(1.0, A, A0), Hidden(1.0, Source("t*", tuned=True), Source("c", seen_from="t*"))))
END = 9


def task_of(clip, reader, attack=ATTACK, objective=UNDO, **options):
    return nudge(RedirectTask(clip, objective, reader, attack=attack, **options))


# --- where the free positions are -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "meant", "span"),
    [
        ([1, 2, 3, 4, END, END], [1, 2, 5, 4, END, END], (2, 3)),
        ([1, 2, 3, 4, END, END], [1, 2, END, END, END, END], (2, 4)),
        ([1, 2, 3, END, END, END], [1, 2, 3, END, END, END], (2, 3)),
    ],
    ids=["another word", "more words", "nothing: the last word"],
)
def test_the_words_that_the_safe_meaning_has_not_are_found(caption, meant, span):
    assert changed(caption, meant, END) == span


@pytest.mark.parametrize(
    ("keep", "ids", "free", "source"),
    [
        (True, [1, 2, 3, 4, 3, 4, 5, END], [2, 3], [0, 1, 2, 3, 2, 3, 4, 5]),
        (False, [1, 2, 3, 4, 5, END, END, END], [2, 3], [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_positions_open_before_the_words_or_in_their_place(keep, ids, free, source):
    caption = torch.tensor([[1, 2, 3, 4, 5, END, END, END]])
    found = open_captions(caption, [(2, 4)], 2, END, keep=keep)
    assert found.ids.tolist() == [ids]
    assert found.free[0].nonzero().flatten().tolist() == free
    assert found.source.tolist() == [source]


def test_a_caption_without_room_gets_fewer_positions_and_keeps_its_end():
    full = torch.tensor([[1, 2, 3, 4, 5, 6, END]])
    assert not open_captions(full, [(2, 4)], 2, END, keep=True).free.any()
    for count in (2, 5):
        replaced = open_captions(full, [(2, 4)], count, END, keep=False)
        assert replaced.free.sum() == 2
        assert replaced.ids[0, -1] == END


# --- the inner loop -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(4))
def test_what_is_found_lies_nearer_to_the_original_and_only_free_vectors_differ(clip, fixed, step):
    reader = fixed(8)
    task, batch = task_of(clip, reader), reader.rows
    attacks = [Adversary(Attack(steps=n), task.encoders, clip.config.text_config.eos_token_id) for n in (1, 30)]
    few, many = (attack.rows(batch, step) for attack in attacks)
    plain = task.encoders.words(many["a"])
    moved = (many["a^"] != plain).any(-1)
    assert moved.any(1).all()
    assert (moved.sum(1) <= 1 + step // 2 % 2).all()
    assert goal(task, batch, many, step) < goal(task, batch, few, step) < goal(task, batch, many | {"a^": plain}, step)


def goal(task, batch, found, step):
    """The inner loop's own measure, computed once more from its parts."""
    end = task.encoders._end
    unsafe, meant = batch["t*"][::2], batch["c"][::2]
    spans = [changed(*pair, end) for pair in zip(unsafe.tolist(), meant.tolist(), strict=True)]
    opened = open_captions(unsafe, spans, 1 + step // 2 % 2, end, keep=step % 2 == 0)
    wanted = task.encoders.encode(Source("t*"), {"last_hidden"}, {"t*": unsafe})["last_hidden"]
    wanted = wanted.gather(1, opened.source[..., None].expand_as(wanted))
    rows = {role: found[role][: len(unsafe)] for role in ("a", "a^")}
    with torch.no_grad():
        states = task.encoders.encode(A, {"last_hidden"}, rows)["last_hidden"]
    return (states - wanted).square().mean().item()


def test_attacked_captions_are_to_mean_the_safe_one_and_look_alikes_themselves(clip, fixed):
    reader = fixed(8)
    found = task_of(clip, reader).with_attacks(reader.rows, 0)
    assert torch.equal(found["a0"], torch.cat([reader.rows["c"][::2], reader.rows["b"][::2]]))
    texts = fixed(8, "t t*")
    without = task_of(clip, texts, objective=Objective("undo", UNDO.terms[:1])).with_attacks(texts.rows, 0)
    assert torch.equal(without["a0"], texts.rows["t"][::2])


# --- the outer loop -------------------------------------------------------------------------------------------------


def success(task, rows, clip):
    """How near a fresh attack comes to the original; the lower, the better for the attacker."""
    attack = Adversary(Attack(steps=30), task.encoders, clip.config.text_config.eos_token_id)
    return goal(task, rows, attack.rows(rows, 0), 0)


def test_a_tower_trained_against_attacks_is_harder_to_bring_back(clip, fixed, tmp_path):
    reader, left = fixed(8), {}
    for name, attack in (("with", ATTACK), ("without", None)):
        objective = UNDO if attack else Objective("plain", UNDO.terms[1:])
        task = RedirectTask(clip, objective, reader, attack=attack)
        schedule = Schedule(steps=60, batch=8, learning_rate=3e-3, warmup=5)
        Fit(task, schedule, tmp_path / f"{name}.safetensors").run(name)
        left[name] = success(task, reader.rows, clip)
    assert left["with"] > 1.1 * left["without"]


def test_a_run_that_was_stopped_gives_the_same_bits_and_other_attacks_do_not(clip, fixed, tmp_path):
    ends = {}
    for name, slices, attack in (("whole", 1, ATTACK), ("cut", 3, ATTACK), ("other", 1, Attack(steps=5))):
        for i in range(slices):
            task = RedirectTask(clip, UNDO, fixed(8), attack=attack)
            schedule = Schedule(steps=6, batch=8, learning_rate=1e-3, warmup=1)
            fit = Fit(task, schedule, tmp_path / f"{name}.safetensors")
            while fit.step < 6 * (i + 1) // slices:
                fit._one(save=lambda _: None)
            fit.save()
        ends[name] = fingerprint(task.module)
    assert ends["whole"] == ends["cut"] != ends["other"]


@pytest.mark.parametrize("micro", [1, 3])
def test_micro_batches_change_no_gradient_and_leaving_the_attack_out_does(clip, fixed, micro):
    objective = objectives.get("pictoworld")(attacked=2.0, pair=1.0)
    whole = gradients(task_of(clip, fixed(8), objective=objective))
    cut = gradients(task_of(clip, fixed(8), objective=objective, micro_batch=micro))
    assert_same_gradients(cut, whole)
    assert differ(gradients(task_of(clip, fixed(8), None, objective)), whole)


def test_two_processes_attack_the_rows_that_one_attacks(clip, fixed, monkeypatch):
    reader = fixed(8, benign=4)
    attack = Adversary(ATTACK, task_of(clip, reader).encoders, clip.config.text_config.eos_token_id)
    whole = attack.rows(reader.rows, 1)
    monkeypatch.setattr(adversary, "processes", lambda: 2)
    parts = [attack.rows(reader.batch(0, (i, 2)), 1) for i in range(2)]
    for role in ("a", "a0"):
        unsafe, benign = (torch.cat([part[role][rows] for part in parts]) for rows in (slice(0, 2), slice(2, 3)))
        assert torch.equal(torch.cat([unsafe, benign]), whole[role])
    with pytest.raises(BadInputError, match=r"can be divided by every = 2 of \[attack\], got 3 rows in each of 2"):
        attack.rows({role: rows[:3] for role, rows in reader.rows.items()}, 1)


# --- going on from another run --------------------------------------------------------------------------------------


def test_a_run_goes_on_from_given_towers_and_is_still_compared_with_the_original(clip, fixed):
    other = nudge(RedirectTask(clip, UNDO, fixed(8), attack=ATTACK)).edits["text"].merge()
    task = RedirectTask(clip, UNDO, fixed(8), attack=ATTACK, start={"text": other})
    assert fingerprint(task.edits["text"].merge()) == fingerprint(other) != fingerprint(clip.text_model)
    with task.edits["text"].reference() as reference:
        assert fingerprint(reference) == fingerprint(clip.text_model)


def test_a_tuned_tower_that_is_not_trained_stays_and_takes_part(clip, fixed):
    reader, vision = fixed(8), copy.deepcopy(clip.vision_model)
    with torch.no_grad():
        vision.get_parameter("pre_layrnorm.weight").mul_(torch.linspace(0.1, 2, 16))
    objective = objectives.get("pictoworld")(pair=1.0)
    alone = RedirectTask(clip, objective, reader)
    beside = RedirectTask(clip, objective, reader, start={"vision": vision})
    said = "NCE(T(t*), V(v); not V(v*))"
    assert said in str(beside.objective)
    assert said not in str(alone.objective)
    assert "Align(V(v), V0(v))" not in str(beside.objective)  # a constant
    assert list(beside.edits) == ["text"]
    found = beside.encoders.encode(Source("v", tuned=True), {"pooled"}, reader.rows)["pooled"]
    original = beside.encoders.encode(Source("v"), {"pooled"}, reader.rows)["pooled"]
    assert not found.requires_grad
    assert not torch.equal(found, original)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "options", "roles"),
    [
        (objectives.get("pictoworld")(), {}, ""),
        (objectives.get("pictoworld")(attacked=1.0), {"towers": ("vision",)}, ""),
        (objectives.get("pictoworld")(attacked=1.0), {}, "t v v*"),
    ],
    ids=["no weight", "no text tower", "no unsafe captions"],
)
def test_an_attack_that_nothing_undoes_is_refused(clip, fixed, objective, options, roles):
    with pytest.raises(BadInputError, match=r"for \[attack\]"):
        RedirectTask(clip, objective, fixed(8, roles), attack=ATTACK, **options)


def test_adapters_begin_at_the_original_only(clip, fixed):
    start = {"text": copy.deepcopy(clip.text_model)}
    with pytest.raises(BadInputError, match='kind "full" to go on from the towers of another run'):
        RedirectTask(clip, UNDO, fixed(8), EditSpec("lora"), attack=ATTACK, start=start)


@pytest.mark.parametrize("numbers", [{"every": 0}, {"vectors": 0}, {"steps": 0}, {"rate": 0.0}])
def test_numbers_that_make_no_attack_are_refused(numbers):
    with pytest.raises(BadInputError, match=r"\[attack\]"):
        Attack(**numbers)


def test_a_recipe_says_the_attack_and_a_slip_is_no_default():
    values = {"about": "", "objective": "pictoworld", "schedule": {"steps": 1, "batch": 4, "learning_rate": 1e-3}}
    assert from_values(values, "x").attack is None
    assert from_values(values | {"attack": {"steps": 3}}, "x").attack == Attack(steps=3)
    with pytest.raises(UnknownNameError, match="vectors"):
        from_values(values | {"attack": {"vector": 3}}, "x")
