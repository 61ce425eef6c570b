"""open_clip: the same numbers there and back, folders that it loads, its models as hosts of safe towers."""

import copy
import json
import pickle
import re
import shutil
import sys
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_hub import FakeHub, aim
from PIL import Image
from transformers import BlipConfig, BlipModel, CLIPConfig, CLIPImageProcessorPil, CLIPModel

import safeencoders
from safeencoders import openclip
from safeencoders.errors import BadInputError, FitError, HostError, MissingExtraError
from safeencoders.integrations import hosts
from safeencoders.integrations import open_clip as models_of_it
from safeencoders.integrations.open_clip import from_open_clip, read, save, view
from safeencoders.loading import load
from safeencoders.pictoworld import models, renderer, scenes
from safeencoders.pictoworld import tokenizer as world_tokenizer

open_clip = pytest.importorskip("open_clip", reason="the extra openclip is not installed")

TOLERANCE = 1e-5
VOCABULARY = 300
QUICK, EXACT = {"hidden_act": "quick_gelu"}, {"hidden_act": "gelu"}


def config(text=(32, 2, 2, 64), vision=(48, 3, 2, 96), patch=16, size=64, dim=24, act=QUICK, **more):
    """Give a CLIPConfig; a tower is its width, heads, layers and inner width."""
    names = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size")
    ids = {"vocab_size": VOCABULARY, "eos_token_id": VOCABULARY - 1, "bos_token_id": VOCABULARY - 2, "pad_token_id": 0}
    read = {"max_position_embeddings": 16, "projection_dim": dim}
    return CLIPConfig(
        text_config=dict(zip(names, text, strict=True)) | ids | read | act | more.get("text_more", {}),
        vision_config=dict(zip(names, vision, strict=True))
        | {"patch_size": patch, "image_size": size, "projection_dim": dim}
        | act
        | more.get("vision_more", {}),
        projection_dim=dim,
    )


CONFIGS = {
    "ViT-B-32": config((32, 2, 3, 128), (48, 3, 3, 192), patch=32, dim=32),
    "ViT-L-14": config((48, 3, 2, 192), (64, 4, 4, 256), patch=14, size=56, dim=48),
    "ViT-H-14": config((64, 4, 4, 256), (80, 5, 3, 320), patch=14, size=28, dim=64, act=EXACT),
    "ViT-bigG-14": config((40, 5, 2, 160), (52, 4, 2, 256), patch=14, size=28, dim=40, act=EXACT),
    "of-2021": config(text_more={"eos_token_id": 2}),
    "other-norms": config(text_more={"layer_norm_eps": 1e-3}, vision_more={"layer_norm_eps": 1e-2}),
    "one-layer-odd-rest": config((8, 1, 1, 9), (10, 5, 1, 7), patch=15, size=64, dim=3),
}
SHAPES = pytest.mark.parametrize("shape", CONFIGS.values(), ids=CONFIGS)


def make(shape, seed=0):
    """Give a CLIPModel in which no weight, norm or bias has a value that hides a mistake."""
    torch.manual_seed(seed)
    clip = CLIPModel(shape).eval().requires_grad_(False)
    for value in clip.parameters():
        value.add_(torch.randn_like(value), alpha=0.2)
    return clip


def inputs(shape, n=4):
    draw = torch.Generator().manual_seed(n)
    length, size = shape.text_config.max_position_embeddings, shape.vision_config.image_size
    ids = torch.randint(3, VOCABULARY - 2, (n, length), generator=draw)
    ids[:, 0], ids[torch.arange(n), torch.arange(n) + 5] = VOCABULARY - 2, VOCABULARY - 1
    return ids, torch.randn(n, 3, size, size, generator=draw)


@torch.no_grad()
def embeddings(model, ids, pixels):
    """Give text and image embeddings of a CLIPModel or an open_clip model, not normalised."""
    if isinstance(model, CLIPModel):
        texts, images = model.get_text_features(input_ids=ids), model.get_image_features(pixel_values=pixels)
        return texts.pooler_output, images.pooler_output
    return model.encode_text(ids), model.encode_image(pixels)


