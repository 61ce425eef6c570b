"""The guard on vision-language models: each rule under both policies, with the twin that passes."""

import copy
import pickle
import threading
from types import SimpleNamespace

import pytest
import torch
import transformers
from stopping import stopped as seen
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from vlms import FAMILY, inputs, make, say, tower

from safeencoders.errors import BusyError, BypassError, HostError
from safeencoders.integrations.guarded import guard_of
from safeencoders.integrations.llava import LlavaHost
from safeencoders.integrations.protection import coverage, protect, unprotect, verify

TOWER = "model.vision_tower"


@pytest.fixture(params=["warn", "strict"])
def policy(request):
    return request.param


@pytest.fixture
def events():
    return []


@pytest.fixture
def model(policy, events):
    """Give a protected LLaVA; its original tower is kept beside it."""
    model = make()
    original = copy.deepcopy(model.model.vision_tower)
    protect(model, encoders={TOWER: tower()}, policy=policy, on_event=events.append)
    model.__dict__["original"] = SimpleNamespace(tower=original)
    return model


def answer(model, **changes):
    given = {name: value for name, value in (inputs(model) | changes).items() if value is not None}
    with torch.no_grad():
        return model(**given).logits


def stopped(policy, act, events, hole):
    """As for every host; nothing of a model's is taken back."""
    assert seen(policy, act, events, hole).action == ("refused" if policy == "strict" else "warned")


def every_tower(model, build):
    return {slot.name: build(slot.tower) for slot in LlavaHost.slots(model)}


# --- nothing wrong ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILY)
def test_an_identity_tower_under_a_strict_guard_changes_no_token_and_undo_gives_the_class_back(family, events):
    model = make(family)
    before, kind = say(model, family), type(model)
    protect(model, encoders=every_tower(model, copy.deepcopy), policy="strict", on_event=events.append)
    assert type(model) is not kind
    assert say(model, family) == before
    with torch.no_grad():
        model(**inputs(model, family))
    assert events == []
    unprotect(model)
    assert type(model) is kind
    assert say(model, family) == before


@pytest.mark.parametrize("family", FAMILY)
def test_a_guarded_model_saves_as_its_plain_class_and_reloads_bit_equal(family, events, tmp_path):
    model = make(family)
    protect(model, encoders=every_tower(model, lambda _: tower()), policy="strict", on_event=events.append)
    model.save_pretrained(tmp_path)
    assert [(event.hole, event.action) for event in events] == [(15, "warned")]
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert type(loaded) is getattr(transformers, f"{family}ForConditionalGeneration")
    assert loaded.config.architectures == [type(loaded).__name__]
    assert guard_of(loaded) is None
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_many_threads_may_ask(events):
    model = make()
    protect(model, encoders={TOWER: tower()}, policy="strict", on_event=events.append)
    alone, given, found, faults = answer(model), inputs(model), [], []  # made once: its random numbers are everybody's

    def work():
        try:
            with torch.no_grad():
                found.extend(model(**given).logits for _ in range(5))
        except Exception as error:  # noqa: BLE001
            faults.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == events == []
    assert all(torch.equal(one, alone) for one in found)


def test_one_threads_call_does_not_open_the_door_for_another(model, policy, events):
    """What is inside of a checked call is not checked again; that holds for its own thread alone."""
    words, asked, seen = model.get_input_embeddings()(inputs(model)["input_ids"]), [], []

    def other(*_):
        if not asked:
            asked.append(True)
            act = lambda: seen.append(_caught(lambda: answer(model, inputs_embeds=words, input_ids=None)))  # noqa: E731
            thread = threading.Thread(target=act)
            thread.start()
            thread.join()

    hook = model.model.multi_modal_projector.register_forward_hook(other)
    answer(model)
    hook.remove()
    assert isinstance(seen[0], BypassError) is (policy == "strict")
    assert 13 in {event.hole for event in events}


def _caught(act):
    try:
        act()
    except Exception as error:  # noqa: BLE001  which one it is, is asserted
        return error
    return None


