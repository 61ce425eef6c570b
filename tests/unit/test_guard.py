"""The guard on the world's pipeline: what is measured, what is taken back, what passes; each rule with its twin."""

import copy
import warnings

import pytest
import torch
from diffusers import AutoPipelineForImage2Image, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from pipelines import PIPELINES, PROMPT, UNSAFE, silent
from stopping import stopped

from safeencoders.errors import BypassError
from safeencoders.integrations.arguments import added_tokens, bound, embeddings
from safeencoders.integrations.guarded import guard_of
from safeencoders.integrations.protection import coverage, protect, verify
from safeencoders.integrations.state import state
from safeencoders.loading import load
from safeencoders.pictoworld import models

CASE = PIPELINES["StableDiffusionPipeline"]


@pytest.fixture
def events():
    return []


@pytest.fixture(params=["warn", "strict"])
def policy(request):
    return request.param


@pytest.fixture
def pipe(policy, events):
    """Give a protected pipeline that keeps its original tower beside it."""
    pipe = CASE.build()
    original = copy.deepcopy(pipe.text_encoder)
    protect(pipe, policy=policy, on_event=events.append)
    pipe.__dict__["original"] = original
    return pipe


def foreign(pipe):
    ids = pipe.tokenizer(UNSAFE, padding="max_length", max_length=32, return_tensors="pt").input_ids
    return pipe.__dict__["original"](ids).last_hidden_state


def test_foreign_embeddings_are_seen_and_own_ones_pass(pipe, policy, events):
    own, negative = pipe.encode_prompt(UNSAFE, "cpu", 1, True)
    CASE.call(pipe, prompt=None, prompt_embeds=own, negative_prompt_embeds=negative)
    assert events == []
    given = {"prompt": None, "prompt_embeds": foreign(pipe), "negative_prompt_embeds": negative}
    stopped(policy, lambda: CASE.call(pipe, **given), events, 1)


def test_negative_embeddings_are_a_hole_of_their_own(pipe, policy, events):
    own, _ = pipe.encode_prompt(PROMPT, "cpu", 1, True)
    given = {"prompt": None, "prompt_embeds": own, "negative_prompt_embeds": foreign(pipe)}
    stopped(policy, lambda: CASE.call(pipe, **given), events, 14)


def test_foreign_embeddings_cannot_be_laundered_by_encoding_them(pipe, policy, events):
    act = lambda: pipe.encode_prompt(None, "cpu", 1, False, prompt_embeds=foreign(pipe))  # noqa: E731
    stopped(policy, act, events, 1)
    assert guard_of(pipe).ledger.find(foreign(pipe)).verdict == "foreign"


def test_own_embeddings_amplified_are_told_apart(pipe, policy, events):
    own, empty = pipe.encode_prompt(UNSAFE, "cpu", 1, True)
    CASE.call(pipe, prompt=None, prompt_embeds=empty + 1.5 * (own - empty), negative_prompt_embeds=empty)
    assert events == []
    strong = empty + 4 * (own - empty)
    given = {"prompt": None, "prompt_embeds": strong, "negative_prompt_embeds": empty}
    stopped(policy, lambda: CASE.call(pipe, **given), events, 2)


REPLACE = {
    "attribute": lambda pipe, new: setattr(pipe, "text_encoder", new),
    "register_modules": lambda pipe, new: pipe.register_modules(text_encoder=new),
    "behind its back": lambda pipe, new: (pipe.__dict__.update(text_encoder=new), CASE.call(pipe)),
}


@pytest.mark.parametrize("replace", REPLACE.values(), ids=REPLACE.keys())
def test_another_tower_is_seen_and_an_equal_one_passes(pipe, policy, events, replace):
    replace(pipe, copy.deepcopy(pipe.text_encoder))
    assert [event.action for event in events] == ["noted"]
    CASE.call(pipe)
    events.clear()
    before, written = pipe.text_encoder, dict(pipe.config)
    stopped(policy, lambda: replace(pipe, pipe.__dict__["original"]), events, 7)
    if policy == "strict" and replace is not REPLACE["behind its back"]:
        assert pipe.text_encoder is before
        assert dict(pipe.config) == written
    elif policy == "warn":
        assert coverage(pipe).open_text == ("text_encoder",)
        assert verify(pipe).open_text == ("text_encoder",)