def distance(one, two):
    return [float((a - b).abs().max()) for a, b in zip(one, two, strict=True)]


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def blip():
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BlipModel(BlipConfig(text_config=small | {"vocab_size": 50}, vision_config=small))


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def world():
    """Give the world's original CLIP as an open_clip model."""
    return copy.deepcopy(loaded("none"))


@cache
def loaded(name, strength=1.0):
    return load(name, backend="open_clip", strength=strength)


@cache
def tower(name, kind):
    return load(name, tower=kind)


@pytest.fixture(scope="module")
def captions():
    return world_tokenizer.encode(models.tokenizer(), [quad.unsafe_text for quad in scenes.quads("test", 6, 0)])


# --- there and back ---------------------------------------------------------------------------------------------------
@SHAPES
def test_both_towers_put_out_the_same(shape):
    clip, read_by_both = make(shape), inputs(shape)
    model = openclip.build(clip)
    assert max(distance(embeddings(clip, *read_by_both), embeddings(model, *read_by_both))) <= TOLERANCE
    with torch.no_grad():
        theirs, _ = model.get_logits(read_by_both[1], read_by_both[0])
        ours = clip(input_ids=read_by_both[0], pixel_values=read_by_both[1]).logits_per_image
    assert torch.allclose(theirs, ours, atol=1e-4)
    assert not model.training
    assert not any(value.requires_grad for value in model.parameters())


@SHAPES
def test_with_the_other_activation_they_do_not(shape, monkeypatch):
    clip, read_by_both = make(shape), inputs(shape)
    before = embeddings(clip, *read_by_both)
    monkeypatch.setattr(openclip, "QUICK_GELU", {name: not quick for name, quick in openclip.QUICK_GELU.items()})
    assert min(distance(before, embeddings(openclip.build(clip), *read_by_both))) > 100 * TOLERANCE


@pytest.mark.parametrize(("one", "other"), ["qk", "kv", "qv"])
def test_queries_keys_and_values_in_another_order_put_out_something_else(one, other):
    clip = make(CONFIGS["ViT-L-14"])
    read_by_both, state = inputs(clip.config), clip.state_dict()
    before = embeddings(clip, *read_by_both)
    swapped = {name: state[_exchanged(name, one, other)] for name in state}
    clip.load_state_dict(swapped)
    assert min(distance(before, embeddings(openclip.build(clip), *read_by_both))) > 100 * TOLERANCE


def _exchanged(name, one, other):
    return re.sub(rf"\.([{one}{other}])_proj", lambda found: f".{other if found[1] == one else one}_proj", name)


@SHAPES
@pytest.mark.parametrize("custom_text", [False, True])
def test_there_and_back_no_bit_changes(shape, custom_text):
    clip = make(shape)
    model = openclip.build(clip)
    if custom_text:
        model = _custom(model, clip.config)
    again = from_open_clip(model)
    assert same(again.state_dict(), clip.state_dict())
    for part in ("text_config", "vision_config"):
        theirs, ours = getattr(again.config, part).to_dict(), getattr(clip.config, part).to_dict()
        unknown = {"bos_token_id", "pad_token_id", "dtype"}
        assert {k: v for k, v in theirs.items() if k not in unknown} == {
            k: v for k, v in ours.items() if k not in unknown
        }
    assert again.config.projection_dim == clip.config.projection_dim
    assert distance(embeddings(again, *inputs(shape)), embeddings(clip, *inputs(shape))) == [0, 0]
    model.visual.conv1.weight.data[0, 0, 0, 0] += 1e-3
    assert not same(from_open_clip(model).state_dict(), clip.state_dict())


def _custom(model, shape):
    custom = open_clip.CustomTextCLIP(**openclip.model_config(shape))
    state = open_clip.model.convert_to_custom_text_state_dict(model.state_dict())
    custom.load_state_dict(state)
    return custom.eval()


