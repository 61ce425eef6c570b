"""The guard on open_clip models: each rule under both policies, with the twin that passes."""

import copy
import pickle
import warnings
from contextlib import nullcontext
from functools import cache

import pytest
import torch
from stopping import stopped
from torch import nn

from safeencoders.errors import BypassError, HostError
from safeencoders.integrations.guarded import guard_of
from safeencoders.integrations.open_clip_host import OpenClipHost
from safeencoders.integrations.protection import coverage, protect, unprotect, verify
from safeencoders.loading import load
from safeencoders.pictoworld import models, scenes
from safeencoders.pictoworld import tokenizer as world_tokenizer

open_clip = pytest.importorskip("open_clip", reason="the extra openclip is not installed")


@cache
def loaded(name):
    return load(name, backend="open_clip")


@cache
def texts():
    return world_tokenizer.encode(models.tokenizer(), [quad.unsafe_text for quad in scenes.quads("test", 2, 0)])


def pictures(dtype=torch.float32):
    return torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64).to(dtype)


@pytest.fixture(params=["warn", "strict"], scope="module")
def policy(request):
    return request.param


SEEN = []


@pytest.fixture(scope="module")
def protected(policy):
    """Protect a model once: its canaries take their time."""
    model = copy.deepcopy(loaded("none"))
    protect(model, policy=policy, on_event=SEEN.append)
    return model


@pytest.fixture
def events():
    SEEN.clear()
    return SEEN


@pytest.fixture
def model(protected, events):  # noqa: ARG001  nothing was seen before
    """Give a copy, guarded by its own guard; the original model is there as loaded("none")."""
    return copy.deepcopy(protected)


def outputs(model):
    with torch.no_grad():
        return [model.encode_text(texts()), model.encode_image(pictures()), *model(pictures(), texts())]


def test_identity_towers_under_a_strict_guard_change_no_bit(events):
    model = copy.deepcopy(loaded("none"))
    before, kind, held = outputs(model), type(model), copy.deepcopy(model.state_dict())
    own = {slot.name: copy.deepcopy(slot.tower) for slot in OpenClipHost.slots(model)}
    protect(model, encoders=own, policy="strict", on_event=events.append)
    assert all(map(torch.equal, outputs(model), before))
    assert events == []
    assert model.state_dict().keys() == held.keys()
    unprotect(model)
    assert type(model) is kind
    assert all(torch.equal(value, held[name]) for name, value in model.state_dict().items())


def test_a_changed_text_tower_is_measured(model, policy, events):
    assert coverage(model).policy == policy
    with torch.no_grad():
        model.token_embedding.weight.add_(1e-6)
    outputs(model)
    assert [(event.hole, event.slot, event.action) for event in events] == [(17, "text", "noted")]
    events.clear()
    held = loaded("none").state_dict()
    model.load_state_dict({name: held[name] if not name.startswith("visual.") else value
                           for name, value in model.state_dict().items()})  # fmt: skip
    stopped(policy, lambda: model.encode_text(texts()), events, 17)
    assert "redirection" in events[-1].what


def test_pictures_weights_changed_in_place_are_told_once_or_refused(model, policy, events):
    model.load_state_dict(model.state_dict())
    outputs(model)
    assert events == []
    with torch.no_grad():
        model.visual.proj.mul_(1)
        model.visual.transformer.resblocks[0].attn.in_proj_weight.mul_(1.01)
    model.encode_text(texts())  # which asks nothing of the picture tower
    assert events == []
    stopped(policy, lambda: model.encode_image(pictures()), events, 17)
    if policy == "warn":
        outputs(model)
        assert len(events) == 1
        assert "weights were changed" in next(slot for slot in coverage(model).slots if slot.name == "visual").note
    assert not next(slot for slot in verify(model).slots if slot.name == "visual").encoder


def _inside(model):
    model.visual.transformer = copy.deepcopy(loaded("none").visual.transformer)
    model.encode_image(pictures())


REPLACE = {
    "visual": lambda model: setattr(model, "visual", copy.deepcopy(loaded("none").visual)),
    "a part of it": _inside,
    "by something else": lambda model: setattr(model, "visual", nn.Identity()),
}


@pytest.mark.parametrize("replace", REPLACE.values(), ids=REPLACE)
def test_another_picture_tower_is_seen(model, policy, events, replace):
    before = model.visual
    stopped(policy, lambda: replace(model), events, 7)
    if policy == "strict" and replace is not REPLACE["a part of it"]:
        assert model.visual is before
        outputs(model)


