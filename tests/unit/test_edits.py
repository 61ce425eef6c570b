"""Edits: the reference is the original, bit for bit, whatever is trained; merging changes no output."""

import copy
import warnings

import pytest
import torch
from torch import nn
from transformers import CLIPTextModel, CLIPVisionModel

from safeencoders.errors import BadInputError
from safeencoders.fingerprint import fingerprint
from safeencoders.training.edits import EditSpec, FullEdit, trainable

LORA = EditSpec("lora", rank=4, alpha=8.0, dropout=0.1)  # alpha 8: the adapters' outputs are far above rounding
FULL = EditSpec("full")
TOWERS = ("text", "vision")


def tower_of(clip, name):
    return clip.text_model if name == "text" else clip.vision_model


def inputs(name, n=3):
    draw = torch.Generator().manual_seed(1)
    if name == "text":
        return {"input_ids": torch.cat([torch.randint(1, 300, (n, 7), generator=draw), torch.full((n, 1), 1582)], 1)}
    return {"pixel_values": torch.randn(n, 3, 64, 64, generator=draw)}


def train(module, name="text", steps=5, rate=0.05):
    """Steps on a loss that moves every layer; gradients are cut so that the weights stay finite however many."""
    moving = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(moving, lr=rate)
    module.train()
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        module(**inputs(name)).last_hidden_state[..., :3].square().mean().backward()
        nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
    return module


def output(module, name="text"):
    with torch.no_grad():
        return module(**inputs(name)).last_hidden_state


def same(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def tiny(clip):
    """Give the towers without their wasteful vocabulary: 1,000 steps in seconds."""
    torch.manual_seed(3)
    config = copy.deepcopy(clip.config.text_config)
    config.num_hidden_layers = 1
    return CLIPTextModel(config).eval()


# --- the reference --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["train mode", "eval mode"])
@pytest.mark.parametrize("spec", [FULL, LORA], ids=["full", "lora"])
def test_the_reference_is_bit_equal_to_the_original_after_1000_steps(tiny, spec, training):
    pristine = copy.deepcopy(tiny)
    edit = spec.apply(tiny)
    train(edit.tuned, steps=1000, rate=0.01).train(training)
    expected = output(pristine)
    for _ in range(2):  # dropout would make two passes differ
        with edit.reference() as reference:
            assert torch.equal(output(reference), expected)
    assert edit.tuned.training is training
    assert same(tiny, pristine)
    assert not torch.allclose(output(edit.tuned.eval()), expected, atol=1e-3)


@pytest.mark.parametrize("spec", [FULL, LORA], ids=["full", "lora"])
def test_the_vision_reference_is_bit_equal_too(clip, spec):
    pristine = copy.deepcopy(clip.vision_model)
    edit = spec.apply(clip.vision_model)
    train(edit.tuned, "vision", steps=30)
    with edit.reference() as reference:
        assert torch.equal(output(reference, "vision"), output(pristine, "vision"))
    assert same(clip.vision_model, pristine)


@pytest.mark.parametrize("training", [True, False], ids=["train mode", "eval mode"])
def test_adapters_in_the_module_that_is_also_called_original_would_be_seen(tiny, training):
    """The fault of the released Safe-CLIP script: get_peft_model puts its adapters into the module it is given."""
    from peft import LoraConfig, get_peft_model

    pristine = copy.deepcopy(tiny)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        tuned = get_peft_model(tiny, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules=["v_proj", "fc1"]))
    train(tuned, steps=50).train(training)
    assert not torch.equal(output(tiny), output(pristine))


def test_the_dropout_of_the_aliased_reference_would_be_seen(tiny):
    tuned = LORA.apply(tiny).tuned
    train(tuned, steps=50)
    assert not torch.equal(output(tuned), output(tuned))


@pytest.mark.parametrize("spec", [FULL, LORA], ids=["full", "lora"])
def test_a_gradient_through_the_reference_moves_nothing_that_is_trained(tiny, spec):
    edit = spec.apply(tiny)
    with edit.reference() as reference:
        found = reference(**inputs("text")).last_hidden_state
    assert not found.requires_grad
    assert edit.tuned(**inputs("text")).last_hidden_state.requires_grad


# --- what moves -----------------------------------------------------------------------------------------------------


def test_frozen_names_do_not_move_and_the_others_do(clip):
    edit = FullEdit(clip.text_model, frozen=("embeddings.",))
    train(edit.tuned)
    for name, before in clip.text_model.state_dict().items():
        assert torch.equal(edit.tuned.state_dict()[name], before) is name.startswith("embeddings."), name