def test_what_comes_back_has_its_own_memory():
    clip = make(CONFIGS["ViT-B-32"])
    before, model = weights(clip), openclip.build(clip)
    again = from_open_clip(model)
    for value in model.parameters():
        value.zero_()
    assert same(clip.state_dict(), before)
    assert same(again.state_dict(), before)


def test_the_text_is_pooled_at_the_same_place_with_tokens_beyond_its_end():
    ends = {"of-2021": "the largest id", "ViT-B-32": "the first end of text"}
    found = {}
    for name in ends:
        shape = copy.deepcopy(CONFIGS[name])
        shape.text_config.vocab_size += 5  # tokens that were added behind the end of text
        clip = make(shape)
        ids, pixels = inputs(shape)
        ids[:, 3] = shape.text_config.vocab_size - 1
        assert max(distance(embeddings(clip, ids, pixels), embeddings(openclip.build(clip), ids, pixels))) <= TOLERANCE
        found[name] = openclip.model_config(shape)["text_cfg"].get("pool_type", "argmax")
    assert found == {"of-2021": "argmax", "ViT-B-32": "eos"}


def test_every_inner_width_is_what_open_clip_computes_from_its_ratio():
    pairs = [(inner, width) for width in (512, 640, 768, 1024, 1280, 1408, 1664) for inner in range(1, 9000, 7)]
    assert all(int(width * openclip._ratio(inner, width)) == inner for inner, width in pairs)
    assert any(int(width * (inner / width)) != inner for inner, width in pairs)


REFUSED = {
    "two activations": (config(text_more=EXACT), "one activation for both towers"),
    "gelu_new": (config(act={"hidden_act": "gelu_new"}), "got 'gelu_new' for text"),
    "grey pictures": (config(vision_more={"num_channels": 1}), "num_channels 1"),
    "several ends": (config(text_more={"eos_token_id": [3, 4]}), "one eos_token_id"),
}


@pytest.mark.parametrize(("shape", "text"), REFUSED.values(), ids=REFUSED)
def test_a_clip_that_open_clip_has_not_is_refused(shape, text):
    with pytest.raises(BadInputError, match=text):
        openclip.model_config(shape)


# --- pictures --------------------------------------------------------------------------------------------------------
PROCESSORS = {
    "CLIP's": {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}},
    "the world's": {"size": {"height": 56, "width": 56}, "do_center_crop": False, "image_mean": [0.5] * 3},
    "bilinear": {"size": {"height": 56, "width": 56}, "do_center_crop": False, "resample": 2},
}