# --- hole 7: the tower replaced --------------------------------------------------------------------------------------
REPLACE = {
    "where it is read": lambda model, new: (setattr(model.model, "vision_tower", new), answer(model)),
    "in the dictionary": lambda model, new: (model.model._modules.update(vision_tower=new), say(model)),
    "with all around it": lambda model, new: setattr(model, "model", _around(model, new)),
}


def _around(model, new):
    inner = copy.copy(model.model)
    inner._modules = inner._modules | {"vision_tower": new}
    return inner


@pytest.mark.parametrize("replace", REPLACE.values(), ids=REPLACE)
def test_another_tower_is_seen_and_its_equal_passes(model, policy, events, replace):
    replace(model, copy.deepcopy(model.model.vision_tower))
    assert [(event.hole, event.action) for event in events] == [(7, "noted")]
    answer(model)
    events.clear()
    before = model.model
    stopped(policy, lambda: replace(model, model.__dict__["original"].tower), events, 7)
    if replace is REPLACE["with all around it"]:
        assert (model.model is before) is (policy == "strict")
    if policy == "warn":
        assert not coverage(model).complete
        assert not verify(model).complete


def test_the_outer_alias_that_the_model_ignores_is_no_replacement(model, events):
    before = answer(model)
    model.vision_tower = model.__dict__["original"].tower
    assert torch.equal(answer(model), before)
    assert events == []


def test_an_equal_tower_of_another_activation_is_another_tower(model, policy, events):
    other = copy.deepcopy(model.model.vision_tower)
    for layer in other.encoder.layers:
        layer.mlp.activation_fn = nn.GELU()
    model.model.vision_tower = other
    stopped(policy, lambda: answer(model), events, 7)


# --- holes 17 and 5: its weights changed -----------------------------------------------------------------------------
def test_weights_loaded_into_the_tower_are_told_once_or_refused(model, policy, events):
    answer(model)
    model.load_state_dict(model.state_dict())
    answer(model)
    assert events == []
    model.model.vision_tower.load_state_dict(model.__dict__["original"].tower.state_dict())
    stopped(policy, lambda: say(model), events, 17)
    assert "cannot be measured" in events[-1].what
    if policy == "warn":
        answer(model)
        assert len(events) == 1
        assert "weights were changed" in coverage(model).slots[0].note
    assert not verify(model).complete


def test_pictures_of_whole_numbers_are_pictures(model, policy, events):
    picture = inputs(model)["pixel_values"].mul(99).to(torch.uint8)
    answer(model, pixel_values=picture)
    assert events == []
    model.model.vision_tower.load_state_dict(model.__dict__["original"].tower.state_dict())
    stopped(policy, lambda: answer(model, pixel_values=picture), events, 17)


def test_words_alone_ask_nothing_of_the_tower(model, events):
    model.model.vision_tower.load_state_dict(model.__dict__["original"].tower.state_dict())
    answer(model, input_ids=torch.tensor([[1, 9, 11]]), attention_mask=None, pixel_values=None)
    assert events == []


def test_a_cast_or_a_move_of_the_whole_model_is_no_change_but_one_of_the_tower_is(model, policy, events):
    for convert in (torch.nn.Module.double, lambda m: m.to(torch.bfloat16), lambda m: m.to("cpu")):
        convert(model)
        answer(model)
    assert events == []
    assert guard_of(model).slots[TOWER].tower is model.model.vision_tower
    model.model.vision_tower.load_state_dict(model.__dict__["original"].tower.state_dict())
    model.float()  # which does not make it good again
    stopped(policy, lambda: answer(model), events, 17)


def test_an_adapter_on_the_tower_is_hole_5_and_one_elsewhere_passes(model, policy, events):
    from peft import LoraConfig

    model.add_adapter(LoraConfig(target_modules=r".*language_model.*q_proj", r=2), "words")
    answer(model)
    assert events == []
    with pytest.warns(UserWarning, match="multiple adapters"):
        model.add_adapter(LoraConfig(target_modules=r".*vision_tower.*q_proj", r=2), "eyes")
    stopped(policy, lambda: answer(model), events, 5)


