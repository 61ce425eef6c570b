"""Vision towers swapped in LLaVA and its family: tiny random models of every class, made here."""

import copy

import pytest
import torch
from torch import nn
from vlms import FAMILY, IMAGE, SIDE, SIZES, WORDS, inputs, make, say, tower

from safeencoders.errors import BadInputError, FitError, HostError
from safeencoders.integrations.alignment import Alignment, AlignmentWarning, align
from safeencoders.integrations.llava import LlavaHost


def names(model):
    return [slot.name for slot in LlavaHost.slots(model)]


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("family", FAMILY)
def test_an_identity_tower_changes_no_token_and_another_one_does(family):
    model = make(family)
    before, ours = say(model, family), names(model)
    twins = {name: copy.deepcopy(model.get_submodule(name)) for name in ours}
    LlavaHost.swap(model, twins)
    assert all(model.get_submodule(name) is not None for name in ours)
    assert say(model, family) == before
    LlavaHost.swap(model, {name: tower() for name in ours})
    assert say(model, family) != before


@pytest.mark.parametrize("family", FAMILY)
def test_save_and_plain_reload_are_bit_equal(family, tmp_path):
    model = make(family)
    LlavaHost.swap(model, {name: tower() for name in names(model)})
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert type(loaded) is type(make(family))
    assert same(weights(model), weights(loaded))
    assert say(loaded, family) == say(model, family)


@pytest.mark.parametrize("family", FAMILY)
def test_undo_is_bit_equal_and_the_answers_are_those_of_before(family):
    model = make(family)
    before, said = weights(model), say(model, family)
    swap = LlavaHost.swap(model, {name: tower() for name in names(model)})
    assert not same(weights(model), before)
    swap.undo()
    assert same(weights(model), before)
    assert say(model, family) == said
    assert swap.towers == {}
    swap.undo()  # once is enough; twice does nothing
    assert same(weights(model), before)


def test_the_outer_alias_is_ignored_by_the_model_which_is_why_the_inner_one_is_set():
    model = make()
    before = say(model)
    model.vision_tower = tower()
    assert say(model) == before
    del model.vision_tower
    LlavaHost.swap(model, {"model.vision_tower": tower()})
    assert say(model) != before


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("Llava", {"model.vision_tower": ("patches",)}),
        ("LlavaNext", {"model.vision_tower": ("patches",)}),
        ("LlavaNextVideo", {"model.vision_tower": ("patches",)}),
        ("VipLlava", {"model.vision_tower": ("patches", "hidden[-3]", "hidden[-4]")}),
        ("VideoLlava", {"model.video_tower": ("penultimate",), "model.image_tower": ("patches",)}),
    ],
)
def test_what_is_read_is_measured(family, expected):
    model = make(family)
    before = weights(model)
    assert {slot.name: LlavaHost.reads(model, slot) for slot in LlavaHost.slots(model)} == expected
    assert same(weights(model), before)
    assert "changed" not in vars(model.model)


def test_what_is_read_follows_the_configuration():
    last = make(vision_feature_layer=-1, vision_feature_select_strategy="full")
    assert LlavaHost.reads(last, LlavaHost.slots(last)[0]) == ("last",)
    whole = make(vision_feature_select_strategy="full")
    assert LlavaHost.reads(whole, LlavaHost.slots(whole)[0]) == ("penultimate",)


@pytest.mark.parametrize("field", ["layer", "class"])
def test_what_is_not_read_can_be_changed_without_any_effect(field):
    model = make()
    before = say(model)
    spoilt = copy.deepcopy(model.model.vision_tower)
    if field == "layer":
        nn.init.normal_(spoilt.encoder.layers[-1].mlp.fc1.weight)
        nn.init.normal_(spoilt.post_layernorm.weight)
        LlavaHost.swap(model, {"model.vision_tower": spoilt})
        assert say(model) == before
    else:
        nn.init.normal_(spoilt.encoder.layers[0].mlp.fc1.weight)
        LlavaHost.swap(model, {"model.vision_tower": spoilt})
        assert say(model) != before


def test_a_tower_is_cast_put_in_eval_mode_and_frozen_and_the_callers_stays_as_it_was():
    model = make().to(torch.bfloat16)
    given = tower().train().requires_grad_(True)
    swap = LlavaHost.swap(model, {"model.vision_tower": given})
    put = model.model.vision_tower
    assert put is swap.towers["model.vision_tower"]
    assert put.dtype == torch.bfloat16
    assert not put.training
    assert not any(p.requires_grad for p in put.parameters())
    assert given.dtype == torch.float32
    assert given.training
    assert any("cast from float32 to bfloat16" in note for note in swap.notes)
    say(model)


