"""Fit: a tower goes into a slot, or the error names the slot, what was expected, what came, and the remedy."""

import copy

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModel, CLIPVisionModelWithProjection

from safeencoders.errors import FitError, HostError
from safeencoders.fingerprint import fingerprint
from safeencoders.integrations import fit
from safeencoders.integrations.slots import Slot
from safeencoders.pictoworld import models

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "projection_dim": 8,
}
KINDS = {
    ("text", False): CLIPTextModel,
    ("text", True): CLIPTextModelWithProjection,
    ("vision", False): CLIPVisionModel,
    ("vision", True): CLIPVisionModelWithProjection,
}


def tower(kind="text", projection=False, **changes):
    words = models.tokenizer()
    own = {
        "text": {"vocab_size": len(words), "max_position_embeddings": 32, "eos_token_id": words.eos_token_id},
        "vision": {"image_size": 32, "patch_size": 16},
    }
    cls = KINDS[kind, projection]
    return cls(cls.config_class(**(SMALL | own[kind] | changes))).eval()


def slot(kind="text", projection=False, **changes):
    tokenizer = models.tokenizer() if kind == "text" else None
    return Slot("the_slot", kind, tower(kind, projection, **changes), projection, tokenizer)


def refused(place, came, match, error=FitError, dtype=torch.float32):
    before = None if place.tower is None else fingerprint(place.tower)
    with pytest.raises(error, match=match) as caught:
        fit.check(place, came, dtype)
    assert "the_slot" in str(caught.value)
    assert before is None or fingerprint(place.tower) == before


@pytest.mark.parametrize(("kind", "projection"), KINDS)
def test_a_tower_of_the_same_class_and_numbers_fits(kind, projection):
    fit.check(slot(kind, projection), tower(kind, projection), torch.bfloat16)


@pytest.mark.parametrize(("kind", "projection"), KINDS)
@pytest.mark.parametrize(("other_kind", "other_projection"), KINDS)
def test_a_tower_of_another_clip_class_is_refused(kind, projection, other_kind, other_projection):
    if (kind, projection) == (other_kind, other_projection):
        return
    remedy = f"projection={projection}" if kind == other_kind else f"tower='{kind}'"
    expected, came = KINDS[kind, projection].__name__, KINDS[other_kind, other_projection].__name__
    refused(slot(kind, projection), tower(other_kind, other_projection), f"plain {expected}, got {came}; .*{remedy}")


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("text", "hidden_size", 32),
        ("text", "num_hidden_layers", 3),
        ("text", "num_attention_heads", 4),
        ("text", "intermediate_size", 64),
        ("text", "hidden_act", "gelu"),
        ("text", "max_position_embeddings", 77),
        ("text", "projection_dim", 16),
        ("vision", "hidden_size", 32),
        ("vision", "image_size", 48),
        ("vision", "patch_size", 8),
        ("vision", "hidden_act", "gelu"),
        ("vision", "projection_dim", 16),
    ],
)
def test_other_numbers_are_refused_by_name(kind, field, value):
    place = slot(kind, projection=True)
    here = getattr(place.tower.config, field)
    refused(
        place,
        tower(kind, projection=True, **{field: value}),
        f"expected a tower of {field} {here}, got {value}; choose",
    )


def test_a_projection_that_nobody_reads_may_have_any_width():
    fit.check(slot(), tower(projection_dim=16), torch.float32)


@pytest.mark.parametrize("rows", [100, 49408])
def test_another_vocabulary_is_refused(rows):
    refused(slot(), tower(vocab_size=rows), f"expected a tower of vocab_size 1583 .* got {rows}; choose")


def test_a_tower_that_pools_elsewhere_is_refused():
    refused(slot(), tower(eos_token_id=7), "pools at id 1582.*got eos_token_id 7")
    fit.check(slot(), tower(eos_token_id=2), torch.float32)  # the old published configs: the largest id
    fit.check(slot(eos_token_id=7), tower(eos_token_id=7), torch.float32)  # nothing new


# --- what is no plain tower ------------------------------------------------------------------------------------------
class Subclass(CLIPTextModel):
    """A tower of somebody's own class."""


class Wrapper(torch.nn.Module):
    """A tower inside something."""

    def __init__(self):
        super().__init__()
        self.inside = tower()


def t5():
    return transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )


def whole_clip():
    vision = SMALL | {"image_size": 32, "patch_size": 16}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=SMALL, vision_config=vision))


def adapted():
    made = tower()
    made.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    return made


def poisoned(value):
    made = tower()
    made.final_layer_norm.weight.data[0] = value
    return made