def test_weights_changed_in_place_are_measured_before_the_next_call(pipe, policy, events):
    with torch.no_grad():
        for value in pipe.text_encoder.parameters():
            value.add_(1e-6)
    CASE.call(pipe)
    assert [event.action for event in events] == ["noted"]
    events.clear()
    with torch.no_grad():
        for value, old in zip(pipe.text_encoder.parameters(), pipe.__dict__["original"].parameters(), strict=True):
            value.copy_(old)
    stopped(policy, lambda: CASE.call(pipe), events, 17)


def test_another_number_format_passes(pipe, events):
    pipe.to(torch.bfloat16)
    pipe.encode_prompt(PROMPT, "cpu", 1, False)
    with guard_of(pipe).calling(pipe, {}):
        pass
    assert [event.action for event in events] == ["noted"]


def test_another_tokenizer_is_seen_and_an_equal_one_passes(pipe, policy, events):
    pipe.tokenizer = models.tokenizer()
    assert [event.action for event in events] == ["noted"]
    events.clear()
    stopped(policy, lambda: setattr(pipe, "tokenizer", _shifted()), events, 17)


def _shifted():
    """Return a tokenizer that writes every word as another one."""
    tokenizer = models.tokenizer()
    plain = type(tokenizer).__call__

    class Shifted(type(tokenizer)):
        def __call__(self, *arguments, **options):
            found = plain(self, *arguments, **options)
            found["input_ids"] = [[i if i > 1500 else (i + 7) % 1500 for i in row] for row in found["input_ids"]]
            return found

    tokenizer.__class__ = Shifted
    return tokenizer


def test_a_token_that_leads_to_something_unsafe_is_taken_back_and_a_plain_one_stays(pipe, policy, events):
    table = pipe.text_encoder.get_input_embeddings().weight
    plain = table[pipe.tokenizer.convert_tokens_to_ids("dog</w>")].clone()
    with silent():
        pipe.load_textual_inversion({"<pet>": plain[None]}, token="<pet>")  # noqa: S106  a word, not a secret
    assert events == []
    assert added_tokens(pipe.tokenizer) == ("<pet>",)
    before, bad = state(pipe.text_encoder, pipe.tokenizer), learned_token(pipe.__dict__["original"], load())
    load_bad = lambda: pipe.load_textual_inversion({"<x>": bad}, token="<x>")  # noqa: E731, S106
    with silent():
        stopped(policy, load_bad, events, 4)
    assert added_tokens(pipe.tokenizer) == ("<pet>",)
    assert state(pipe.text_encoder, pipe.tokenizer) == before


def learned_token(original, safe):
    """Learn a vector that, in the place of a thing's name, makes the safe tower say what the original said of a gun."""
    tokenizer = models.tokenizer()
    scenes = [
        f"a {colour} {who} with a gun in the park" for colour in ("red", "blue", "green") for who in ("dog", "man")
    ]
    ids = tokenizer(scenes, padding="max_length", max_length=32, return_tensors="pt").input_ids
    at = ids == tokenizer.convert_tokens_to_ids("gun</w>")
    wanted = original(ids).last_hidden_state
    table = safe.get_input_embeddings()
    vector = table.weight[tokenizer.convert_tokens_to_ids("gun</w>")].clone().requires_grad_(True)
    adam = torch.optim.Adam([vector], lr=0.02)
    hook = table.register_forward_hook(lambda _module, _inputs, found: torch.where(at[..., None], vector, found))
    for _ in range(150):
        adam.zero_grad()
        (safe(ids).last_hidden_state - wanted).square().mean().backward()
        adam.step()
    hook.remove()
    return vector.detach()[None]


def test_the_safety_checker_may_not_vanish_unseen(policy, events):
    pipe = PIPELINES["StableDiffusionPipeline-checked"].build()
    protect(pipe, policy=policy, on_event=events.append)
    stopped(policy, lambda: setattr(pipe, "safety_checker", None), events, 16)


def test_an_image_encoder_that_comes_later_is_seen(pipe, policy, events):
    new = load("none", tower="vision", projection=True)
    stopped(policy, lambda: pipe.register_modules(image_encoder=new), events, 13)