@pytest.mark.parametrize("options", PROCESSORS.values(), ids=PROCESSORS)
@pytest.mark.parametrize("size", [(64, 64), (37, 80), (333, 217)])  # an odd surplus is cropped one pixel beside it
def test_pictures_are_prepared_as_the_processor_prepares_them(options, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    picture, processor = Image.fromarray(pixels), CLIPImageProcessorPil(**options)
    model = openclip.build(make(config(patch=14, size=56)), processor.to_dict())
    prepare = open_clip.transform.image_transform_v2
    ours = processor(picture, return_tensors="pt").pixel_values[0]
    theirs = prepare(open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)(picture)
    assert float((ours - theirs).abs().max()) <= TOLERANCE
    wrong = model.visual.preprocess_cfg | {"std": [0.9] * 3}
    theirs = prepare(open_clip.transform.PreprocessCfg(**wrong), is_train=False)(picture)
    assert float((ours - theirs).abs().max()) > 0.1


@pytest.mark.parametrize("options", [{"resample": 0}, {"size": {"shortest_edge": 224}}, {"do_normalize": False}])
def test_a_processor_that_open_clip_has_not_is_refused(options):
    processor = CLIPImageProcessorPil(**(PROCESSORS["CLIP's"] | options))
    with pytest.raises(BadInputError, match="pass the processor of this CLIP"):
        openclip.preprocessing(processor.to_dict(), 56)


# --- folders ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(world, tmp_path):
    save(world, tmp_path / "world", tokenizer=models.tokenizer(), repo="somebody/world")
    return tmp_path / "world"


def test_open_clip_loads_the_folder(folder, world, captions):
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert same(model.state_dict(), world.state_dict())
    pixels = torch.randn(2, 3, 64, 64)
    assert max(distance(embeddings(model.eval(), captions, pixels), embeddings(world, captions, pixels))) <= TOLERANCE
    assert prepare(Image.new("RGB", (64, 64))).shape == (3, 64, 64)
    assert float(prepare(Image.new("RGB", (64, 64))).max()) == -1  # the world's mean and deviation are one half
    texts = models.tokenizer().batch_decode(captions, skip_special_tokens=True)
    assert torch.equal(open_clip.get_tokenizer(f"local-dir:{folder}")(texts), captions)


def test_the_same_files_load_from_the_hub(folder, world, captions, tmp_path, monkeypatch):
    hub = FakeHub()
    aim(monkeypatch, hub, tmp_path / "cache")
    try:
        hub.publish("somebody/world", {path.name: path.read_bytes() for path in folder.iterdir()})
        model, _, _ = open_clip.create_model_and_transforms("hf-hub:somebody/world")
        assert same(model.state_dict(), world.state_dict())
        texts = models.tokenizer().batch_decode(captions, skip_special_tokens=True)
        assert torch.equal(open_clip.get_tokenizer("hf-hub:somebody/world")(texts), captions)
    finally:
        hub.close()


@SHAPES
def test_a_folder_read_back_is_bit_equal(shape, tmp_path):
    class Tokenizer:  # of which only these are asked
        save_pretrained = staticmethod(lambda _place: None)
        __len__ = staticmethod(lambda: VOCABULARY)

    clip = make(shape)
    save(openclip.build(clip), tmp_path / "clip", tokenizer=Tokenizer())
    assert same(read(tmp_path / "clip").state_dict(), clip.state_dict())


def test_clips_own_vocabulary_needs_no_tokenizer(tmp_path):
    shape = config(text_more={"vocab_size": 49408, "eos_token_id": 49407, "max_position_embeddings": 77})
    model = openclip.build(make(shape))
    save(model, tmp_path / "clip")
    texts = ["A photo of a cat, isn't it? 123", "hello   World!", "naïve café", ""]
    theirs = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'clip'}")(texts)
    ours = hosts.get("open_clip").slots(model)[0].tokenizer
    for text, row in zip(texts, theirs.tolist(), strict=True):
        ids = ours(text).input_ids
        assert ids == row[: len(ids)]
        assert not any(row[len(ids) :])


def test_without_its_tokenizer_another_vocabulary_is_not_saved(world, tmp_path):
    with pytest.raises(BadInputError, match="expected the tokenizer of this model's 1583 tokens, got none"):
        save(world, tmp_path / "world")
    assert not list(tmp_path.iterdir())


def _rewritten(change):
    def damage(folder):
        path = folder / models_of_it.CONFIG
        content = json.loads(path.read_text())
        change(content["model_cfg"])
        path.write_text(json.dumps(content))

    return damage


DAMAGES = {
    "another activation": (_rewritten(lambda cfg: cfg.update(quick_gelu=False)), "expected quick_gelu True"),
    "another resolution": (_rewritten(lambda cfg: cfg["vision_cfg"].update(image_size=32)), "positional_embedding"),
    "an unknown option": (_rewritten(lambda cfg: cfg["text_cfg"].update(colour=1)), "colour"),
    "towers of timm": (_rewritten(lambda cfg: cfg["vision_cfg"].update(timm_model_name="vit")), "none of CLIP's"),
    "other pooling": (_rewritten(lambda cfg: cfg["vision_cfg"].update(pool_type="avg")), "class token"),
    "no weights": (lambda folder: (folder / models_of_it.WEIGHTS).unlink(), "expected an open_clip model"),
    "cut off": (lambda folder: (folder / models_of_it.WEIGHTS).write_bytes(b"123"), "expected an open_clip model"),
    "no config": (lambda folder: (folder / models_of_it.CONFIG).unlink(), "expected a JSON file"),
}


