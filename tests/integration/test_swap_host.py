"""The swap: bit-equal when the tower is, undone bit for bit, carrying what was loaded before, or refused untouched."""

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from pipelines import PIPELINES, seeded, silent, text, vision

from safeencoders.errors import FitError, HostError
from safeencoders.fingerprint import fingerprint
from safeencoders.integrations import carry, offload, spool
from safeencoders.integrations import swap as ours
from safeencoders.integrations.diffusers import DiffusersHost

SD, SDXL = PIPELINES["StableDiffusionPipeline"], PIPELINES["StableDiffusionXLPipeline"]
IMG2IMG = "StableDiffusionImg2ImgPipeline"
CPU = torch.device("cpu:0")
pytestmark = [
    # as in pyproject.toml: numpy 2 turns a tensor into an array in a scheduler; harmless
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    # peft, of a second LoRA on one model, which is what is tested
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute in the model:UserWarning"),
]


def state(host):
    """Everything of a host that a refused or failed swap must leave alone."""
    parts = {name: part for name, part in host.components.items() if isinstance(part, torch.nn.Module)}
    return {
        "ids": {name: id(part) for name, part in host.components.items()},
        "weights": {name: fingerprint(part) for name, part in parts.items() if not offload.weights_elsewhere(part)
                    and not any(tensor.is_meta for tensor in part.parameters())},
        "flags": {name: [m.training for m in p.modules()] + [w.requires_grad for w in p.parameters()]
                  for name, p in parts.items()},
        "hooks": {name: [type(m._hf_hook).__name__ for m in p.modules() if hasattr(m, "_hf_hook")]
                  for name, p in parts.items()},
        "config": {name: entry for name, entry in host.config.items() if not name.startswith("_")},
        "specs": dict(getattr(host, "_component_specs", {})),
        "tokens": {name: len(part) for name, part in host.components.items() if name.startswith("tokenizer") and part},
        "adapters": {name: list(getattr(p, "peft_config", {})) for name, p in parts.items()},
    }  # fmt: skip


def identity(host):
    """A copy of every tower, as it is."""
    return {slot.name: copy.deepcopy(slot.tower) for slot in DiffusersHost.slots(host) if slot.tower is not None}


def other(tower, seed=1):
    """A tower that does something else: the same with noise."""
    made = copy.deepcopy(tower)
    with seeded(seed):
        for weight in made.parameters():
            weight.data += 0.3 * weight.data.std() * torch.randn_like(weight)
    return made


def others(host):
    return {name: other(tower, seed) for seed, (name, tower) in enumerate(identity(host).items())}


# --- every pipeline --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", PIPELINES)
def test_swap_save_plain_reload_undo_are_bit_equal(name, tmp_path):
    case = PIPELINES[name]
    pipe = case.build()
    before, original = state(pipe), case.call(pipe)
    kept = DiffusersHost.swap(pipe, identity(pipe))
    assert np.array_equal(case.call(pipe), original)  # an identity tower changes nothing
    kept.undo()
    swap = DiffusersHost.swap(pipe, others(pipe))
    swapped = case.call(pipe)
    assert not np.array_equal(swapped, original)  # and another tower does: the comparison can fail
    case.save(pipe, str(tmp_path))  # a string, for the modular one
    assert np.array_equal(case.call(case.reload(str(tmp_path))), swapped)
    swap.undo()
    assert np.array_equal(case.call(pipe), original)
    after = state(pipe)
    slots = [slot.name for slot in DiffusersHost.slots(pipe)]
    assert {n: after["ids"][n] for n in after["ids"] if n not in slots} == {
        n: before["ids"][n] for n in before["ids"] if n not in slots
    }
    assert {key: value for key, value in after.items() if key != "ids"} == {
        key: value for key, value in before.items() if key != "ids"
    }