def test_a_layer_the_tower_was_not_trained_on_is_seen(policy, events):
    case = PIPELINES["StableDiffusionXLPipeline"]
    pipe = case.build()
    protect(pipe, policy=policy, on_event=events.append)
    case.call(pipe)
    assert events == []
    stopped(policy, lambda: case.call(pipe, clip_skip=1), events, 3)


def test_update_components_of_a_modular_pipeline_is_seen(policy, events):
    pipe = PIPELINES["StableDiffusionXLModularPipeline"].build()
    original = copy.deepcopy(pipe.text_encoder)
    protect(pipe, policy=policy, on_event=events.append)
    specs = copy.deepcopy(pipe._component_specs)
    act = lambda: pipe.update_components(text_encoder=original)  # noqa: E731
    stopped(policy, act, events, 7)
    if policy == "strict":
        assert pipe._component_specs == specs


def test_embeddings_of_sdxl_put_together_from_its_towers_are_own(events):
    case = PIPELINES["StableDiffusionXLPipeline"]
    pipe = case.build()
    protect(pipe, policy="strict", on_event=events.append)
    ids = pipe.tokenizer(UNSAFE, padding="max_length", max_length=32, return_tensors="pt").input_ids
    one = pipe.text_encoder(ids, output_hidden_states=True)
    two = pipe.text_encoder_2(ids, output_hidden_states=True)
    states = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)
    given = {"prompt": None, "prompt_embeds": states, "pooled_prompt_embeds": two.text_embeds, "guidance_scale": 1.0}
    case.call(pipe, **given)
    swapped = torch.cat([one.hidden_states[-1], two.hidden_states[-2].flip(1)], dim=-1)
    with pytest.raises(BypassError):
        case.call(pipe, **given | {"prompt_embeds": swapped})


def test_the_guarded_class_looks_like_the_plain_one(pipe):
    kind = type(pipe)
    assert kind.__name__ == "StableDiffusionPipeline"
    assert kind.__module__ == StableDiffusionPipeline.__module__
    assert isinstance(pipe, StableDiffusionPipeline)
    assert StableDiffusionPipeline.__setattr__ is not kind.__setattr__  # the plain class is as it was
    assert kind.__call__.__doc__ == StableDiffusionPipeline.__call__.__doc__


def test_arguments_are_named_and_only_embeddings_are_looked_at():
    def call(self, prompt=None, prompt_embeds=None, attention_mask_embeds=None, **kwargs):  # noqa: ARG001
        raise AssertionError

    x = torch.zeros(1, 2, 3)
    named = bound(
        call, (None, "a"), {"prompt_embeds": x, "ip_adapter_image_embeds": [x, x.clone()], "attention_mask_embeds": x}
    )
    assert named["prompt"] == "a"
    assert [name for name, _ in embeddings(named)] == [
        "prompt_embeds",
        "ip_adapter_image_embeds",
        "ip_adapter_image_embeds",
    ]
    assert bound(call, (), {"nonsense": 1}) == {"nonsense": 1}


def test_the_state_sees_a_small_change_of_any_weight_and_nothing_else():
    tower, tokenizer = load(), models.tokenizer()
    before = state(tower, tokenizer)
    assert state(copy.deepcopy(tower), models.tokenizer()) == before
    seen = 0
    for _, value in tower.named_parameters():
        with torch.no_grad():
            value.mul_(1.001).add_(1e-6)
        now = state(tower, tokenizer)
        seen += now != before
        before = now
    assert seen == len(list(tower.parameters()))
    tokenizer.add_tokens(["<new>"])
    assert state(tower, tokenizer) != before


def test_what_was_encoded_in_a_way_that_is_reported_does_not_become_own(policy, events):
    case = PIPELINES["StableDiffusionXLPipeline"]
    pipe = case.build()
    protect(pipe, policy="warn", on_event=events.append)
    states, _, pooled, _ = pipe.encode_prompt(UNSAFE, device="cpu", do_classifier_free_guidance=False, clip_skip=1)
    assert [event.hole for event in events] == [3]
    events.clear()
    given = {"prompt": None, "prompt_embeds": states, "pooled_prompt_embeds": pooled, "guidance_scale": 1.0}
    case.call(pipe, **given)
    assert 1 in {event.hole for event in events}
    if policy == "strict":
        ids = pipe.tokenizer(UNSAFE, padding="max_length", max_length=32, return_tensors="pt").input_ids
        other = pipe.text_encoder(ids, output_hidden_states=True).hidden_states[-3]
        assert guard_of(pipe).ledger.find(other).verdict == "foreign"