@pytest.mark.parametrize(("damage", "text"), DAMAGES.values(), ids=DAMAGES)
def test_a_folder_that_is_not_what_it_says_is_refused(damage, text, folder):
    assert read(folder)
    damage(folder)
    with pytest.raises(BadInputError, match=text):
        read(folder)


# --- load ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["pictoworld", "pictoworld/safe-clip", "none"])
def test_load_returns_both_towers_of_an_encoder(name, captions):
    model, pixels = loaded(name), torch.randn(2, 3, 64, 64)
    text, vision = (load(name, tower=tower, projection=True) for tower in ("text", "vision"))
    with torch.no_grad():
        ours = text(input_ids=captions).text_embeds, vision(pixel_values=pixels).image_embeds
    assert max(distance(ours, embeddings(model, captions, pixels))) <= TOLERANCE
    assert float(model.logit_scale) == float(models.clip().logit_scale)
    assert not model.training
    half = load(name, backend="open_clip", dtype=torch.bfloat16)
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}


def test_strength_holds_for_both_towers(captions):
    pixels = torch.randn(2, 3, 64, 64)
    found = {s: embeddings(loaded("pictoworld", s), captions, pixels) for s in (0.0, 0.5, 1.0)}
    assert max(distance(found[0.0], embeddings(loaded("none"), captions, pixels))) <= 1e-4
    assert min(distance(found[0.5], found[0.0])) > 0.01 < min(distance(found[0.5], found[1.0]))


def test_load_reads_a_folder_that_holds_a_whole_clip(tmp_path):
    clip = make(CONFIGS["ViT-B-32"])
    clip.save_pretrained(tmp_path / "clip")
    CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False).save_pretrained(tmp_path / "clip")
    model = load(str(tmp_path / "clip"), backend="open_clip")
    assert same(from_open_clip(model).state_dict(), clip.state_dict())
    assert model.visual.preprocess_cfg["resize_mode"] == "squash"


def test_an_image_encoder_with_its_projection_comes_from_an_open_clip_folder(folder, world, tmp_path):
    read(folder).save_pretrained(tmp_path / "plain")  # as IP-Adapter wants it: CLIPVisionModelWithProjection
    encoder, pixels = load(str(tmp_path / "plain"), tower="vision", projection=True), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found = encoder(pixel_values=pixels).image_embeds
    assert float((found - world.encode_image(pixels)).abs().max()) <= TOLERANCE
    assert float((found - loaded("pictoworld").encode_image(pixels)).abs().max()) > 0.1
    assert same(load(str(tmp_path / "plain")).state_dict(), models.clip().text_model.state_dict())


def test_load_refuses_what_is_no_whole_clip(tmp_path):
    load("none").save_pretrained(tmp_path / "text")
    with pytest.raises(BadInputError, match=r"expected an encoder that is a whole CLIP.*vision.*protect"):
        load(str(tmp_path), backend="open_clip")
    with pytest.raises(BadInputError, match="expected neither tower nor projection"):
        load("none", tower="vision", backend="open_clip")
    with pytest.raises(BadInputError, match="expected backend"):
        load("none", backend="openclip")


@pytest.mark.parametrize("missing", ["open_clip", "torchvision"])
def test_what_is_missing_is_named_with_its_extra(missing, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "open_clip"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=rf"open_clip_torch, with a torchvision.*{missing}") as caught:
        load("none", backend="open_clip")
    assert caught.value.extra == "openclip"
    assert 'pip install "safeencoders[openclip]"' in str(caught.value)


# --- a host ----------------------------------------------------------------------------------------------------------
HOST = "open_clip"


