"""Slots: found by class under any name, and what a host reads of them, checked against what pictures depend on."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from pipelines import PIPELINES, UNSAFE, seeded, text, vision
from torch import nn
from transformers import CLIPTextModel, CLIPVisionModel

from safeencoders.integrations.slots import annotated, held_inside, others_of, reads, slots_of

CASES = PIPELINES
READS = {
    "StableDiffusionPipeline": {"text_encoder": "last"},
    "StableDiffusionPipeline-checked": {"text_encoder": "last"},
    "StableDiffusionPipeline-ip-adapter": {"text_encoder": "last", "image_encoder": "projected"},
    "StableDiffusionImg2ImgPipeline": {"text_encoder": "last"},
    "StableDiffusionInpaintPipeline": {"text_encoder": "last"},
    "StableDiffusionInstructPix2PixPipeline": {"text_encoder": "last"},
    "StableDiffusionControlNetPipeline": {"text_encoder": "last"},
    "StableDiffusionXLPipeline": {"text_encoder": "penultimate", "text_encoder_2": "penultimate projected"},
    "StableDiffusionXLModularPipeline": {"text_encoder": "penultimate", "text_encoder_2": "penultimate projected"},
    "StableDiffusion3Pipeline": {"text_encoder": "penultimate projected", "text_encoder_2": "penultimate projected"},
    "StableDiffusion3Pipeline-no-t5": dict.fromkeys(("text_encoder", "text_encoder_2"), "penultimate projected"),
    "FluxPipeline": {"text_encoder": "pooled"},
    "KandinskyV22PriorPipeline": {"text_encoder": "last projected", "image_encoder": "projected"},
    "KandinskyV22CombinedPipeline": {"prior_text_encoder": "last projected", "prior_image_encoder": "projected"},
    "StableCascadePriorPipeline": {"text_encoder": "hidden[-1] projected", "image_encoder": "projected"},
    "AnimateDiffPipeline": {"text_encoder": "last"},
    "StableVideoDiffusionPipeline": {"image_encoder": "projected"},
}
# Which fields of a tower's output depend on a part of it: text towers end with a norm, vision towers norm the class
# token only, so that their last_hidden_state comes before it.
DEPENDS = {
    ("text", "final_layer_norm"): {"last", "pooled", "projected"},
    ("text", "encoder.layers.3"): {"last", "pooled", "projected", "hidden[-1]"},
    ("text", "encoder.layers.2"): {"last", "pooled", "projected", "hidden[-1]", "penultimate"},
    ("text", "text_projection"): {"projected"},
    ("vision", "post_layernorm"): {"pooled", "projected"},
    ("vision", "encoder.layers.3"): {"last", "pooled", "projected", "hidden[-1]"},
    ("vision", "encoder.layers.2"): {"last", "pooled", "projected", "hidden[-1]", "penultimate"},
    ("vision", "visual_projection"): {"projected"},
}


def slots(pipe):
    return {slot.name: slot for slot in slots_of(pipe.components, annotated(pipe))}


def spoil(module):
    """Change every weight of a module by noise; return what undoes it."""
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    with seeded(5):
        for weight in module.parameters():
            weight.data += 0.5 * weight.data.abs().mean() * torch.randn_like(weight)
    return lambda: module.load_state_dict(before)


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture
def pipe(case):
    return case.build()


# --- finding ---------------------------------------------------------------------------------------------------------
def test_slots_are_found_by_class_with_their_tokenizers(case, pipe):
    found = slots(pipe)
    assert {name: slot.kind for name, slot in found.items() if slot.tower is not None} == dict(case.slots)
    assert sorted(name for name, slot in found.items() if slot.tower is None) == sorted(case.empty)
    for name, slot in found.items():
        assert slot.tower is getattr(pipe, name)
        paired = getattr(pipe, name.replace("text_encoder", "tokenizer")) if slot.kind == "text" else None
        assert slot.tokenizer is paired
        if slot.tower is not None:
            assert slot.projection == hasattr(
                slot.tower, "text_projection" if slot.kind == "text" else "visual_projection"
            )


def test_everything_else_that_reads_is_listed_with_a_reason(case, pipe):
    found = others_of(pipe.components)
    assert tuple(other.name for other in found) == case.others
    for other in found:
        assert other.class_name in other.reason
        assert other.kind == ("judge" if other.name == "safety_checker" else "text")


def test_a_safety_checker_holds_a_clip_tower_and_is_left_alone_under_any_name():
    pipe = PIPELINES["StableDiffusionPipeline-checked"].build()
    assert any(isinstance(part, CLIPVisionModel) for part in pipe.safety_checker.modules())
    assert "left alone" in others_of({"nanny": pipe.safety_checker})[0].reason
    assert [other.kind for other in others_of({"nanny": pipe.safety_checker})] == ["judge"]
    bare = {"safety_checker": vision()}  # even one that is a plain tower
    assert slots_of(bare) == ()
    assert [other.kind for other in others_of(bare)] == ["judge"]


def test_names_do_not_matter_and_classes_do():
    tower, eyes = text(), vision()
    components = {"brain": tower, "eyes": eyes, "words": PIPELINES["FluxPipeline"].build().tokenizer, "depth": 4}
    found = slots_of(components)
    assert [(slot.name, slot.kind, slot.projection) for slot in found] == [
        ("brain", "text", False),
        ("eyes", "vision", True),
    ]
    assert found[0].tokenizer is components["words"]
    assert slots_of({"text_encoder": nn.Linear(2, 2), "image_encoder": None}) == ()


def test_two_tokenizers_that_do_not_say_whose_they_are_are_not_guessed():
    pipe = PIPELINES["StableDiffusionXLPipeline"].build()
    assert slots_of({"brain": text(), "a": pipe.tokenizer, "b": pipe.tokenizer_2})[0].tokenizer is None


def test_a_compiled_tower_is_a_slot_and_a_wrapped_one_says_what_to_do():
    compiled = torch.compile(text())  # nothing is compiled before the first call
    assert [slot.tower is compiled for slot in slots_of({"text_encoder": compiled})] == [True]
    (other,) = others_of({"text_encoder": nn.Sequential(text())})
    assert (other.kind, other.class_name) == ("text", "Sequential")
    assert "wraps a CLIPTextModel" in other.reason
    assert slots_of({"text_encoder": nn.Sequential(text())}) == ()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_a_live_adapter_is_no_plain_tower():
    peft = pytest.importorskip("peft")
    tower = peft.get_peft_model(text(), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    assert slots_of({"text_encoder": tower}) == ()
    assert "merge" in others_of({"text_encoder": tower})[0].reason


def test_finding_does_not_import_diffusers():
    code = (
        "import sys; from transformers import CLIPTextConfig, CLIPTextModel; "
        "from safeencoders.integrations.slots import slots_of, others_of, annotated; "
        "tower = CLIPTextModel(CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, "
        "num_attention_heads=1, vocab_size=9)); "
        "assert len(slots_of({'a': tower})) == 1 and not others_of({'a': tower}) and not annotated(tower); "
        "sys.exit('diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- reading ---------------------------------------------------------------------------------------------------------
def test_what_each_host_reads(case, pipe):
    found = {name: " ".join(reads(pipe, slot)) for name, slot in slots(pipe).items() if slot.tower is not None}
    assert found == READS[case.name]


def test_pictures_depend_on_exactly_the_weights_behind_what_is_read(case, pipe):
    before = case.call(pipe)
    for name, slot in slots(pipe).items():
        if slot.tower is None:
            continue
        flat = getattr(slot.tower, f"{slot.kind}_model", slot.tower)
        for (kind, part), fields in DEPENDS.items():
            if kind != slot.kind or (part.endswith("projection") and not slot.projection):
                continue
            module = (slot.tower if part.endswith("projection") else flat).get_submodule(part)
            undo = spoil(module)
            changed = not np.array_equal(before, case.call(pipe))
            undo()
            assert changed == bool(fields & set(reads(pipe, slot))), (name, part)
    assert np.array_equal(before, case.call(pipe))


def test_the_detailed_ip_adapter_reads_the_penultimate_layer():
    pipe = PIPELINES["StableDiffusionPipeline-ip-adapter"].build()
    assert reads(pipe, slots(pipe)["image_encoder"]) == ("projected",)
    pipe.unet.encoder_hid_proj.image_projection_layers[0] = nn.Identity()  # "plus": no plain ImageProjection
    assert reads(pipe, slots(pipe)["image_encoder"]) == ("penultimate",)


def test_several_ip_adapters_are_measured_too():
    pipe = PIPELINES["StableDiffusionPipeline-ip-adapter"].build()
    layers = pipe.unet.encoder_hid_proj.image_projection_layers
    layers.append(nn.Identity())
    assert reads(pipe, slots(pipe)["image_encoder"]) == ("penultimate", "projected")


def test_measuring_runs_no_tower_and_leaves_no_trace(pipe):
    before, drawn = dict(vars(pipe)), torch.random.get_rng_state()
    for slot in slots(pipe).values():
        if slot.tower is not None:
            slot.tower.register_forward_hook(lambda *_: pytest.fail("a tower was run"))
    modules = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    hooks = [dict(part._forward_hooks) for whole in modules for part in whole.modules()]
    for slot in slots(pipe).values():
        reads(pipe, slot)
    assert vars(pipe) == before
    assert all(vars(pipe)[key] is value for key, value in before.items())
    assert hooks == [dict(part._forward_hooks) for whole in modules for part in whole.modules()]
    assert torch.equal(drawn, torch.random.get_rng_state())


def test_towers_that_cannot_run_here_are_measured_all_the_same():
    pipe = PIPELINES["StableDiffusionXLPipeline"].build()
    for name in ("text_encoder", "text_encoder_2", "unet"):
        getattr(pipe, name).to("meta")
    assert {name: reads(pipe, slot) for name, slot in slots(pipe).items() if slot.tower is not None} == {
        "text_encoder": ("penultimate",),
        "text_encoder_2": ("penultimate", "projected"),
    }


def test_a_wrapped_neighbour_does_not_stand_in_the_way():
    pipe = PIPELINES["StableDiffusionXLPipeline"].build()
    pipe.text_encoder = nn.Sequential(pipe.text_encoder)
    assert reads(pipe, slots(pipe)["text_encoder_2"]) == ("penultimate", "projected")


def test_what_is_no_pipeline_is_unknown():
    slot = slots_of({"text_encoder": text()})[0]
    assert reads(object(), slot) == ("unknown",)
    assert reads(slot.tower, slot) == ("unknown",)


def test_a_guarded_class_is_looked_through():
    pipe = PIPELINES["StableDiffusionPipeline"].build()
    plain = type(pipe)
    refusing = {
        "encode_prompt": lambda *_, **__: 1 / 0,
        "__reduce_ex__": lambda *_: 1 / 0,
        "__module__": plain.__module__,
    }
    pipe.__class__ = type(plain.__name__, (plain,), refusing)
    assert reads(pipe, slots(pipe)["text_encoder"]) == ("last",)
    pipe.__class__ = type("Mine", (plain,), refusing)  # a class of its own is what the user wrote: it cannot be run
    assert reads(pipe, slots(pipe)["text_encoder"]) == ("unknown",)


class Renamed(DiffusionPipeline):
    """A pipeline nobody has heard of, with names of its own."""

    _optional_components = ("muse",)

    def __init__(self, brain: CLIPTextModel, words, muse: CLIPTextModel | None = None):
        super().__init__()
        self.register_modules(brain=brain, words=words, muse=muse)

    def encode_prompt(self, prompt, layer=1):
        ids = self.words(prompt, return_tensors="pt").input_ids
        return {"embeds": [self.brain(ids, output_hidden_states=True).hidden_states[layer], None]}


class Deaf(Renamed):
    def encode_prompt(self, prompt, device):
        ids = self.words(prompt, return_tensors="pt").input_ids.to(device)
        self.brain(ids)
        return torch.zeros(len(ids))


class Mute(Renamed):
    encode_prompt = None


class Odd(Renamed):
    def encode_prompt(self, prompt, phase_of_the_moon):
        return super().encode_prompt(prompt, layer=phase_of_the_moon + 1)


class Prior(Renamed):
    def encode_prompt(self):
        return torch.ones(1)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(Renamed, ("hidden[-4]",)), (Deaf, ()), (Mute, ("unknown",)), (Odd, ("unknown",)), (Prior, ("unknown",))],
)
def test_a_pipeline_nobody_knows(kind, expected):
    pipe = kind(text(), PIPELINES["FluxPipeline"].build().tokenizer)
    found = slots(pipe)
    assert list(found) == ["brain", "muse"]
    assert found["muse"].tower is None
    assert found["brain"].tokenizer is pipe.words
    assert reads(pipe, found["brain"]) == expected
    assert reads(pipe, found["muse"]) == ("unknown",)


# --- the pipelines themselves ----------------------------------------------------------------------------------------
def test_a_pipeline_repeats_itself_and_reloads_bit_equal(case, pipe, tmp_path):
    before = case.call(pipe)
    assert np.array_equal(before, case.call(pipe))
    if "prompt" in case.arguments():
        assert not np.array_equal(before, case.call(pipe, prompt=UNSAFE))
    case.save(pipe, tmp_path)
    again = case.reload(tmp_path)
    assert type(again) is type(pipe)
    assert np.array_equal(before, case.call(again))


def test_another_tower_in_any_slot_changes_the_output_and_its_own_restores_it(case, pipe):
    before = case.call(pipe)
    for name, slot in slots(pipe).items():
        if slot.tower is None:
            continue
        inside = list(held_inside(pipe, slot))
        other = copy.deepcopy(slot.tower)
        spoil(other)
        for place, key in [(pipe, name), *inside]:
            setattr(place, key, other)
        assert not np.array_equal(before, case.call(pipe)), name
        for place, key in [(pipe, name), *inside]:
            setattr(place, key, slot.tower)
    assert np.array_equal(before, case.call(pipe))


def test_a_combined_pipeline_runs_the_tower_inside_it():
    case = PIPELINES["KandinskyV22CombinedPipeline"]
    pipe = case.build()
    slot, before = slots(pipe)["prior_text_encoder"], case.call(pipe)
    assert list(held_inside(pipe, slot)) == [(pipe.prior_pipe, "text_encoder")]
    pipe.prior_text_encoder = text(projection=True, noise=0.5)
    assert np.array_equal(before, case.call(pipe))  # this is why `held_inside` is there
    assert list(held_inside(pipe, slots(pipe)["prior_text_encoder"])) == []
