"""The report: every hole in every slot, the worst slot counts, and the same facts in each of its four forms."""

import json

import pytest
from rich.console import Console

import safeencoders
from safeencoders.integrations.coverage import Coverage, HoleReport, SlotReport
from safeencoders.integrations.holes import HOLES, Facts, report
from safeencoders.pictoworld import models

FULL = Facts(
    "warn",
    frozenset({"prompt", "prompt_embeds", "negative_prompt_embeds", "clip_skip", "latents"}),
    frozenset({"load_lora_weights", "load_textual_inversion", "load_ip_adapter"}),
    pipeline=True,
    clip_skip_broken=False,
)
SAFE = SlotReport("text_encoder", "text", "CLIPTextModel", "protected", "pictoworld", ("last",), ("last",))
OPEN = SlotReport("text_encoder_2", "text", "T5EncoderModel", "open")


def statuses(facts, *slots):
    return {(hole.number, hole.slot): hole.status for hole in report(facts, slots)}


def covered(*slots, facts=FULL):
    return Coverage("Host", facts.policy, slots, tuple(report(facts, slots)))


def test_there_are_seventeen_holes_numbered_in_order():
    assert [hole.number for hole in HOLES] == list(range(1, 18))


@pytest.mark.parametrize("policy", [None, "off", "warn", "strict"])
def test_every_hole_is_reported_under_every_policy(policy):
    facts = Facts(policy, FULL.parameters, FULL.methods, pipeline=True, clip_skip_broken=False)
    assert {number for number, _ in statuses(facts, SAFE)} == set(range(1, 18))


def test_strict_closes_what_warn_watches_and_no_guard_leaves_open():
    for policy, expected in ((None, "open"), ("off", "open"), ("warn", "watched"), ("strict", "closed")):
        facts = Facts(policy, FULL.parameters, FULL.methods, pipeline=True, clip_skip_broken=False)
        assert statuses(facts, SAFE)[1, "text_encoder"] == expected


def test_every_text_hole_of_an_unprotected_slot_is_open_and_the_worst_slot_counts():
    both = covered(SAFE, OPEN)
    assert statuses(FULL, SAFE, OPEN)[1, "text_encoder_2"] == "open"
    assert both.status(1) == "open"
    assert covered(SAFE).status(1) == "watched"
    assert both.open_text == ("text_encoder_2",)
    assert not both.complete
    assert covered(SAFE).complete
    assert not covered().complete


def test_a_negative_prompt_is_watched_under_a_guard_only_and_a_host_of_one_prompt_has_none():
    for policy, expected in ((None, "open"), ("off", "open"), ("warn", "watched"), ("strict", "watched")):
        takes = Facts(
            policy, FULL.parameters | {"negative_prompt"}, FULL.methods, pipeline=True, clip_skip_broken=False
        )
        assert statuses(takes, SAFE)[9, "text_encoder"] == expected
    assert statuses(FULL, SAFE)[9, "text_encoder"] == "does not apply"


def test_a_vision_tower_of_a_model_is_a_tower_and_one_of_a_pipeline_conditions():
    seen = SlotReport(
        "vision_tower", "vision", "CLIPVisionModel", "protected", "pictoworld", ("patches",), ("patches",)
    )
    takes = frozenset({"inputs_embeds", "vision_feature_layer", "past_key_values"})
    model = Facts("strict", takes, frozenset({"save_pretrained"}), pipeline=False, clip_skip_broken=False)
    found = statuses(model, seen)
    assert {number for number, slot in found if slot} == {3, 5, 7, 10, 11, 13, 15, 17}
    assert {number for number in range(1, 18) if found.get((number, "vision_tower")) == "closed"} == {3, 5, 7, 13, 17}
    assert {number for number, slot in statuses(FULL, SAFE, seen) if slot == "vision_tower"} == {13}


@pytest.mark.parametrize("number", [1, 2, 4, 5, 9, 12, 14])
def test_what_the_host_cannot_do_does_not_apply(number):
    bare = Facts("warn", frozenset({"prompt"}), frozenset(), pipeline=True, clip_skip_broken=False)
    found = {hole.number: hole.status for hole in report(bare, (SAFE,))}
    assert found[number] == "does not apply"


def test_clip_skip_is_judged_by_what_the_encoder_was_trained_on_and_by_whether_it_works():
    broken = Facts("warn", FULL.parameters, FULL.methods, pipeline=True, clip_skip_broken=True)
    assert statuses(broken, SAFE)[3, "text_encoder"] == "broken upstream"
    assert statuses(FULL, SAFE)[3, "text_encoder"] == "watched"


def test_the_four_forms_hold_the_same_holes(capsys):
    found = covered(SAFE, OPEN)
    data = json.loads(found.json())
    assert data == json.loads(json.dumps(found.to_dict()))
    assert data["summary"]["6"] == "open"
    assert data["open_text"] == ["text_encoder_2"]
    Console(width=200).print(found.table())
    printed = capsys.readouterr().out
    for hole in found.holes:
        for text in (str(found), found.markdown(), printed):
            assert hole.title in text
    assert found.markdown().count("\n|") == 4 + len(found.slots) + len(found.holes)


def test_counting_is_by_hole_not_by_slot():
    holes = (
        HoleReport(1, "a", "x", "closed", ""),
        HoleReport(1, "a", "y", "watched", ""),
        HoleReport(2, "b", None, "open", ""),
    )
    found = Coverage("Host", "warn", (), holes)
    assert found.count("closed", "watched") == 1
    assert found.count("open") == 1
    assert found.status(1) == "watched"


def test_what_a_guard_was_measured_not_to_hold_is_open_for_that_encoder():
    reports = {
        name: safeencoders.protect(models.pipeline(), encoders=name) for name in ("pictoworld", "pictoworld/robust")
    }
    differing = [hole for hole in range(1, 18) if len({report.status(hole) for report in reports.values()}) > 1]
    assert differing == [4]
    assert reports["pictoworld/robust"].status(4) == "open"