def towers(name="pictoworld"):
    return {"text": tower(name, "text"), "visual": tower(name, "vision")}


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("names", [("text",), ("visual",), ("text", "visual")])
def test_a_swap_puts_towers_in_and_takes_them_out_again(custom_text, names, world, captions):
    model, pixels, new = world, torch.randn(2, 3, 64, 64), towers()
    if custom_text:
        model = _custom(world, models.clip().config)
    before, held = embeddings(model, captions, pixels), weights(model)
    swap = hosts.get(HOST).swap(model, {name: new[name] for name in names})
    after, tuned = embeddings(model, captions, pixels), embeddings(loaded("pictoworld"), captions, pixels)
    for name, was, now, wanted in zip(("text", "visual"), before, after, tuned, strict=True):
        assert float((now - wanted).abs().max()) <= TOLERANCE if name in names else torch.equal(now, was)
        assert name not in names or float((now - was).abs().max()) > 0.1
    assert set(swap.towers) == set(names)
    assert all(same(swap.towers[name].state_dict(), new[name].state_dict()) for name in names)
    swap.undo()
    assert same(model.state_dict(), held)
    swap.undo()
    assert same(model.state_dict(), held)


def test_an_identity_tower_changes_no_bit(world):
    held = weights(world)
    own = {slot.name: copy.deepcopy(slot.tower) for slot in hosts.get(HOST).slots(world)}
    hosts.get(HOST).swap(world, own)
    assert same(world.state_dict(), held)


def test_a_view_is_the_models_own_memory(world):
    seen = view(world, "text")
    with torch.no_grad():
        world.transformer.resblocks[1].attn.in_proj_weight.fill_(0.25)
    for letter in "qkv":
        weight = getattr(seen.encoder.layers[1].self_attn, f"{letter}_proj").weight
        assert torch.equal(weight, torch.full_like(weight, 0.25))
    assert world.state_dict().keys() == loaded("none").state_dict().keys()


@pytest.mark.parametrize("precision", ["fp16", "bf16", "pure_bf16"])
def test_a_swap_keeps_the_models_number_formats(precision, folder):
    model = open_clip.create_model(f"local-dir:{folder}", precision=precision)
    held, formats = weights(model), {name: value.dtype for name, value in model.named_parameters()}
    swap = hosts.get(HOST).swap(model, towers())
    assert {name: value.dtype for name, value in model.named_parameters()} == formats
    assert not same(model.state_dict(), held)
    swap.undo()
    assert same(model.state_dict(), held)


def test_undo_follows_a_model_that_was_cast_since(world):
    held = weights(world)
    swap = hosts.get(HOST).swap(world, towers())
    world.to(torch.bfloat16)
    swap.undo()
    assert same(world.state_dict(), {name: value.to(torch.bfloat16) for name, value in held.items()})