@pytest.mark.parametrize("name", TOWERS)
def test_lora_moves_its_targets_by_the_rank_at_most_and_nothing_else(clip, name):
    original = tower_of(clip, name)
    edit = LORA.apply(original)
    train(edit.tuned, name, steps=20)
    before, moved = original.state_dict(), {}
    for key, value in edit.merge().state_dict().items():
        if not torch.equal(value, before[key]):
            moved[key] = (value - before[key]).flatten(1)
    expected = {"k_proj", "v_proj", "out_proj", "fc1", "fc2"} | ({"patch_embedding"} if name == "vision" else set())
    assert {key.split(".")[-2] for key in moved} == expected
    assert all(key.endswith(".weight") for key in moved)
    for key, change in moved.items():
        assert torch.linalg.matrix_rank(change, rtol=1e-4) <= LORA.rank, key
    wide = {key: change for key, change in moved.items() if min(change.shape) > LORA.rank}
    assert wide.keys() == moved.keys()  # or the bound would say nothing


@pytest.mark.parametrize("name", TOWERS)
def test_the_rank_of_a_full_edit_is_above_the_bound(clip, name):
    original = tower_of(clip, name)
    edit = FULL.apply(original)
    train(edit.tuned, name, steps=20)
    key = "encoder.layers.0.mlp.fc1.weight"
    change = edit.merge().state_dict()[key] - original.state_dict()[key]
    assert torch.linalg.matrix_rank(change, rtol=1e-4) > LORA.rank


def test_trainable_counts_what_moves(clip):
    counted = trainable({"text": LORA.apply(clip.text_model).tuned, "vision": FULL.apply(clip.vision_model).tuned})
    per_layer = 3 * 4 * (16 + 16) + 2 * 4 * (16 + 32)
    assert counted["text"] == 2 * per_layer
    assert counted["vision"] == sum(p.numel() for p in clip.vision_model.parameters())


# --- merging --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("spec", [FULL, LORA], ids=["full", "lora"])
def test_merge_gives_a_plain_tower_with_the_tuned_outputs(clip, spec, name):
    original = tower_of(clip, name)
    edit = spec.apply(original)
    train(edit.tuned, name, steps=20).eval()
    merged, expected = edit.merge(), output(edit.tuned, name)
    assert type(merged) is {"text": CLIPTextModel, "vision": CLIPVisionModel}[name]
    assert merged.state_dict().keys() == original.state_dict().keys()
    torch.testing.assert_close(output(merged, name), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(expected, output(original, name), atol=1e-3)
    assert not merged.training
    assert not any(p.requires_grad for p in merged.parameters())
    train(edit.tuned, name)  # the edit can go on, and the merged copy does not
    assert not torch.equal(output(merged, name), output(edit.merge(), name))


def test_a_share_keeps_that_much_of_the_way_from_where_the_run_began(clip):
    tower = clip.text_model
    begun = FULL.apply(tower)
    train(begun.tuned, steps=2)
    begin = begun.merge()
    whole, part = (EditSpec(share=share).apply(tower, begin) for share in (1.0, 0.25))
    for edit in (whole, part):
        train(edit.tuned)
    assert same(whole.tuned, part.tuned)  # it is training that is shared in, not the rate
    assert same(whole.merge(), whole.tuned)
    assert not same(part.merge(), part.tuned)
    before, found = (dict(module.named_parameters()) for module in (begin, part.merge()))
    original = dict(tower.named_parameters())
    for name, end in whole.tuned.named_parameters():
        expected = 0.75 * before[name] + 0.25 * end
        assert torch.allclose(found[name], expected, atol=1e-6)
        if name in part.delta().tensors:
            assert torch.allclose(part.delta().tensors[name], expected - original[name], atol=1e-6)


def test_a_fingerprint_is_of_every_bit(clip):
    twin = copy.deepcopy(clip)
    assert fingerprint(clip) == fingerprint(twin)
    weight = twin.vision_model.post_layernorm.bias.data
    weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))
    assert fingerprint(clip) != fingerprint(twin)


# --- bad specifications ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({"kind": "half"}, "expected edit kind"),
        ({"rank": 0}, "rank >= 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": float("nan")}, "dropout"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": float("inf")}, "alpha"),
        ({"share": 0.0}, "share above 0"),
        ({"share": 1.5}, "share above 0"),
        ({"kind": "lora", "share": 0.5}, 'and 1 for "lora"'),
    ],
)
def test_a_specification_that_makes_no_sense_is_refused(numbers, expected):
    with pytest.raises(BadInputError, match=expected):
        EditSpec(**numbers)


def test_targets_that_the_tower_has_not_are_refused(clip):
    with pytest.raises(BadInputError, match=r"expected LoRA targets among .*k_proj.*got \('query',\)"):
        EditSpec("lora", targets=("query",)).apply(clip.text_model)


def test_targets_of_the_other_tower_are_left_out(clip):
    assert "patch_embedding" in LORA.targets
    assert not any("patch_embedding" in key for key in LORA.apply(clip.text_model).delta().tensors)
