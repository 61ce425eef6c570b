"""Validation: each tower where it is deployed, by the rates of the metrics module, on rows of its own."""

import pytest
import torch
from torch.nn import functional

from safeencoders.training.edits import EditSpec
from safeencoders.training.loop import Fit, Schedule
from safeencoders.training.objectives import objectives
from safeencoders.training.redirect import Encoders, RedirectTask
from safeencoders.training.validation import Validator

BOTH = ("text", "vision")


def encoders(clip, towers=("text",), moved=0.0, edit=None, **options):
    clip.requires_grad_(False)
    own = {"text": clip.text_model, "vision": clip.vision_model}
    edits = {name: (edit or EditSpec()).apply(own[name]) for name in towers}
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for edit_of in edits.values():
            for p in edit_of.tuned.parameters():
                p.add_(moved * torch.randn(p.shape, generator=draw))
    return Encoders(clip, edits, **options)


def chosen(rows, roles):
    return {role: rows[role] for role in roles.split()}


def unit(x):
    return functional.normalize(x, dim=-1)


def first_places(queries, gallery):
    """Return the share of queries whose own row comes first, without ties."""
    return (unit(queries) @ unit(gallery).T).argmax(1).eq(torch.arange(len(queries))).float().mean().item()


def test_the_rates_are_those_of_hand_made_galleries(clip, rows):
    """A tuned text tower finds pictures of the original vision tower; unsafe pictures are in the gallery of T*."""
    found, towers = chosen(rows(12), "t t* v v*"), encoders(clip, moved=0.05)
    metrics = Validator(towers, found)()
    text = towers.edits["text"].tuned
    with torch.no_grad():
        t, u = (clip.text_projection(text(input_ids=found[r]).pooler_output) for r in ("t", "t*"))
        v, x = (clip.get_image_features(pixel_values=found[r]).pooler_output for r in ("v", "v*"))
    both = torch.cat([v, x])
    assert metrics["T-V R@1"] == pytest.approx(first_places(t, v))
    assert metrics["T*-VuV* R@1"] == pytest.approx(first_places(u, both))
    unsafe = (unit(u) @ unit(both).T).argmax(1).ge(12).float().mean().item()
    assert metrics["T*-VuV* top-1 unsafe"] == pytest.approx(unsafe)
    assert metrics["score"] == pytest.approx((metrics["T-V R@1"] + metrics["T*-VuV* R@1"]) / 2)
    assert {"T-V R@10", "T*-VuV* R@10"} <= metrics.keys()


@pytest.mark.parametrize(
    ("towers", "roles", "tasks"),
    [
        (("text",), "t t* v v*", {"T-V", "T*-VuV*"}),
        (("text",), "t t* v", {"T-V", "T*-V"}),
        (("text",), "t t*", {"T-T", "T*-TuT*"}),
        (("text",), "t v", {"T-V"}),
        (("vision",), "t t* v v*", {"V-T", "V*-TuT*"}),
        (("vision",), "v v*", {"V-V", "V*-VuV*"}),
        (BOTH, "t t* v v*", {"T-V", "T*-VuV*", "V-T", "V*-TuT*", "both T-V", "both T*-VuV*"}),
    ],
)
def test_what_is_measured_follows_from_the_data_and_the_towers(clip, rows, towers, roles, tasks):
    metrics = Validator(encoders(clip, towers), chosen(rows(6), roles))()
    assert {name.removesuffix(" R@1") for name in metrics if name.endswith("R@1")} == tasks
    assert all(0 <= value <= 1 for value in metrics.values())


def test_an_original_tower_finds_its_own_captions_and_its_unsafe_twins_first(clip, rows):
    metrics = Validator(encoders(clip), chosen(rows(12), "t t*"))()
    assert metrics["T-T R@1"] == 1
    assert metrics["T*-TuT* R@1"] == 0
    assert metrics["T*-TuT* top-1 unsafe"] == 1


def test_a_tower_that_sends_unsafe_captions_to_safe_ones_scores_all(clip, rows):
    """The twin: where unsafe captions are read as the safe ones, nothing is left to gain."""
    found = chosen(rows(12), "t t*")
    towers = encoders(clip)
    honest = towers.encode

    def redirected(source, kinds, batch):
        if source.role == "t*" and source.tuned:
            index = [int((found["t*"] == row).all(1).nonzero()[0]) for row in batch["t*"]]
            return honest(source, kinds, {"t*": found["t"][index]})
        return honest(source, kinds, batch)

    towers.encode = redirected
    metrics = Validator(towers, found)()
    assert metrics["score"] == 1
    assert metrics["T*-TuT* top-1 unsafe"] == 0


def test_rows_beyond_a_chunk_are_measured_alike(clip, rows, monkeypatch):
    found, towers = chosen(rows(13), "t t* v v*"), encoders(clip, BOTH, moved=0.05)
    whole = Validator(towers, found)()
    monkeypatch.setattr("safeencoders.training.validation.CHUNK", 4)
    assert Validator(towers, found)() == pytest.approx(whole)


def test_the_original_is_embedded_once_and_a_reference_that_moves_every_time(clip, rows):
    found = chosen(rows(6), "t t* v v*")
    for reference, calls in (("frozen", 2), ("self", 4)):
        towers, asked = encoders(clip, reference=reference), []
        honest = towers.encode
        towers.encode = lambda source, *rest, asked=asked, honest=honest: asked.append(source) or honest(source, *rest)
        validate = Validator(towers, found)
        validate()
        validate()
        assert sum(not source.tuned for source in asked) == calls
        assert sum(source.tuned for source in asked) == 4


@pytest.mark.parametrize("edit", [EditSpec(), EditSpec("lora", rank=4, dropout=0.5)], ids=["full", "lora"])
def test_validation_during_training_is_that_of_the_merged_tower(clip, fixed, tmp_path, edit):
    """Dropout is off while it is measured, and on again afterwards."""
    reader = fixed(8)
    task = RedirectTask(clip, objectives.get("text-pairs")(), reader, edit)
    schedule = Schedule(steps=6, batch=8, learning_rate=3e-3, warmup=1, validate_every=3)
    modes = []
    validator = Validator(task.encoders, reader.rows)
    fit = Fit(
        task, schedule, tmp_path / "run.safetensors", validate=lambda: modes.append(task.module.training) or validator()
    )
    fit.run("run")
    assert modes == [False, False]
    assert task.module.training
    fit.finish()
    clip.text_model = task.edits["text"].merge()
    merged = Encoders(clip, {"text": EditSpec().apply(clip.text_model)})
    found = dict(fit.validations)[fit.best_step]
    queries = Validator(merged, {role: reader.rows[role] for role in ("t", "v")})()
    assert queries["T-V R@1"] == pytest.approx(found["T-V R@1"])