def integers():
    made = tower()
    made.final_layer_norm.weight = torch.nn.Parameter(torch.ones(16, dtype=torch.int8), requires_grad=False)
    return made


def hooked():
    from accelerate import cpu_offload_with_hook

    return cpu_offload_with_hook(tower(), "cpu:0")[0]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: "pictoworld", r"got str; pass a tower, such as the one that safeencoders.load\(\) returns"),
        (lambda: None, "got NoneType; pass a tower"),
        (t5, "got T5EncoderModel; a tower of another family"),
        (whole_clip, r"got CLIPModel; pass one tower of it: CLIPTextModel.from_pretrained"),
        (lambda: get_peft_model(tower(), LoraConfig(r=2, target_modules=["q_proj"])), r"tower.merge_and_unload\(\)"),
        (lambda: torch.nn.DataParallel(tower()), "got DataParallel; pass the module inside: tower.module"),
        (lambda: torch.compile(tower()), "got OptimizedModule; pass what torch.compile was given"),
        (lambda: Subclass(tower().config), "got Subclass; a subclass or wrapper cannot be read back"),
        (Wrapper, "got Wrapper; a subclass or wrapper cannot be read back"),
        (adapted, r"live adapters; merge them first"),
        (hooked, "another pipeline offloads"),
        (lambda: tower().to("meta"), "on the meta device, without weights; load it on the CPU"),
        (lambda: poisoned(float("nan")), "weight final_layer_norm.weight of the tower is not finite; download"),
        (lambda: poisoned(float("inf")), "weight final_layer_norm.weight of the tower is not finite; download"),
        (integers, "got a quantised one; pass it as it was trained"),
    ],
)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 asks for it
def test_what_is_no_plain_tower_with_weights_is_refused_with_the_remedy(make, match):
    refused(slot(), make(), match)


def test_weights_too_large_for_the_host_are_refused():
    large = poisoned(1e6)
    fit.check(slot(), large, torch.float32)
    fit.check(slot(), large, torch.bfloat16)
    refused(slot(), large, "too large for the host's torch.float16; load the pipeline in bfloat16", dtype=torch.float16)


# --- the slot's own tokenizer and tower ------------------------------------------------------------------------------
def test_a_tokenizer_without_end_of_text_is_refused():
    place = slot()
    place.tokenizer._tokenizer.post_processor = None  # the ids have no end then
    refused(place, tower(), "expected a tokenizer that ends every prompt with its end-of-text token", HostError)
    nameless = slot()
    nameless.tokenizer.eos_token = None
    refused(nameless, tower(), "expected a tokenizer that ends every prompt with its end-of-text token", HostError)
    refused(Slot("the_slot", "text", tower(), False), tower(), "has no tokenizer; load the whole", HostError)


def with_token(place, grow=1):
    place.tokenizer.add_tokens("<style>")
    if grow:
        place.tower.resize_token_embeddings(len(place.tokenizer) - 1 + grow, mean_resizing=False)
    return place


def test_added_tokens_fit_when_their_rows_are_at_the_end():
    fit.check(with_token(slot()), tower(), torch.float32)
    same = with_token(slot())
    fit.check(same, copy.deepcopy(same.tower), torch.float32)  # a tower that has the row itself


def test_added_tokens_without_a_row_or_rows_without_a_token_are_refused():
    refused(with_token(slot(), grow=0), tower(), "knows 1584 tokens, its tower only 1583; a token was", HostError)
    refused(with_token(slot(), grow=3), tower(), "expected a tower of vocab_size", FitError)
    shrunk = slot()
    shrunk.tower.resize_token_embeddings(1000, mean_resizing=False)
    refused(shrunk, tower(), "knows 1583 tokens, its tower only 1000", HostError)


def test_adapters_fit_when_the_new_tower_has_their_layers():
    place = slot()
    place.tower.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]), "style")
    fit.check(place, tower(), torch.float32)
    for layer in place.tower.modules():
        if hasattr(layer, "merge"):
            layer.merge()
    refused(place, tower(), r"fused into the weights.*unfuse_lora\(components=\['the_slot'\]\)", HostError)


def test_adapters_that_replace_modules_are_refused():
    place = slot()
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["final_layer_norm"])
    place.tower.add_adapter(config, "style")
    refused(place, tower(), "replaces whole modules", HostError)


def test_an_empty_slot_has_nothing_to_compare_with():
    fit.check(Slot("the_slot", "vision", None, True), tower("vision", projection=True, hidden_size=32), torch.float32)
    refused(Slot("the_slot", "vision", None, True), tower("vision"), "expected a plain CLIPVisionModelWithProjection")