def test_a_model_offloaded_after_it_was_protected_goes_on(model, events):
    from accelerate import cpu_offload

    before = answer(model)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert torch.equal(answer(model), before)
    answer(model)
    assert [(event.hole, event.action) for event in events] == [(17, "noted")]
    assert "offloaded" in events[0].what


# --- hole 13: what passes no tower -----------------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILY)
def test_embeddings_handed_in_are_seen_in_every_class(family, policy, events):
    model = make(family)
    protect(model, encoders=every_tower(model, lambda _: tower()), policy=policy, on_event=events.append)
    given = inputs(model, family)
    words = {"inputs_embeds": model.get_input_embeddings()(given["input_ids"])[:, :2]}
    stopped(policy, lambda: model(**words), events, 13)
    events.clear()
    stopped(policy, lambda: model.generate(**words, max_new_tokens=2, do_sample=False), events, 13)


@pytest.mark.parametrize("family", [family for family in FAMILY if family != "VideoLlava"])
def test_features_of_another_tower_are_seen_and_own_ones_pass(family, policy, events):
    model = make(family)
    with torch.no_grad():
        foreign = _features(model, family)
        protect(model, encoders=every_tower(model, lambda _: tower()), policy=policy, on_event=events.append)
        own, given = _features(model, family), inputs(model, family)
        wanted = model(**given).logits
        del given["pixel_values"]
        assert torch.equal(model(**given, mm_encoder_outputs={"image": own}).logits, wanted)
        assert events == []
        act = lambda: model(**given, mm_encoder_outputs={"image": foreign})  # noqa: E731
        stopped(policy, act, events, 13)
        events.clear()
        act = lambda: model.generate(**given, mm_encoder_outputs={"image": foreign}, max_new_tokens=1)  # noqa: E731
        stopped(policy, act, events, 13)


def _attributed(features):
    made = BaseModelOutputWithPooling()
    vars(made).update(pooler_output=features)
    assert not made.values()
    return made


IN_DISGUISE = {
    "an object of no known kind": lambda features: SimpleNamespace(pooler_output=features),
    "whole numbers": lambda features: BaseModelOutputWithPooling(pooler_output=[f.mul(9).long() for f in features]),
    "complex numbers": lambda features: BaseModelOutputWithPooling(pooler_output=[f.cfloat() for f in features]),
    "without a shape": lambda features: BaseModelOutputWithPooling(pooler_output=[f.flatten() for f in features]),
    "an attribute that is no field": _attributed,
}


@pytest.mark.filterwarnings("ignore:Casting complex values")  # which the bare model does
@pytest.mark.parametrize("disguise", IN_DISGUISE.values(), ids=IN_DISGUISE)
def test_features_in_disguise_are_refused_and_plain_own_ones_pass(disguise, events):
    """LLaVA-NeXT takes any object with the attribute, numbers of any kind, and rows of any shape."""
    model = make("LlavaNext")
    given, foreign = inputs(model, "LlavaNext"), _features(model, "LlavaNext").pooler_output
    del given["pixel_values"]
    with torch.no_grad():
        model(**given, mm_encoder_outputs={"image": disguise(foreign)})  # which the bare model takes
        protect(model, encoders={TOWER: tower()}, policy="strict", on_event=events.append)
        for own in (_features(model, "LlavaNext"), _attributed(_features(model, "LlavaNext").pooler_output)):
            model(**given, mm_encoder_outputs={"image": own})
        assert events == []
        act = lambda: model(**given, mm_encoder_outputs={"image": disguise(foreign)})  # noqa: E731
        stopped("strict", act, events, 13)


def test_embeddings_of_whole_numbers_are_refused(model, policy, events):
    words = model.get_input_embeddings()(inputs(model)["input_ids"]).mul(99).long()
    stopped(policy, lambda: answer(model, inputs_embeds=words, input_ids=None, pixel_values=None), events, 13)