def test_the_host_is_known_without_importing_diffusers_for_it():
    assert DiffusersHost.accepts(SD.build())
    assert not DiffusersHost.accepts(torch.nn.Linear(1, 1))
    assert not DiffusersHost.accepts(None)


# --- number format, flags, empty slots -------------------------------------------------------------------------------
def test_a_float32_tower_is_cast_to_a_bfloat16_pipeline_and_stays_float32_itself():
    pipe = SDXL.build().to(torch.bfloat16)
    mine = {"text_encoder_2": text(projection=True)}
    swap = DiffusersHost.swap(pipe, mine)
    assert pipe.text_encoder_2.dtype == torch.bfloat16
    assert mine["text_encoder_2"].dtype == torch.float32
    assert "text_encoder_2: cast from float32 to bfloat16" in swap.notes
    SDXL.call(pipe)
    pipe.text_encoder_2 = mine["text_encoder_2"]  # what the one-line swap does
    with pytest.raises(RuntimeError, match="dtype"):
        SDXL.call(pipe)


def test_a_tower_that_needs_nothing_is_used_itself_and_one_that_trains_is_copied():
    pipe, mine = SD.build(), text()
    swap = DiffusersHost.swap(pipe, {"text_encoder": mine})
    assert pipe.text_encoder is mine
    swap.undo()
    mine.train().requires_grad_(True)
    swap = DiffusersHost.swap(pipe, {"text_encoder": mine})
    installed = pipe.text_encoder
    assert installed is swap.towers["text_encoder"] is not mine
    assert not any(part.training for part in installed.modules())
    assert not any(weight.requires_grad for weight in installed.parameters())
    assert mine.training
    assert all(weight.requires_grad for weight in mine.parameters())


def test_an_empty_slot_is_filled_saved_and_emptied_again(tmp_path):
    pipe = SD.build().to(torch.bfloat16)
    assert pipe.config["image_encoder"] == (None, None)
    swap = DiffusersHost.swap(pipe, {"image_encoder": vision()})
    assert pipe.image_encoder.dtype == torch.bfloat16
    SD.save(pipe, tmp_path)
    assert type(SD.reload(tmp_path).image_encoder).__name__ == "CLIPVisionModelWithProjection"
    swap.undo()
    assert pipe.image_encoder is None
    assert pipe.config["image_encoder"] == (None, None)


def test_undo_follows_a_pipeline_to_another_number_format():
    pipe = SD.build()
    swap = DiffusersHost.swap(pipe, {"text_encoder": text()})
    pipe.to(torch.bfloat16)
    swap.undo()
    assert pipe.text_encoder.dtype == torch.bfloat16
    SD.call(pipe)


# --- textual inversion -----------------------------------------------------------------------------------------------
def add_token(pipe, word="<style>", vectors=2):
    with seeded(3):
        pipe.load_textual_inversion({word: torch.randn(vectors, pipe.text_encoder.config.hidden_size)})


def test_added_tokens_are_carried_over_bit_for_bit():
    pipe, mine = SD.build(), text()
    add_token(pipe)
    original = SD.call(pipe, prompt="a <style> cup")
    swap = DiffusersHost.swap(pipe, {"text_encoder": mine})
    assert np.array_equal(SD.call(pipe, prompt="a <style> cup"), original)
    assert "text_encoder: carried over 2 added tokens" in swap.notes
    assert pipe.text_encoder.config.vocab_size == len(pipe.tokenizer)
    assert mine.config.vocab_size == len(pipe.tokenizer) - 2  # the caller's tower is as it was
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight[-1].add_(1)
    assert not np.array_equal(SD.call(pipe, prompt="a <style> cup"), original)  # the carried row matters
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight[-1].sub_(1)
    with silent():
        pipe.unload_textual_inversion("<style>", pipe.tokenizer, pipe.text_encoder)
    swap.undo()


