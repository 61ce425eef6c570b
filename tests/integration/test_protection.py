"""protect, unprotect, verify, coverage on every kind of pipeline, and the faults that leave a host untouched."""

import copy
import logging
import pickle
import threading

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from pipelines import PIPELINES, PROMPT, UNSAFE, silent

from safeencoders.errors import BadInputError, BusyError, FitError, HostError, UnprotectedError
from safeencoders.fingerprint import fingerprint
from safeencoders.integrations.protection import coverage, protect, selfcheck, unprotect, verify
from safeencoders.loading import load

CASES = pytest.mark.parametrize("case", PIPELINES.values(), ids=PIPELINES.keys())
SD, SDXL, FLUX = (PIPELINES[f"{name}Pipeline"] for name in ("StableDiffusion", "StableDiffusionXL", "Flux"))
SD3 = PIPELINES["StableDiffusion3Pipeline-no-t5"]


def snapshot(pipe):
    """Say which objects a pipeline holds, with which weights, and what its configuration names."""
    parts = {name: getattr(pipe, name) for name in pipe.components}
    weights = {name: fingerprint(part) for name, part in parts.items() if isinstance(part, torch.nn.Module)}
    return {name: id(part) for name, part in parts.items()}, weights, dict(pipe.config), type(pipe)


@CASES
def test_protect_generate_save_reload_unprotect(case, tmp_path):
    pipe = case.build()
    before, was = case.call(pipe, **unsafe(case)), type(pipe)
    covered = protect(pipe)
    assert {slot.name for slot in covered.slots if slot.encoder} == set(case.slots)
    after = case.call(pipe, **unsafe(case))
    assert not np.array_equal(before, after)
    case.save(pipe, str(tmp_path / "saved"))
    again = case.reload(str(tmp_path / "saved"))
    assert type(again) is was
    assert np.array_equal(case.call(again, **unsafe(case)), after)
    unprotect(pipe)
    assert type(pipe) is was
    assert np.array_equal(case.call(pipe, **unsafe(case)), before)


@CASES
def test_an_identity_tower_changes_no_bit(case):
    pipe = case.build()
    before = case.call(pipe)
    protect(pipe, encoders={name: copy.deepcopy(getattr(pipe, name)) for name in case.slots})
    assert np.array_equal(case.call(pipe), before)
    unprotect(pipe)
    assert np.array_equal(case.call(pipe), before)


def unsafe(case):
    return {"prompt": UNSAFE} if "prompt" in case.arguments() else {}


def test_the_report_names_what_stays_open():
    pipe = FLUX.build()
    covered = protect(pipe)
    assert covered.open_text == ("text_encoder_2",)
    assert not covered.complete
    assert covered.status(8) == "open"
    assert next(s for s in covered.slots if s.name == "text_encoder").reads == ("pooled",)
    for text in (str(covered), covered.markdown(), covered.json()):
        assert "text_encoder_2" in text
        assert "T5EncoderModel" in text


def test_eleven_holes_of_stable_diffusion_are_closed_or_watched():
    covered = protect(SD.build())
    assert covered.complete
    assert covered.count("closed", "watched") >= 11
    assert {covered.status(n) for n in (6, 10, 11, 12)} == {"open"}
    assert covered.status(3) == "broken upstream"
    assert len({hole.number for hole in covered.holes}) == 17
    assert coverage(SD.build()).count("closed", "watched") <= 1  # without protection nearly all is open


def test_strict_refuses_a_host_with_an_open_text_encoder_and_leaves_it_alone():
    for case, encoders in ((FLUX, None), (SDXL, {"text_encoder": "pictoworld"})):
        pipe = case.build()
        before = snapshot(pipe)
        with pytest.raises(UnprotectedError, match="text_encoder_2 would stay unprotected"):
            protect(pipe, encoders=encoders, policy="strict")
        assert snapshot(pipe) == before


def test_clip_l_alone_for_sdxl_is_done_and_said():
    covered = protect(SDXL.build(), encoders={"text_encoder": "pictoworld"})
    assert covered.open_text == ("text_encoder_2",)
    assert "trained on last, pooled, projected" in str(covered)
    assert "the host reads penultimate, which the encoder was not trained on" in str(covered)


BAD = {
    "no host": (lambda: torch.nn.Linear(2, 2), {}, HostError, "expected a host of one of the kinds"),
    "policy": (SD.build, {"policy": "lax"}, BadInputError, "expected a policy among warn, strict, off, got 'lax'"),
    "slot": (SD.build, {"encoders": {"te": "pictoworld"}}, BadInputError, "expected slots among text_encoder"),
    "name": (SD.build, {"encoders": "pictowrld"}, LookupError, "Did you mean 'pictoworld'"),
    "no tower": (SD.build, {"encoders": {"text_encoder": torch.nn.Linear(2, 2)}}, FitError, "a plain CLIPTextModel"),
    "vision": (SD.build, {"encoders": {"text_encoder": load(tower="vision")}}, FitError, "got CLIPVisionModel"),
    "two fit": (SD3.build, {"encoders": load(projection=True)}, BadInputError, "fits text_encoder, text_encoder_2;"),
    "none fits": (SD3.build, {"encoders": load()}, FitError, "none does"),
}