def _features(model, family):
    given = {name: value for name, value in inputs(model, family).items() if name in ("pixel_values", "image_sizes")}
    return model.get_image_features(**given)


# --- hole 3: another layer -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("family", "usual", "other"),
    [
        ("Llava", {"vision_feature_layer": -2}, {"vision_feature_layer": -1}),
        ("Llava", {"vision_feature_select_strategy": "default"}, {"vision_feature_layer": 4}),
        ("Llava", {"vision_feature_layer": 3}, {"vision_feature_layer": 1}),  # of five states: the last but one
        ("LlavaNext", {"vision_feature_layer": -2}, {"vision_feature_layer": -3}),
        ("LlavaNextVideo", {"vision_feature_layer": [-2]}, {"vision_feature_layer": -1}),
        ("VipLlava", {"vision_feature_layer": [1, -2, -3]}, {"vision_feature_layer": [-1, -2, -3]}),
        ("VideoLlava", {"vision_feature_layer": -2}, {"vision_feature_layer": -1}),
    ],
)
def test_a_layer_the_model_does_not_read_by_itself_is_seen(family, usual, other, policy, events):
    model = make(family)
    protect(model, encoders=every_tower(model, lambda _: tower()), policy=policy, on_event=events.append)
    with torch.no_grad():
        if family != "LlavaNextVideo":
            model(**inputs(model, family), **usual)
        assert events == []
        stopped(policy, lambda: model(**inputs(model, family), **other), events, 3)


def test_of_two_names_for_a_layer_both_are_looked_at(events):
    model = make("VipLlava")
    protect(model, encoders=every_tower(model, lambda _: tower()), policy="strict", on_event=events.append)
    usual, other = [-2, -3, 1], [-1, -2, -3]
    assert LlavaHost.layers(model, "", {"vision_feature_layer": usual, "vision_feature_layers": usual}) == (
        LlavaHost.layers(model, "", {})
    )
    for names in ({"vision_feature_layer": usual, "vision_feature_layers": other},
                  {"vision_feature_layer": other, "vision_feature_layers": usual}):  # fmt: skip
        with pytest.raises(BypassError):
            model(**inputs(model, "VipLlava"), **names)
    assert {event.hole for event in events} == {3}


def test_a_layer_chosen_in_the_configuration_is_seen_and_one_the_encoder_knows_passes(model, policy, events):
    model.config.vision_feature_layer = -1
    stopped(policy, lambda: answer(model), events, 3)
    events.clear()
    guard_of(model).slots[TOWER].trained_on = ("patches", "last")
    answer(model)
    assert events == []


def test_the_class_token_beside_the_patches_is_seen(model):
    assert LlavaHost.layers(model, "", {}) == ("patches",)
    assert LlavaHost.layers(model, "", {"vision_feature_select_strategy": "full"}) == ("penultimate",)
    deep = {"vision_feature_layer": [-3, 0], "vision_feature_select_strategy": "full"}
    assert LlavaHost.layers(model, "", deep) == ("hidden[-3] with the class token", "hidden[-5] with the class token")


# --- what is made of a guarded model ---------------------------------------------------------------------------------
def test_a_deep_copy_is_guarded_too_and_pickling_says_no(model, policy, events):
    twin = copy.deepcopy(model)
    assert torch.equal(answer(twin), answer(model))
    assert events == []
    with pytest.raises(HostError, match="got a copy of it"):
        unprotect(twin)
    with pytest.raises(HostError, match="save_pretrained"):
        pickle.dumps(model)
    twin.model.vision_tower = model.__dict__["original"].tower
    stopped(policy, lambda: answer(twin), events, 7)
    unprotect(model)
    events.clear()
    stopped(policy, lambda: answer(twin), events, 7)  # the twin's guard stays