def test_a_tower_that_has_the_rows_already_takes_them_from_the_host():
    pipe = SD.build()
    add_token(pipe)
    original, mine = SD.call(pipe, prompt="a <style> cup"), copy.deepcopy(pipe.text_encoder)
    mine.get_input_embeddings().weight.data[-2:] = 0
    DiffusersHost.swap(pipe, {"text_encoder": mine})
    assert np.array_equal(SD.call(pipe, prompt="a <style> cup"), original)


def test_a_pipeline_with_added_tokens_saves_and_reloads(tmp_path):
    pipe = SD.build()
    add_token(pipe)
    DiffusersHost.swap(pipe, {"text_encoder": text()})
    expected = SD.call(pipe, prompt="a <style> cup")
    SD.save(pipe, tmp_path)
    assert np.array_equal(SD.call(SD.reload(tmp_path), prompt="a <style> cup"), expected)


# --- LoRA ------------------------------------------------------------------------------------------------------------
def lora(pipe, seed=5, unet=True):
    """A LoRA of rank 2 on the text encoder's queries, and on the UNet's."""
    with seeded(seed):
        found = {}
        parts = {"text_encoder": "q_proj"} | ({"unet": "to_q"} if unet else {})
        for part, end in parts.items():
            for name, module in getattr(pipe, part).named_modules():
                if name.endswith(end):
                    found[f"{part}.{name}.lora_A.weight"] = torch.randn(2, module.in_features) / 4
                    found[f"{part}.{name}.lora_B.weight"] = torch.randn(module.out_features, 2) / 4
        return found


@pytest.fixture
def with_lora():
    pipe = SD.build()
    with silent():
        pipe.load_lora_weights(lora(pipe, 5), adapter_name="style")
        pipe.load_lora_weights(lora(pipe, 6), adapter_name="line")
        pipe.set_adapters(["style", "line"], [0.7, 0.4])
    return pipe


def test_live_adapters_are_carried_over_with_their_scales(with_lora):
    pipe, mine = with_lora, text()
    original, listed, active = SD.call(pipe), pipe.get_list_adapters(), pipe.get_active_adapters()
    swap = DiffusersHost.swap(pipe, {"text_encoder": mine})
    assert np.array_equal(SD.call(pipe), original)
    assert (pipe.get_list_adapters(), pipe.get_active_adapters()) == (listed, active)
    assert "text_encoder: carried over the adapter 'style'" in swap.notes
    assert not carry.layers(mine)
    swap.undo()
    assert np.array_equal(SD.call(pipe), original)
    assert (pipe.get_list_adapters(), pipe.get_active_adapters()) == (listed, active)


def test_carried_adapters_can_be_switched_scaled_and_unloaded(with_lora):
    pipe, twin = with_lora, SD.build()
    with silent():
        twin.load_lora_weights(lora(twin, 5), adapter_name="style")
        twin.load_lora_weights(lora(twin, 6), adapter_name="line")
        DiffusersHost.swap(pipe, {"text_encoder": text()})
        for act in (
            lambda p: p.set_adapters("line", 0.9),
            lambda p: p.disable_lora(),
            lambda p: p.enable_lora(),
            lambda p: p.fuse_lora(components=["text_encoder", "unet"]),
            lambda p: p.unfuse_lora(components=["text_encoder", "unet"]),
            lambda p: p.set_adapters("style"),
            lambda p: p.delete_adapters("line"),
            lambda p: p.unload_lora_weights(),
        ):
            act(pipe)
            act(twin)
            assert np.array_equal(SD.call(pipe), SD.call(twin))
            assert pipe.get_list_adapters() == twin.get_list_adapters()
    assert np.allclose(SD.call(pipe), SD.call(SD.build()), atol=1e-5)  # fusing and unfusing rounds


def test_disabled_adapters_stay_disabled(with_lora):
    with silent():
        with_lora.disable_lora()
    plain = SD.call(with_lora)
    DiffusersHost.swap(with_lora, {"text_encoder": text()})
    assert np.array_equal(SD.call(with_lora), plain)
    with silent():
        with_lora.enable_lora()
    assert not np.array_equal(SD.call(with_lora), plain)


