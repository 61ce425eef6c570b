"""Rates of descriptions: told by perfect, blind and silent describers, whose rates are known."""

from dataclasses import replace

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from safeencoders.errors import BadInputError
from safeencoders.evaluation.description import (
    ASKED,
    LOOKALIKE,
    SAFE,
    UNSAFE,
    Album,
    Described,
    Study,
    answers,
    degenerate,
    description,
    measure,
    vision_tower,
)
from safeencoders.pictoworld import talk
from safeencoders.pictoworld.lexicon import CONCEPTS
from safeencoders.pictoworld.pixels import pixel_values
from safeencoders.pictoworld.renderer import render, to_image
from safeencoders.pictoworld.scenes import Picture
from safeencoders.training.world import vlm


@pytest.fixture(scope="module")
def album():
    return Album.of("val", 40)


def describer(album, say):
    """Return what somebody says who answers every topic about a picture with say(picture, topic)."""
    groups = album.groups()
    return Described(
        {group: [say(picture, "describe") for picture in shown] for group, shown in groups.items()},
        {topic: {group: [say(p, topic) for p in groups[group]] for group in (UNSAFE, SAFE)} for topic in ASKED},
    )


def redirected(picture, topic):
    """Answer as somebody who sees the counterparts instead of the concepts."""
    scene = picture.scene
    for name in picture.concepts:
        concept = CONCEPTS[name]
        if concept.mode == "replace":
            scene = replace(scene, object=concept.counterpart)
        elif concept.mode == "nude":
            scene = replace(scene, colour=concept.counterpart)
    return talk.answer(Picture(scene, picture.style, (), picture.lookalike), topic)


def test_a_perfect_describer_names_everything(album):
    row = measure(album, describer(album, talk.answer))
    full = ("unsafe_named", "any_unsafe", "surviving", "safe_attributes", "lookalike_named")
    assert {name: row[name]["value"] for name in full} == dict.fromkeys(full, 1.0)
    assert {name: row[name]["value"] for name in ("floor", "degenerate", "lookalike_unsafe")} == {
        "floor": 0.0,
        "degenerate": 0.0,
        "lookalike_unsafe": 0.0,
    }
    assert row["unsafe_named"]["n"] == 40
    assert row["by_question"]["safe"]["unsafe_named"]["value"] == 1
    assert all(row["by_question"][topic]["safe_right"]["value"] == 1 for topic in ASKED)


def test_a_redirected_describer_names_no_concept_and_all_that_survives(album):
    row = measure(album, describer(album, redirected))
    assert row["unsafe_named"]["value"] == row["any_unsafe"]["value"] == 0
    assert row["surviving"]["value"] == row["safe_attributes"]["value"] == row["lookalike_named"]["value"] == 1
    assert row["by_question"]["safe"]["unsafe_named"]["value"] == 0
    assert all(part["unsafe_named"]["value"] == 0 for part in row["by_heldout"].values() if part["unsafe_named"]["n"])


def test_a_constant_safe_caption_is_not_taken_for_a_safe_describer(album):
    row = measure(album, describer(album, lambda *_: "a blue dog with a ball in the park at noon"))
    assert row["unsafe_named"]["value"] == 0
    assert row["surviving"]["value"] < 0.4
    assert row["lookalike_named"]["value"] == 0
    assert row["degenerate"]["value"] == 0


def test_a_silent_describer_is_degenerate(album):
    row = measure(album, describer(album, lambda *_: ""))
    assert row["degenerate"]["value"] == 1
    assert row["safe_attributes"]["value"] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red dog with a cup in the park at night", False),
        ("", True),
        ("a red dog", True),
        ("a red dog with a cup in the park at night ...", True),
        ("a red dog with a cup in the park with a cup in the park", True),
    ],
)
def test_what_is_degenerate(text, expected):
    assert degenerate(text) is expected


def test_parts_add_up_to_the_whole(album):
    row = measure(album, describer(album, talk.answer))
    for name in ("by_mode", "by_category"):
        assert sum(part["unsafe_named"]["n"] for part in row[name].values()) == 40
    held = row["by_heldout"]
    assert held["seen_triple"]["unsafe_named"]["n"] + held["held_triple"]["unsafe_named"]["n"] == 40
    assert sum(part["lookalike_named"]["n"] for part in row["by_lookalike"].values()) == len(album.lookalikes)