def test_undo_follows_a_host_that_was_cast_since():
    model = make()
    before = weights(model.model.vision_tower)
    swap = LlavaHost.swap(model, {"model.vision_tower": tower()})
    model.to(torch.float64)
    swap.undo()
    assert model.model.vision_tower.dtype == torch.float64
    assert same({name: value.float() for name, value in weights(model.model.vision_tower).items()}, before)


def test_the_attention_of_the_host_is_carried_over():
    model = make()
    model.set_attn_implementation("eager")
    LlavaHost.swap(model, {"model.vision_tower": tower()})
    assert model.model.vision_tower.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch_size": 8}, "patch_size 16, got 8"),
        ({"image_size": 64}, "image_size 32, got 64"),
        ({"hidden_size": 32}, "hidden_size 16, got 32"),
        ({"num_hidden_layers": 3}, "num_hidden_layers 4, got 3"),
        ({"hidden_act": "gelu"}, "hidden_act quick_gelu, got gelu"),
        ({"layer_norm_eps": 1e-3}, "layer_norm_eps 1e-05, got 0.001"),
    ],
)
def test_a_tower_of_another_make_is_refused_and_the_host_untouched(changes, said):
    model = make()
    before = weights(model)
    with pytest.raises(FitError, match=said):
        LlavaHost.swap(model, {"model.vision_tower": tower(**changes)})
    assert same(weights(model), before)


def test_a_slot_that_is_not_there_is_refused():
    with pytest.raises(FitError, match=r"slots \['model.vision_tower'\], got \['vision_tower'\]"):
        LlavaHost.check(make(), {"vision_tower": tower()})
    with pytest.raises(FitError, match="no tower at all"):
        LlavaHost.check(make(), {})


def test_any_model_with_a_clip_vision_tower_is_a_host():
    from transformers import BertConfig, BertModel, VisionTextDualEncoderModel

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = VisionTextDualEncoderModel(vision_model=tower(2), text_model=BertModel(BertConfig(**small, vocab_size=60)))
    model.eval()
    picture = inputs(make())["pixel_values"]
    before = model.get_image_features(pixel_values=picture).pooler_output
    assert names(model) == ["vision_model"]
    assert LlavaHost.reads(model, LlavaHost.slots(model)[0]) == ("unknown",)
    swap = LlavaHost.swap(model, {"vision_model": tower()})
    assert not torch.equal(model.get_image_features(pixel_values=picture).pooler_output, before)
    swap.undo()
    assert torch.equal(model.get_image_features(pixel_values=picture).pooler_output, before)


def siglip():
    from transformers import LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

    sizes = {name: value for name, value in SIZES.items() if name != "projection_dim"}
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(**sizes), text_config=copy.deepcopy(WORDS), image_token_index=IMAGE
    )
    return LlavaForConditionalGeneration(config)


def blip():
    from transformers import BlipConfig, BlipForConditionalGeneration

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(
        vision_config=small | {"image_size": SIDE}, text_config=small | {"vocab_size": 60, "encoder_hidden_size": 16}
    )
    return BlipForConditionalGeneration(config)


@pytest.mark.parametrize(("build", "name"), [(siglip, "SiglipVisionModel"), (blip, "BlipVisionModel")])
def test_models_with_another_vision_encoder_are_refused_by_name(build, name):
    model = build()
    before = weights(model)
    assert LlavaHost.accepts(model)
    assert LlavaHost.slots(model) == ()
    assert [other.class_name for other in LlavaHost.others(model)] == [name]
    with pytest.raises(HostError, match=f"CLIPVisionModel, got {type(model).__name__} with {name}"):
        LlavaHost.check(model, {"model.vision_tower": tower()})
    assert same(weights(model), before)


def test_what_is_no_model_of_transformers_or_is_a_clip_itself_is_no_host():
    assert not LlavaHost.accepts(object())
    assert not LlavaHost.accepts(nn.Linear(1, 1))
    assert not LlavaHost.accepts(tower())
    with pytest.raises(HostError, match="got CLIPVisionModel"):
        LlavaHost.check(tower(), {"vision_tower": tower()})


def test_a_quantised_host_is_refused():
    model = make()
    model.hf_quantizer = object()
    with pytest.raises(HostError, match="quantised"):
        LlavaHost.check(model, {"model.vision_tower": tower()})


def test_a_tower_with_weights_of_a_special_kind_is_refused():
    model = make()

    class Sharded(torch.Tensor):
        """Stands for DTensor, which needs processes."""

    layer = model.model.vision_tower.encoder.layers[0].mlp.fc1
    layer.weight = nn.Parameter(layer.weight.data.as_subclass(Sharded))
    assert type(layer.weight.data) is Sharded
    with pytest.raises(HostError, match="special kind"):
        LlavaHost.check(model, {"model.vision_tower": tower()})