def test_an_adapter_and_added_tokens_together(with_lora):
    add_token(with_lora)
    original = SD.call(with_lora, prompt="a <style> cup")
    swap = DiffusersHost.swap(with_lora, {"text_encoder": text()})
    assert np.array_equal(SD.call(with_lora, prompt="a <style> cup"), original)
    swap.undo()
    assert np.array_equal(SD.call(with_lora, prompt="a <style> cup"), original)


def test_a_fused_adapter_is_refused_until_it_is_unfused(with_lora):
    with silent():
        with_lora.fuse_lora(components=["text_encoder", "unet"])
    before = state(with_lora)
    with pytest.raises(HostError, match=r"fused.*unfuse_lora\(components=\['text_encoder'\]\)"):
        DiffusersHost.swap(with_lora, {"text_encoder": text()})
    assert state(with_lora) == before
    with silent():
        with_lora.unfuse_lora(components=["text_encoder", "unet"])
    DiffusersHost.swap(with_lora, {"text_encoder": text()})


def test_an_adapter_fused_and_unloaded_is_refused_but_one_fused_into_the_unet_is_not(with_lora):
    with silent():
        with_lora.fuse_lora(components=["unet"])
    DiffusersHost.swap(with_lora, {"text_encoder": text()}).undo()
    with silent():
        with_lora.unload_lora_weights()
    before = state(with_lora)
    with pytest.raises(HostError, match=r"fused LoRA \['line', 'style'\] and unloaded it.*protect it, then load"):
        DiffusersHost.swap(with_lora, {"text_encoder": text()})
    assert state(with_lora) == before


# --- offload ---------------------------------------------------------------------------------------------------------
def test_an_offloaded_pipeline_hooks_the_new_tower_before_its_first_call():
    pipe, plain = SD.build(), SD.build()
    pipe.enable_model_cpu_offload(device="cpu:0")
    original, mine = SD.call(pipe), other(plain.text_encoder)
    swap = DiffusersHost.swap(pipe, {"text_encoder": mine})
    assert type(pipe.text_encoder._hf_hook).__name__ == "CpuOffload"
    assert offload.find(pipe) == offload.Offload("model", CPU)
    plain.text_encoder = mine if pipe.text_encoder is not mine else copy.deepcopy(other(plain.text_encoder))
    first = SD.call(pipe)
    assert np.array_equal(first, SD.call(plain))
    assert not np.array_equal(first, original)
    swap.undo()
    assert offload.find(pipe) == offload.Offload("model", CPU)
    assert np.array_equal(SD.call(pipe), original)
    pipe.text_encoder = text()  # what the one-line swap does
    assert not hasattr(pipe.text_encoder, "_hf_hook")


def test_sequential_offload_is_taken_off_and_made_again():
    """Its hooks and weights are looked at; running it needs another device than the CPU."""
    pipe, mine = SD.build(), other(text())
    weights = fingerprint(pipe.text_encoder)
    pipe.enable_sequential_cpu_offload(device="cpu:0")
    swap = DiffusersHost.swap(pipe, {"text_encoder": mine})
    assert offload.find(pipe) == offload.Offload("sequential", CPU)
    assert all(weight.is_meta for weight in pipe.text_encoder.parameters())
    pipe.remove_all_hooks()
    assert fingerprint(pipe.text_encoder) == fingerprint(other(text())) != weights
    pipe.enable_sequential_cpu_offload(device="cpu:0")
    swap.undo()
    assert all(weight.is_meta for weight in pipe.text_encoder.parameters())
    pipe.remove_all_hooks()
    assert fingerprint(pipe.text_encoder) == weights