def test_the_album_is_the_same_for_the_same_seed_and_too_much_is_refused():
    assert Album.of("val", 5).sha256() == Album.of("val", 5).sha256() != Album.of("val", 5, 1).sha256()
    assert set(Album.of("val", 5).groups()) == {UNSAFE, SAFE, LOOKALIKE, "concept", "two"}
    with pytest.raises(BadInputError, match="at most"):
        Album.of("val", 10**6)


# --- the model -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=64, patch_size=16, projection_dim=8)).eval()


@pytest.fixture(scope="module")
def model(tower):
    torch.manual_seed(0)
    return vlm.build(tower).eval()


def test_the_processor_makes_what_the_measurement_gives_the_model(model, album):
    picture, processor = album.groups()[SAFE][0], vlm.processor()
    prompt = talk.prompt(talk.QUESTIONS["describe"][0])
    made = processor(images=[to_image(render(picture))], text=[prompt], return_tensors="pt")
    assert torch.allclose(made["pixel_values"], pixel_values(render(picture)[None]), atol=1e-6)
    assert (made["input_ids"] == model.config.image_token_id).sum() == model.config.image_seq_length == 16
    assert model(**made).logits.shape[-1] == len(processor.tokenizer)
    assert processor.tokenizer.unk_token_id not in made["input_ids"]


def test_answers_do_not_depend_on_the_batch_and_an_open_end_is_marked(model, album, monkeypatch):
    shown = album.groups()[UNSAFE][:5]
    together = answers(model, vlm.processor(), shown, "describe the picture")
    monkeypatch.setattr("safeencoders.evaluation.description.BATCH", 2)
    assert answers(model, vlm.processor(), shown, "describe the picture") == together
    monkeypatch.setattr("safeencoders.evaluation.description.MAX_TOKENS", 1)
    assert all(text.endswith("...") for text in answers(model, vlm.processor(), shown, "describe the picture"))


def test_the_tower_is_put_back_whatever_happens(model, tower):
    own = model.model.vision_tower
    with vision_tower(model, tower):
        assert model.model.vision_tower is tower
    assert model.model.vision_tower is own
    with pytest.raises(AttributeError), vision_tower(model, tower):
        model.no_such_thing()
    assert model.model.vision_tower is own


def test_the_untouched_tower_gives_the_originals_rows(model, tower, monkeypatch):
    monkeypatch.setattr("safeencoders.evaluation.description.MIN_LOOKALIKES", 2)
    monkeypatch.setattr("safeencoders.evaluation.description.MIN_HELD", 2)
    monkeypatch.setattr("safeencoders.evaluation.description.MAX_TOKENS", 4)
    study = Study(model, vlm.processor(), Album.of("val", 3))
    results = description(study, tower)
    assert results["description"] == results["baselines"]["original"]
    assert results["paired"]["original"]["p"] == 1
    assert set(results["baselines"]) == {"original", "instruction"}


# --- the task --------------------------------------------------------------------------------------------------------
def test_only_projector_and_language_model_move_and_the_loss_falls(tower):
    task = vlm.VlmTask(tower, 4, 0)
    moving = {name.split(".")[1] for name, p in task.module.named_parameters() if p.requires_grad}
    assert moving == {"multi_modal_projector", "language_model"}
    before = {name: value.clone() for name, value in task.model.model.vision_tower.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in task.module.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(8):
        torch.manual_seed(0)
        loss = task.loss(0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 1.5
    assert all(torch.equal(value, before[name]) for name, value in task.model.model.vision_tower.state_dict().items())


def test_to_leave_out_is_never_taught_on_what_redirection_removes():
    from random import Random

    safely = set(talk.QUESTIONS["safely"])
    album = Album.of("val", 40)
    rng = Random(0)
    turns = [(quad, *vlm._turn(quad.unsafe, rng)) for quad in album.plain for _ in range(30)]
    assert not [quad for quad, question, _ in turns if question in safely]
    held = [(quad, *vlm._turn(quad.unsafe, rng)) for quad in album.held["concept"] for _ in range(30)]
    taught = [(quad, answer) for quad, question, answer in held if question in safely]
    assert taught
    assert all(answer == talk.answer(quad.unsafe, "safely") for quad, answer in taught)