def test_a_load_does_not_bless_a_tower_that_was_bad_before(pipe, policy, events):
    with torch.no_grad():
        for value, old in zip(pipe.text_encoder.parameters(), pipe.__dict__["original"].parameters(), strict=True):
            value.copy_(old)
    vector = pipe.text_encoder.get_input_embeddings().weight[300].clone()[None]

    def load():
        with silent():
            pipe.load_textual_inversion({"<x>": vector}, token="<x>")  # noqa: S106

    if policy == "strict":
        with pytest.raises(BypassError):
            load()
    else:
        load()
    events.clear()
    twin = copy.deepcopy(pipe)
    stopped(policy, lambda: CASE.call(pipe), events, 17)
    events.clear()
    stopped(policy, lambda: CASE.call(twin), events, 17)


def test_a_callback_cannot_put_other_embeddings_in_unseen(pipe, policy, events):
    CASE.call(pipe, callback_on_step_end=lambda _pipe, _step, _time, values: values)
    assert events == []

    def swap(_pipe, _step, _time, values):
        return {"prompt_embeds": torch.randn(values["prompt_embeds"].shape)}

    given = {"callback_on_step_end": swap, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    if policy == "strict":
        with pytest.raises(BypassError):
            CASE.call(pipe, **given)
    else:
        CASE.call(pipe, **given)
    assert {event.hole for event in events} == {1}


def test_the_class_of_a_guarded_instance_makes_plain_ones(pipe):
    with silent():
        for one in (type(pipe)(**pipe.components, requires_safety_checker=False), type(pipe).from_pipe(pipe)):
            assert type(one) is StableDiffusionPipeline
            assert one.text_encoder is pipe.text_encoder
            assert guard_of(one) is None


def test_a_tower_that_is_no_text_tower_is_an_alarm_and_verify_says_so(pipe, policy, events):
    stopped(policy, lambda: setattr(pipe, "text_encoder", torch.nn.Linear(2, 2)), events, 7)
    if policy == "warn":
        assert not verify(pipe).complete


def test_a_dynamically_quantised_tower_is_measured(pipe, events):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its own quantised tensors deprecated
        pipe.text_encoder = torch.ao.quantization.quantize_dynamic(copy.deepcopy(pipe.text_encoder), {torch.nn.Linear})
        CASE.call(pipe)
    assert [event.action for event in events] == ["noted"]


NEGATIVE = {"a word": UNSAFE, "one of two": ["", PROMPT], "of another encoder": {"negative_prompt_2": PROMPT}}


@pytest.mark.parametrize("given", NEGATIVE.values(), ids=NEGATIVE)
def test_a_negative_prompt_is_noted_once_and_never_refused(pipe, events, given, caplog):
    caplog.set_level("INFO")
    for harmless in ("", None, ["", " "]):
        pipe_call(pipe, {"negative_prompt": harmless, "negative_prompt_embeds": None})
    assert events == []
    for _ in range(2):
        pipe_call(pipe, given if isinstance(given, dict) else {"negative_prompt": given})
    assert [(event.hole, event.action) for event in events] == [(9, "noted")]
    assert "empty or harmless" in events[0].what
    assert not any(word in caplog.text for word in [*UNSAFE.split()[2:7], *PROMPT.split()[4:]] if len(word) > 4)


def pipe_call(pipe, arguments):
    with guard_of(pipe).calling(pipe, arguments):
        pass


def test_a_list_of_guidance_scales_is_left_to_the_host(pipe, events):
    with guard_of(pipe).calling(pipe, {"guidance_scale": [1.0, 2.0], "true_cfg_scale": torch.ones(2)}):
        pass
    assert events == []


def test_pipelines_made_or_saved_from_this_one_are_told_of_and_never_refused(pipe, events, tmp_path):
    with silent():
        StableDiffusionImg2ImgPipeline.from_pipe(pipe)
        AutoPipelineForImage2Image.from_pipe(pipe)
    assert [(event.hole, event.action) for event in events] == [(15, "warned")] * 2
    CASE.save(pipe, tmp_path)
    assert len(events) == 3
    pipe.to("cpu")
    CASE.call(pipe)
    assert len(events) == 3  # its own use of its components is nobody's derivation