def test_lora_tokens_and_offload_together(with_lora):
    add_token(with_lora)
    original = SD.call(with_lora, prompt="a <style> cup")
    with_lora.enable_model_cpu_offload(device="cpu:0")
    DiffusersHost.swap(with_lora, {"text_encoder": text()})
    assert np.array_equal(SD.call(with_lora, prompt="a <style> cup"), original)


# --- pipelines made from this one ------------------------------------------------------------------------------------
def test_pipelines_made_before_are_pointed_out_and_left_alone():
    import diffusers

    pipe = SD.build()
    with silent():
        made = diffusers.StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    made.set_progress_bar_config(disable=True)
    own, before = pipe.text_encoder, PIPELINES[IMG2IMG].call(made)
    swap = DiffusersHost.swap(pipe, {"text_encoder": other(own)})
    assert f"another {IMG2IMG} made from this one still holds the original text_encoder" in swap.notes
    assert made.text_encoder is own
    assert np.array_equal(PIPELINES[IMG2IMG].call(made), before)
    with silent():
        after = diffusers.StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    assert after.text_encoder is pipe.text_encoder
    del after
    swap.undo()
    assert pipe.text_encoder is own  # the very object, since it lives


def test_a_pipeline_of_its_own_is_not_pointed_out():
    _stranger = SD.build()
    assert not DiffusersHost.swap(SD.build(), {"text_encoder": text()}).notes


def test_an_offloaded_pipeline_that_shares_the_original_keeps_it_hooked():
    import diffusers

    pipe = SD.build()
    pipe.enable_model_cpu_offload(device="cpu:0")
    with silent():
        made = diffusers.StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    made.set_progress_bar_config(disable=True)
    DiffusersHost.swap(pipe, {"text_encoder": other(text())})
    assert type(made.text_encoder._hf_hook).__name__ == "CpuOffload"
    PIPELINES[IMG2IMG].call(made)


# --- what is set aside -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("offloaded", [False, True])
def test_the_original_is_not_kept_in_memory(offloaded):
    pipe = SD.build()
    if offloaded:
        pipe.enable_model_cpu_offload(device="cpu:0")
    gone, weights, tied = weakref.ref(pipe.text_encoder), fingerprint(pipe.text_encoder), pipe.text_encoder.config
    flags = [weight.requires_grad for weight in pipe.text_encoder.parameters()]
    gc.disable()  # no cycle may hold it either
    try:
        swap = DiffusersHost.swap(pipe, {"text_encoder": text()})
        assert gone() is None
    finally:
        gc.enable()
    swap.undo()
    assert fingerprint(pipe.text_encoder) == weights
    assert pipe.text_encoder.config.to_dict() == tied.to_dict()
    assert [weight.requires_grad for weight in pipe.text_encoder.parameters()] == flags


def test_a_special_original_stays_in_memory_and_comes_back_itself():
    pipe = SD.build()
    own = pipe.text_encoder
    handle = own.register_forward_hook(lambda *_: None)
    gone = weakref.ref(own)
    swap = DiffusersHost.swap(pipe, {"text_encoder": text()})
    assert "text_encoder: the original stays in memory, since it has hooks" in swap.notes
    del own
    swap.undo()
    assert pipe.text_encoder is gone()
    handle.remove()


def test_an_original_is_held_when_there_is_no_room_for_it(monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool.tempfile, "TemporaryFile", full)
    pipe = SD.build()
    gone = weakref.ref(pipe.text_encoder)
    swap = DiffusersHost.swap(pipe, {"text_encoder": text()})
    assert any("no room for a temporary file (No space left on device)" in note for note in swap.notes)
    swap.undo()
    assert pipe.text_encoder is gone()


def test_undo_is_done_once():
    pipe = SD.build()
    swap = DiffusersHost.swap(pipe, {"text_encoder": text()})
    swap.undo()
    own = pipe.text_encoder
    swap.undo()
    assert pipe.text_encoder is own