@pytest.mark.parametrize("first", ["guard", "hooks"])
def test_the_hooks_of_a_device_map_and_the_guard_go_together(first, policy, events):
    from accelerate import dispatch_model

    model, places = (
        make(),
        {f"model.{part}": "cpu" for part in ("vision_tower", "multi_modal_projector", "language_model")},
    )
    steps = [
        lambda: protect(model, encoders={TOWER: tower()}, policy=policy, on_event=events.append),
        lambda: dispatch_model(model, places | {"lm_head": "cpu"}, force_hooks=True),
    ]
    for step in steps if first == "guard" else reversed(steps):
        step()
    assert "forward" in vars(model)
    answer(model)
    say(model)
    assert events == []
    words = model.get_input_embeddings()(inputs(model)["input_ids"])
    stopped(policy, lambda: answer(model, inputs_embeds=words, input_ids=None), events, 13)
    events.clear()
    stopped(policy, lambda: model.forward(inputs_embeds=words), events, 13)  # the hooks' own forward
    events.clear()
    twin = copy.deepcopy(model)
    unprotect(model)
    answer(model)
    model.forward(inputs_embeds=words)
    say(model)
    assert events == []
    stopped(policy, lambda: twin.forward(inputs_embeds=words), events, 13)


def test_a_method_kept_from_before_the_guard_was_taken_off_goes_on(model, policy, events):
    kept, words = model.forward, model.get_input_embeddings()(inputs(model)["input_ids"])
    stopped(policy, lambda: kept(inputs_embeds=words), events, 13)
    events.clear()
    unprotect(model)
    kept(inputs_embeds=words)
    assert events == []


@pytest.mark.slow
@pytest.mark.parametrize("when", ["wrapped after", "wrapped before", "in place"])
def test_a_compiled_model_is_guarded(when, policy, events):
    torch._dynamo.reset()
    model = make()
    compiled = torch.compile(model, backend="eager") if when == "wrapped before" else None
    protect(model, encoders={TOWER: tower()}, policy=policy, on_event=events.append)
    wanted = answer(model)
    if when == "in place":
        model.compile(backend="eager")
    if compiled is None:  # a wrapped model has no truth
        compiled = model if when == "in place" else torch.compile(model, backend="eager")
    given = inputs(model)
    with torch.no_grad():
        assert torch.equal(compiled(**given).logits, wanted)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
        assert events == []
        model.model.vision_tower = tower(3)
        stopped(policy, lambda: compiled(**given), events, 7)
    assert any("torch.compile" in note for note in coverage(model).notes)


def test_nothing_is_undone_while_a_model_speaks(model):
    from transformers import StoppingCriteria, StoppingCriteriaList

    seen = []

    class Meddling(StoppingCriteria):
        def __call__(self, input_ids, scores, **_):  # noqa: ARG002
            seen.append(_caught(lambda: unprotect(model)))
            return torch.ones(len(input_ids), dtype=torch.bool)

    model.generate(**inputs(model), max_new_tokens=2, stopping_criteria=StoppingCriteriaList([Meddling()]))
    assert isinstance(seen[0], BusyError)


# --- the report ------------------------------------------------------------------------------------------------------
def test_the_report_says_of_every_hole_how_it_stands():
    model = make()
    closed = protect(model, encoders={TOWER: tower()}, policy="strict")
    assert closed.policy == "strict"
    assert {number for number in range(1, 18) if closed.status(number) == "closed"} == {3, 5, 7, 13, 17}
    assert {number for number in range(1, 18) if closed.status(number) == "open"} == {10, 11, 16}
    assert closed.status(15) == "watched"
    assert {closed.status(number) for number in (1, 2, 4, 6, 8, 9, 12, 14)} == {"does not apply"}
    unprotect(model)
    watched = protect(model, encoders={TOWER: tower()})
    assert {watched.status(number) for number in (3, 5, 7, 13, 15, 17)} == {"watched"}
    unprotect(model)
    plain = protect(model, encoders={TOWER: tower()}, policy="off")
    assert {plain.status(number) for number in (3, 5, 7, 13, 15, 17)} == {"open"}
    assert guard_of(model) is None