def test_an_equal_picture_tower_passes(model, events):
    before = outputs(model)
    model.visual = copy.deepcopy(model.visual)
    assert all(map(torch.equal, outputs(model), before))
    assert [(event.hole, event.action) for event in events] == [(7, "noted")]


def test_a_cast_of_the_whole_model_is_no_change(model, policy, events):
    model.to(torch.bfloat16)
    with torch.no_grad():
        model.encode_image(pictures(torch.bfloat16))
    assert events == []
    with torch.no_grad():
        model.visual.conv1.weight.copy_(loaded("none").visual.conv1.weight).add_(0.1)
    stopped(policy, lambda: model.encode_image(pictures(torch.bfloat16)), events, 17)


def test_layers_in_between_are_seen_and_the_last_passes(model, policy, events):
    model.get_logits(pictures(), texts())
    assert events == []
    stopped(policy, lambda: model.forward_intermediates(pictures(), texts()), events, 3)


def test_a_trace_is_no_change_and_what_comes_after_it_is_seen(model, policy, events):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.trace")
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # open_clip's own assertions on shapes
        traced = torch.jit.trace(model, (pictures(), texts()), check_trace=False)
    assert all(map(torch.equal, traced(pictures(), texts())[:2], outputs(model)[2:4]))
    assert events == []
    with torch.no_grad():
        model.visual.conv1.weight.mul_(1.01)
    stopped(policy, lambda: model.encode_image(pictures()), events, 17)


SETTINGS = {
    "where text is pooled": lambda model: setattr(model, "text_pool_type", "first"),
    "the causal mask": lambda model: setattr(model, "attn_mask", None),
    "where pictures are pooled": lambda model: setattr(model.visual, "pool_type", "avg"),
}


@pytest.mark.parametrize("change", SETTINGS.values(), ids=SETTINGS)
def test_a_setting_of_a_tower_is_part_of_it(model, events, change):
    model.output_dict = True  # which is none
    model(pictures(), texts())
    assert events == []
    with pytest.raises(BypassError) if guard_of(model).policy == "strict" else nullcontext():
        change(model)
        model(pictures(), texts())
    assert {(event.hole, event.action) for event in events} == {
        (7, "refused" if guard_of(model).policy == "strict" else "warned")
    }


def test_a_copy_is_guarded_and_pickling_says_no(model, policy, events):
    twin = copy.deepcopy(model)
    assert all(map(torch.equal, outputs(twin), outputs(model)))
    assert events == []
    with pytest.raises(HostError, match="state_dict"):
        pickle.dumps(model)
    with torch.no_grad():
        twin.visual.conv1.weight.mul_(1.01)
    outputs(model)
    assert events == []
    stopped(policy, lambda: twin.encode_image(pictures()), events, 17)
    with pytest.raises(HostError, match="got a copy of it"):
        unprotect(twin)


@pytest.mark.parametrize("custom_text", [False, True])
def test_half_precision_is_measured(custom_text, events):
    """open_clip keeps some weights of its half precision in float32, which no tower of transformers computes with."""
    model = copy.deepcopy(loaded("none"))
    if custom_text:
        config = models.clip().config
        from safeencoders.openclip import model_config

        held, model = model, open_clip.model.CustomTextCLIP(**model_config(config))
        model.load_state_dict(open_clip.model.convert_to_custom_text_state_dict(held.state_dict()))
        model.eval()
    open_clip.model.convert_weights_to_lp(model, torch.bfloat16)
    original = copy.deepcopy(model)
    protect(model, encoders="pictoworld", policy="strict", on_event=events.append)
    with torch.no_grad():
        part = getattr(model, "text", model)
        part.token_embedding.weight.mul_(1.0001)
        part.positional_embedding.add_(1e-4)
        model.encode_text(texts())
        assert [event.action for event in events] == ["noted"]
        for value, old in zip(model.parameters(), original.parameters(), strict=True):
            value.copy_(old)
        with pytest.raises(BypassError):
            model.encode_text(texts())


def test_the_report_says_of_every_hole_how_it_stands(protected, policy):
    found = coverage(protected)
    closed = {number for number in range(1, 18) if found.status(number) == "closed"}
    assert closed == ({3, 5, 7} if policy == "strict" else set())
    assert {found.status(number) for number in (3, 5, 7)} == {"closed" if policy == "strict" else "watched"}
    assert {number for number in range(1, 18) if found.status(number) == "open"} == {10, 11, 15}
    assert found.status(17) == "watched"
    assert {found.status(number) for number in (1, 2, 4, 6, 8, 9, 12, 13, 14, 16)} == {"does not apply"}