def test_a_swap_does_not_keep_its_pipeline_alive():
    pipe = SD.build()
    swap = DiffusersHost.swap(pipe, {"text_encoder": text()})
    gone = weakref.ref(pipe)
    del pipe
    gc.collect()
    assert gone() is None
    swap.undo()


def test_nothing_is_drawn_from_the_global_random_state():
    pipe = SD.build()
    add_token(pipe)
    before = torch.get_rng_state()
    DiffusersHost.swap(pipe, {"text_encoder": text()}).undo()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("spooled", [True, False], ids=["rebuilt", "living"])
def test_what_was_loaded_since_stays_after_undo(spooled):
    pipe, twin = SD.build(), SD.build()
    held = None if spooled else pipe.text_encoder
    swap = DiffusersHost.swap(pipe, {"text_encoder": other(text())})
    for one in (pipe, twin):
        add_token(one)
        with silent():
            one.load_lora_weights(lora(one), adapter_name="style")
    swap.undo()
    assert held is None or pipe.text_encoder is held
    assert np.array_equal(SD.call(pipe, prompt="a <style> cup"), SD.call(twin, prompt="a <style> cup"))
    assert pipe.get_list_adapters() == twin.get_list_adapters()


@pytest.mark.parametrize("spooled", [True, False], ids=["rebuilt", "living"])
def test_what_was_unloaded_since_does_not_come_back(spooled):
    pipe = SD.build()
    plain = SD.call(pipe)
    add_token(pipe)
    with silent():
        pipe.load_lora_weights(lora(pipe), adapter_name="style")
    held = None if spooled else pipe.text_encoder
    swap = DiffusersHost.swap(pipe, {"text_encoder": other(text())})
    pipe.unload_textual_inversion("<style>", pipe.tokenizer, pipe.text_encoder)
    pipe.unload_textual_inversion("<style>_1", pipe.tokenizer, pipe.text_encoder)
    pipe.unload_lora_weights()
    swap.undo()
    assert held is None or pipe.text_encoder is held
    assert np.array_equal(SD.call(pipe), plain)
    assert pipe.get_list_adapters() == {}
    assert len(pipe.text_encoder.get_input_embeddings().weight) == len(pipe.tokenizer)
    with silent():
        pipe.load_lora_weights(lora(pipe), adapter_name="style")
    assert not np.array_equal(SD.call(pipe), plain)


def test_undo_is_refused_while_a_lora_is_fused_into_the_tower():
    pipe = SD.build()
    swap = DiffusersHost.swap(pipe, {"text_encoder": other(text())})
    with silent():
        pipe.load_lora_weights(lora(pipe), adapter_name="style")
        pipe.fuse_lora(components=["text_encoder"])
    before = state(pipe)
    with pytest.raises(HostError, match="unfuse_lora"):
        swap.undo()
    assert state(pipe) == before
    pipe.unfuse_lora(components=["text_encoder"])
    swap.undo()


def test_a_tower_of_somebody_else_is_replaced_by_the_original():
    pipe = SD.build()
    weights = fingerprint(pipe.text_encoder)
    swap = DiffusersHost.swap(pipe, {"text_encoder": other(text())})
    pipe.text_encoder = other(text(), 9)
    swap.undo()
    assert fingerprint(pipe.text_encoder) == weights


def test_a_compiled_original_comes_back_compiled():
    pipe = SD.build()
    pipe.text_encoder = torch.compile(pipe.text_encoder)
    own = pipe.text_encoder
    swap = DiffusersHost.swap(pipe, {"text_encoder": text()})
    assert type(pipe.text_encoder).__name__ == "CLIPTextModel"
    assert "text_encoder: the original stays in memory, since OptimizedModule is no plain layer" in swap.notes
    swap.undo()
    assert pipe.text_encoder is own