@pytest.mark.parametrize(("make", "options", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_and_the_host_untouched(make, options, error, message):
    host = make()
    before = snapshot(host) if hasattr(host, "components") else None
    with pytest.raises(error, match=message):
        protect(host, **options)
    if before is not None:
        assert snapshot(host) == before


def test_two_protects_in_a_row():
    pipe = SD.build()
    protect(pipe)
    before = snapshot(pipe)
    with pytest.raises(HostError, match="protected already; call"):
        protect(pipe)
    assert snapshot(pipe) == before
    unprotect(pipe)
    with pytest.raises(HostError, match="there is nothing to undo"):
        unprotect(pipe)
    with pytest.raises(HostError, match="one that is not; call"):
        verify(pipe)


@pytest.mark.parametrize("call", [protect, unprotect])
def test_nothing_is_swapped_while_generating(call):
    pipe = SD.build()
    if call is unprotect:
        protect(pipe)
    before, seen = snapshot(pipe), []

    def at_step(_pipe, _step, _time, values):
        with pytest.raises(BusyError, match="wait until it is done"):
            call(pipe)
        thread = threading.Thread(target=lambda: seen.append(_caught(call, pipe)))
        thread.start()
        thread.join()
        return values

    SD.call(pipe, callback_on_step_end=at_step)
    assert len(seen) == 2
    assert all(isinstance(error, BusyError) for error in seen)
    assert snapshot(pipe) == before


def _caught(call, pipe):
    try:
        call(pipe)
    except Exception as error:  # noqa: BLE001  which one it is, is asserted
        return error
    return None


def test_many_threads_may_generate():
    pipe = SD.build()
    protect(pipe, policy="strict")
    alone = [pipe.encode_prompt(text, "cpu", 1, True)[0] for text in (PROMPT, UNSAFE)]
    found, faults = {}, []

    def work(i):
        try:
            for _ in range(5):
                own = pipe.encode_prompt((PROMPT, UNSAFE)[i % 2], "cpu", 1, True)[0]
                pipe._safeencoders_guard.screen({"prompt_embeds": own})
                found[i] = own
        except Exception as error:  # noqa: BLE001
            faults.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert all(torch.equal(found[i], alone[i % 2]) for i in found)


def test_pipelines_derived_before_are_pointed_out_and_later_ones_carry_the_tower_not_the_guard():
    pipe = SD.build()
    with silent():
        earlier = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    original = pipe.text_encoder
    covered = protect(pipe)
    assert any("StableDiffusionImg2ImgPipeline" in note for note in covered.notes)
    assert earlier.text_encoder is original
    with silent():
        later = (StableDiffusionImg2ImgPipeline.from_pipe(pipe), AutoPipelineForImage2Image.from_pipe(pipe))
    for one in later:
        assert type(one) is StableDiffusionImg2ImgPipeline
        assert one.text_encoder is pipe.text_encoder
        assert coverage(one).policy is None  # no guard goes along ...
        assert coverage(one).status(1) == "open"
    assert "protect them again" in next(h.reason for h in covered.holes if h.number == 15)  # ... and it is said
    protect(later[0], encoders={"text_encoder": later[0].text_encoder})
    assert coverage(later[0]).status(1) == "watched"
    assert coverage(pipe).status(1) == "watched"


def test_a_deep_copy_is_guarded_too_and_only_the_first_is_unprotected():
    pipe = SD.build()
    protect(pipe)
    twin = copy.deepcopy(pipe)
    assert twin.text_encoder is not pipe.text_encoder
    assert np.array_equal(SD.call(twin), SD.call(pipe))
    assert verify(twin).complete
    with pytest.raises(HostError, match="got a copy of it"):
        unprotect(twin)
    unprotect(pipe)
    assert verify(twin).complete


def test_pickling_says_no_and_what_to_do():
    pipe = SD.build()
    protect(pipe)
    with pytest.raises(HostError, match="save_pretrained"):
        pickle.dumps(pipe)


def test_off_swaps_and_reports_without_a_guard():
    pipe = SD.build()
    covered = protect(pipe, policy="off")
    assert type(pipe) is StableDiffusionPipeline
    assert covered.status(1) == "open"
    assert covered.status(9) == "open"
    unprotect(pipe)


def test_verify_sees_weights_changed_behind_the_guard_and_selfcheck_says_how_much():
    pipe = SD.build()
    protect(pipe)
    assert verify(pipe).complete
    assert selfcheck(pipe)["text_encoder"].redirection == pytest.approx(1, abs=1e-4)
    original = load("none").state_dict()
    with torch.no_grad():
        for name, value in pipe.text_encoder.named_parameters():
            value.copy_(original[name])
    found = verify(pipe)
    assert found.open_text == ("text_encoder",)
    assert selfcheck(pipe)["text_encoder"].redirection == pytest.approx(0, abs=1e-3)
    assert found.status(1) == "open"


def test_a_tower_alone_is_checked_too():
    assert not selfcheck(load())["text"].alarm
    assert selfcheck(load("none"))["text"].alarm
    with pytest.raises(HostError, match="protect a pipeline with it"):
        selfcheck(torch.nn.Linear(2, 2))


def test_events_reach_the_log_and_the_callback_without_a_word_of_the_prompt(caplog):
    pipe, events = SD.build(), []
    foreign = pipe.encode_prompt(UNSAFE, "cpu", 1, False)[0]
    protect(pipe, on_event=events.append)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            SD.call(pipe, prompt=None, prompt_embeds=foreign, negative_prompt=UNSAFE)
    assert [(e.hole, e.action) for e in events] == [(9, "noted"), (1, "warned"), (1, "warned")]
    said = caplog.text + "".join(e.what for e in events)
    assert "prompt_embeds" in said
    assert "--concept-encoder original" in said
    assert not any(word in said for word in ("deadly", "pills", "evening"))


def test_a_callback_that_fails_stops_nothing(caplog):
    pipe = SD.build()
    foreign = pipe.encode_prompt(UNSAFE, "cpu", 1, False)[0]

    def fail(_event):
        raise RuntimeError("the listener's own fault")

    protect(pipe, on_event=fail)
    SD.call(pipe, prompt=None, prompt_embeds=foreign, guidance_scale=1.0)
    assert "the on_event callback failed" in caplog.text