def test_a_swap_that_fails_half_way_leaves_the_model_as_it_was(world, monkeypatch):
    from safeencoders.integrations import open_clip_host

    held, write, calls = weights(world), open_clip_host._write, []

    def fail(tower, state):
        calls.append(tower)
        write(tower, state)
        if len(calls) == 2:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(open_clip_host, "_write", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        hosts.get(HOST).swap(world, towers())
    assert same(world.state_dict(), held)


def _text(**changes):
    shape = copy.deepcopy(models.clip().config)
    for name, value in changes.items():
        setattr(shape.text_config, name, value)
    return make(shape).text_model


def _vision(**changes):
    shape = copy.deepcopy(models.clip().config)
    for name, value in changes.items():
        setattr(shape.vision_config, name, value)
    return make(shape).vision_model


def _broken():
    tower = load("pictoworld")
    tower.embeddings.position_embedding.weight[3, 3] = float("nan")
    return tower


UNFIT = {
    "another activation": (lambda: {"text": _text(hidden_act="gelu")}, "hidden_act quick_gelu, got gelu"),
    "another width": (lambda: {"text": _text(hidden_size=64)}, "hidden_size 128, got 64"),
    "another resolution": (lambda: {"visual": _vision(image_size=128)}, "image_size 64, got 128"),
    "another patch size": (lambda: {"visual": _vision(patch_size=32)}, "patch_size 16, got 32"),
    "another original": (lambda: {"text": make(models.clip().config, 1).text_model}, "from another CLIP of the same"),
    "the other kind": (lambda: {"text": load(tower="vision")}, "expected a plain CLIPTextModel"),
    "with a projection": (lambda: {"text": load(projection=True)}, "projection=False"),
    "not finite": (lambda: {"text": _broken()}, "not finite"),
    "no such slot": (lambda: {"vision": load(tower="vision")}, "expected towers for some of the slots"),
    "a BLIP": (lambda: {"visual": blip().vision_model}, "expected a plain CLIPVisionModel"),
}


@pytest.mark.parametrize(("given", "text"), UNFIT.values(), ids=UNFIT)
def test_a_tower_that_does_not_fit_is_refused_and_the_model_untouched(given, text, world):
    held = weights(world)
    with pytest.raises(FitError, match=text):
        hosts.get(HOST).swap(world, towers() | given())
    assert same(world.state_dict(), held)


def _siglip(world):
    world.visual.pool_type = "avg"


def _bidirectional(world):
    world.attn_mask = None


def _tanh(world):
    for block in world.visual.transformer.resblocks:
        block.mlp.gelu = torch.nn.GELU(approximate="tanh")


def _quantised(world):
    block = world.visual.transformer.resblocks[0]
    whole = torch.nn.Parameter(block.mlp.c_fc.weight.to(torch.int8), requires_grad=False)
    block.mlp.c_fc.weight = whole


def _scaled(world):
    world.visual.transformer.resblocks[0].ls_1 = open_clip.transformer.LayerScale(128)


def _extra(world):
    world.visual.more = torch.nn.Linear(2, 2)


FOREIGN = {
    "average pooling": (_siglip, "visual", "class token"),
    "no causal mask": (_bidirectional, "text", "causal mask"),
    "tanh": (_tanh, "visual", "GELU(approximate='tanh')"),
    "quantised": (_quantised, "visual", "torch.int8; protect it before quantising"),
    "layer scale": (_scaled, "visual", "ls_1.gamma"),
    "more weights": (_extra, "visual", "more.weight"),
}


@pytest.mark.parametrize(("change", "name", "text"), FOREIGN.values(), ids=FOREIGN)
def test_a_tower_that_is_none_of_clips_is_no_slot(change, name, text, world):
    host = hosts.get(HOST)
    assert not host.others(world)
    change(world)
    held = weights(world)
    assert [slot.name for slot in host.slots(world)] == [other for other in ("text", "visual") if other != name]
    (other,) = host.others(world)
    assert other.name == name
    assert text in other.reason
    with pytest.raises(FitError, match="expected towers for some of the slots"):
        host.swap(world, {name: towers()[name]})
    with pytest.raises(HostError):
        from_open_clip(world)
    assert same(world.state_dict(), held)


def test_what_is_no_open_clip_model_is_no_host():
    host = hosts.get(HOST)
    for thing in (models.clip(), blip(), "a model", None):
        assert not host.accepts(thing)
    with pytest.raises(HostError, match="expected an open_clip CLIP"):
        host.check(models.clip(), towers())


def test_a_model_without_weights_is_refused(world):
    with pytest.raises(HostError, match="meta device"):
        hosts.get(HOST).check(world.to("meta"), towers())


# --- protect ---------------------------------------------------------------------------------------------------------
def test_protect_verify_unprotect(world, captions):
    pixels, held = torch.randn(2, 3, 64, 64), weights(world)
    covered = safeencoders.protect(world)
    assert covered.complete
    assert covered.policy == "warn"
    assert [(slot.name, slot.encoder, slot.reads) for slot in covered.slots] == [
        ("text", "pictoworld", ("pooled",)),
        ("visual", "pictoworld", ("pooled",)),
    ]
    safe = embeddings(loaded("pictoworld"), captions, pixels)
    assert max(distance(embeddings(world, captions, pixels), safe)) <= TOLERANCE
    assert all(slot.encoder for slot in safeencoders.verify(world).slots)
    world.load_state_dict(held)  # somebody puts the originals back
    assert not any(slot.encoder for slot in safeencoders.verify(world).slots)
    safeencoders.unprotect(world)
    assert same(world.state_dict(), held)


def test_a_protected_model_is_saved_copied_and_pickled_as_it_is(world, captions, tmp_path):
    pixels = torch.randn(2, 3, 64, 64)
    safeencoders.protect(world, encoders="pictoworld/safe-clip", policy="off")  # test_open_clip_guard has the others
    after = embeddings(world, captions, pixels)
    for other in (copy.deepcopy(world), pickle.loads(pickle.dumps(world))):  # noqa: S301  made here
        assert distance(embeddings(other, captions, pixels), after) == [0, 0]
        with pytest.raises(HostError, match="copy"):
            safeencoders.unprotect(other)
    save(world, tmp_path / "safe", tokenizer=models.tokenizer())
    model = open_clip.create_model(f"local-dir:{tmp_path / 'safe'}").eval()
    assert max(distance(embeddings(model, captions, pixels), after)) <= TOLERANCE


def test_protect_names_what_does_not_fit(world):
    held = weights(world)
    with pytest.raises(FitError, match="another CLIP of the same sizes"):
        safeencoders.protect(world, encoders={"text": make(models.clip().config, 1).text_model})
    with pytest.raises(HostError, match="expected a host with a CLIP text or vision tower"):
        safeencoders.protect(blip())
    assert same(world.state_dict(), held)


# --- the guide -------------------------------------------------------------------------------------------------------
ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "open_clip.md"


SHARED = ROOT.parent / "shared" / "data" / "captions"


def run_the_guide():
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(block, scope)  # noqa: S102  our own guide
    return scope


def test_the_guides_code_runs_and_recognises_pictures_of_the_world(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")
    scope = run_the_guide()
    assert capsys.readouterr().out.count(".jpg") == 2 * 24
    assert scope["found"] >= 0.9 * 24
    assert scope["right"] >= 0.6 * 24  # of eight labels
    with torch.no_grad():
        mixed = scope["texts"] @ scope["images"].roll(1, 0).T
    assert (mixed.argmax(1) == torch.arange(24)).sum() <= 0.2 * 24


def test_the_guides_code_runs_on_real_photos(tmp_path, monkeypatch, capsys):
    if not SHARED.is_dir():
        pytest.skip(f"the shared photos are not at {SHARED}")
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(SHARED / "coco_mini_112.zip") as archive:
        for name in archive.namelist():
            if name.endswith(".jpg"):
                path = tmp_path / "photos" / Path(name).name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(archive.read(name))
    shutil.copy(SHARED / "coco_mini_112.jsonl", tmp_path / "photos" / "captions.jsonl")
    scope = run_the_guide()
    assert capsys.readouterr().out.count(".jpg") == 2 * len(scope["rows"]) > 100


def write_photos(folder):
    """Write pictures of the world as the shared photos lie: JPEGs, and a line of JSON for each."""
    folder.mkdir()
    known = {"cat", "chef", "dog", "farmer", "horse", "man", "owl", "woman"}
    quads = [quad for quad in scenes.quads("test", 60, 3) if quad.safe.scene.subject in known][:24]
    lines = []
    for number, quad in enumerate(quads):
        name = f"{number:012}.jpg"
        renderer.to_image(renderer.render(quad.safe)).resize((200, 200)).save(folder / name, quality=95)
        lines.append(json.dumps({"id": number, "image": name, "captions": [quad.safe_text]}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