# --- failures on the way ---------------------------------------------------------------------------------------------
STAGES = [
    (offload.Offload, "remove"),
    (ours, "_prepared"),
    (carry, "tokens"),
    (carry, "adapters"),
    (ours, "Original"),
    (ours, "_install"),
    (offload.Offload, "make"),
    (ours, "_note_shared"),
]


@pytest.mark.parametrize("late", [False, True], ids=["at once", "when done"])
@pytest.mark.parametrize(("where", "name"), STAGES, ids=[name for _, name in STAGES])
def test_a_failure_at_any_stage_leaves_the_host_as_it_was(with_lora, monkeypatch, where, name, late):
    add_token(with_lora)
    original = SD.call(with_lora, prompt="a <style> cup")
    with_lora.enable_model_cpu_offload(device="cpu:0")
    before, mine = state(with_lora), text()
    given = (fingerprint(mine), mine.config.vocab_size)
    right, calls = getattr(where, name), []

    def wrong(*args, **kwargs):
        calls.append(name)
        if len(calls) > 1:  # what puts things back must work
            return right(*args, **kwargs)
        if late:
            right(*args, **kwargs)
        raise RuntimeError("injected")

    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(RuntimeError, match="injected"):
        DiffusersHost.swap(with_lora, {"text_encoder": mine})
    assert calls
    assert state(with_lora) == before
    assert (fingerprint(mine), mine.config.vocab_size) == given
    assert np.array_equal(SD.call(with_lora, prompt="a <style> cup"), original)


def test_undo_is_refused_on_a_host_that_is_offloaded_in_a_way_that_cannot_be_made_again():
    pipe = SD.build()
    swap = DiffusersHost.swap(pipe, {"text_encoder": other(text())})
    pipe.hf_device_map = {"unet": "cpu", "text_encoder": "cpu"}
    before = state(pipe)
    with pytest.raises(HostError, match="reset_device_map"):
        swap.undo()
    assert state(pipe) == before


@pytest.mark.parametrize("name", ["_restored", "_put_back"])
def test_a_failure_of_undo_leaves_the_swap_as_it_was(monkeypatch, name):
    pipe = SD.build()
    swap = DiffusersHost.swap(pipe, {"text_encoder": other(text())})
    before, where = state(pipe), ours.Swap if name == "_restored" else ours
    right, calls = getattr(where, name), []

    def wrong(*args):
        calls.append(name)
        if len(calls) > 1:
            return right(*args)
        raise RuntimeError("injected")

    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(RuntimeError, match="injected"):
        swap.undo()
    assert state(pipe) == before
    swap.undo()
    assert fingerprint(pipe.text_encoder) == fingerprint(text())


# --- bad hosts -------------------------------------------------------------------------------------------------------
def refused(host, towers, error, match):
    """Try, and look at the host before and after."""
    before = state(host)
    for act in (DiffusersHost.check, DiffusersHost.swap):
        with pytest.raises(error, match=match):
            act(host, towers)
    assert state(host) == before


def test_a_wrong_object_is_refused():
    with pytest.raises(HostError, match="expected a diffusers pipeline, got Linear; pass the pipeline itself"):
        DiffusersHost.check(torch.nn.Linear(1, 1), {})


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "scheduler"])
def test_a_half_loaded_pipeline_is_refused(name):
    pipe = SD.build()
    pipe.register_modules(**{name: None})
    refused(pipe, {"text_encoder": text()}, HostError, f"StableDiffusionPipeline is half loaded: {name} is None; load")


def test_a_modular_pipeline_without_components_is_refused():
    import diffusers

    pipe = diffusers.modular_pipelines.StableDiffusionXLAutoBlocks().init_pipeline()
    refused(pipe, {"text_encoder": text()}, HostError, "half loaded: .*unet.*load_components")


def test_a_pipeline_on_meta_is_refused():
    pipe = SD.build()
    pipe.unet.to("meta")
    refused(
        pipe, {"text_encoder": text()}, HostError, "unet of the StableDiffusionPipeline is on the meta device.*load"
    )