def test_a_host_without_weights_is_refused():
    model = make().to("meta")
    with pytest.raises(HostError, match="meta device"):
        LlavaHost.check(model, {"model.vision_tower": tower()})


def test_an_offloaded_tower_is_refused_and_still_works():
    from accelerate import cpu_offload

    model = make()
    before = say(model)
    cpu_offload(model, execution_device=torch.device("cpu"))
    with pytest.raises(HostError, match="offloaded"):
        LlavaHost.swap(model, {"model.vision_tower": tower()})
    assert say(model) == before


def test_the_hooks_of_a_device_map_are_carried_over_and_undone():
    from accelerate import dispatch_model

    model = make()
    plain = make()
    LlavaHost.swap(plain, {"model.vision_tower": tower()})
    before = say(model)
    parts = ("vision_tower", "multi_modal_projector", "language_model")
    dispatch_model(model, {f"model.{part}": "cpu" for part in parts} | {"lm_head": "cpu"}, force_hooks=True)
    assert hasattr(model.model.vision_tower, "_hf_hook")
    swap = LlavaHost.swap(model, {"model.vision_tower": tower()})
    assert hasattr(model.model.vision_tower, "_hf_hook")
    assert any("device map" in note for note in swap.notes)
    assert say(model) == say(plain) != before
    swap.undo()
    assert say(model) == before


def test_live_adapters_on_the_tower_are_refused():
    from peft import LoraConfig

    model = make()
    model.add_adapter(LoraConfig(target_modules=r".*vision_tower.*q_proj", r=2))
    with pytest.raises(HostError, match="live adapters"):
        LlavaHost.check(model, {"model.vision_tower": tower()})


def test_a_failure_in_the_middle_leaves_everything_as_it_was(monkeypatch):
    model = make("VideoLlava")
    before = weights(model)
    from safeencoders.integrations import llava

    calls, plain = [], llava.place

    def second_fails(host, path, module):
        calls.append(path)
        if len(calls) == 2:
            raise MemoryError
        plain(host, path, module)

    monkeypatch.setattr(llava, "place", second_fails)
    with pytest.raises(MemoryError):
        LlavaHost.swap(model, {name: tower() for name in names(model)})
    assert same(weights(model), before)


# --- alignment -------------------------------------------------------------------------------------------------------
def test_the_original_is_aligned_exactly_and_the_host_untouched():
    model = make()
    own = model.model.vision_tower
    found = align(model, {"model.vision_tower": copy.deepcopy(own)}, [inputs(model)])
    assert found == Alignment(0.0, 0.0, 0.0, 1.0, 1)
    assert not found.alarm
    assert "within the limits" in str(found)
    assert model.model.vision_tower is own


def test_another_tower_raises_the_alarm():
    model = make()
    with pytest.warns(AlignmentWarning, match="above the limits"):
        found = align(model, {"model.vision_tower": tower()}, [inputs(model), inputs(model)])
    assert found.alarm
    assert found.features > 0.1
    assert 0 < found.next_token <= found.worst_next_token <= 1
    assert found.n == 2


def test_a_tower_that_differs_only_behind_what_is_read_is_aligned():
    model = make()
    spoilt = copy.deepcopy(model.model.vision_tower)
    nn.init.normal_(spoilt.encoder.layers[-1].mlp.fc1.weight)
    assert align(model, {"model.vision_tower": spoilt}, [inputs(model)]).features == 0


def test_padding_on_the_left_changes_nothing():
    model = make()
    batch = inputs(model)
    nothing = torch.zeros(1, 3, dtype=torch.int64)
    padded = batch | {name: torch.cat([nothing, batch[name]], 1) for name in ("input_ids", "attention_mask")}
    with pytest.warns(AlignmentWarning):
        first, second = (align(model, {"model.vision_tower": tower()}, [given]) for given in (batch, padded))
    assert first.next_token == pytest.approx(second.next_token, abs=1e-5)
    assert first.worst_next_token >= first.next_token > 0


def test_nothing_to_compare_and_a_host_without_a_head_are_refused():
    model = make()
    with pytest.raises(BadInputError, match="at least one batch"):
        align(model, {"model.vision_tower": tower()}, [])
    with pytest.raises(BadInputError, match="generates, got LlavaModel"):
        align(model.model, {"vision_tower": tower()}, [inputs(model)])


def test_the_host_has_all_that_the_protocol_asks_for():
    from safeencoders.integrations.diffusers import DiffusersHost

    assert {name for name in vars(DiffusersHost) if not name.startswith("_")} <= set(vars(LlavaHost))