def test_a_tokenizer_without_end_of_text_is_refused():
    pipe = SD.build()
    pipe.tokenizer._tokenizer.post_processor = None
    refused(
        pipe, {"text_encoder": text()}, HostError, "expected a tokenizer that ends every prompt with its end-of-text"
    )


def test_a_missing_tokenizer_is_refused():
    pipe = SD.build()
    pipe.register_modules(tokenizer=None)
    refused(pipe, {"text_encoder": text()}, HostError, "'text_encoder' has no tokenizer; load the whole pipeline")


def test_a_token_added_to_the_tokenizer_alone_is_refused():
    pipe = SD.build()
    pipe.tokenizer.add_tokens("<lost>")
    refused(pipe, {"text_encoder": text()}, HostError, "added to one alone.*load_textual_inversion")


def test_rows_that_no_added_token_explains_are_refused():
    pipe = SD.build()
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer) + 3, mean_resizing=False)
    refused(pipe, {"text_encoder": text()}, FitError, "expected a tower of vocab_size")


def test_hooks_of_diffusers_and_device_maps_are_refused():
    from diffusers.hooks import apply_group_offloading

    pipe = SD.build()
    pipe.hf_device_map = {"unet": "cpu", "text_encoder": "cpu"}
    refused(pipe, {"text_encoder": text()}, HostError, r"device map.*reset_device_map\(\).*then offload it")
    pipe.hf_device_map = None
    apply_group_offloading(pipe.unet, CPU, CPU, offload_type="leaf_level")
    refused(pipe, {"text_encoder": text()}, HostError, "unet has hooks of diffusers .*group_offloading")


def test_an_unknown_slot_and_no_slot_are_refused():
    refused(
        SD.build(), {"text_encoder_2": text()}, FitError, r"some of the slots \['image_encoder', 'text_encoder'\], got"
    )
    refused(SD.build(), {}, FitError, "got no tower at all")


@pytest.mark.parametrize("late", ["text_encoder", "text_encoder_2"])
def test_one_wrong_tower_among_several_refuses_all(late):
    pipe = SDXL.build()
    good = {"text_encoder": text(), "text_encoder_2": text(projection=True)}
    wrong = text(projection=late == "text_encoder")
    refused(pipe, good | {late: wrong}, FitError, f"slot '{late}': expected a plain CLIPTextModel")
    DiffusersHost.swap(pipe, {"text_encoder": text()})  # the smaller tower alone is no error: the coverage says so


def test_a_modular_pipeline_that_shares_offloaded_components_is_refused():
    """It has no way to make the offloading of another pipeline again."""
    import diffusers

    whole = SDXL.build()
    whole.enable_model_cpu_offload(device="cpu:0")
    pipe = diffusers.modular_pipelines.StableDiffusionXLAutoBlocks().init_pipeline()
    pipe.update_components(**{name: part for name, part in whole.components.items() if part is not None})
    refused(pipe, {"text_encoder": text()}, HostError, r"another pipeline that shares.*remove_all_hooks\(\)")


# --- modular pipelines -----------------------------------------------------------------------------------------------
def test_a_components_manager_holds_the_new_tower_and_not_the_old():
    import diffusers

    manager, parts = diffusers.ComponentsManager(), SDXL.build().components
    pipe = diffusers.modular_pipelines.StableDiffusionXLAutoBlocks().init_pipeline(components_manager=manager)
    with silent():
        pipe.update_components(**{name: part for name, part in parts.items() if part is not None})
    own, mine = pipe.text_encoder, text()
    with silent():
        swap = DiffusersHost.swap(pipe, {"text_encoder": mine})
    held = [id(part) for part in manager.components.values()]
    assert id(mine) in held
    assert id(own) not in held
    with silent():
        swap.undo()
    held = [id(part) for part in manager.components.values()]
    assert id(own) in held
    assert id(mine) not in held
