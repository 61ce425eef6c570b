"""Tiny random models of LLaVA's family, one of each class, with a picture and a prompt for each."""

import copy
import warnings

import torch
import transformers
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig

SIDE, IMAGE, VIDEO = 32, 5, 6
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 16,
    "projection_dim": 16,
}
WORDS = LlamaConfig(
    vocab_size=60,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    max_position_embeddings=256,
)
EXTRA = {
    "Llava": {},
    "LlavaNext": {"image_grid_pinpoints": [[SIDE, 2 * SIDE], [2 * SIDE, SIDE]]},
    "LlavaNextVideo": {"image_grid_pinpoints": [[SIDE, 2 * SIDE]], "video_token_index": VIDEO},
    "VipLlava": {"vision_feature_layers": [-2, -3, 1]},
    "VideoLlava": {"video_token_index": VIDEO},
}
FAMILY = tuple(EXTRA)


def make(family="Llava", **changes):
    """Return a tiny random model whose answers depend on the picture."""
    torch.manual_seed(0)
    cls = getattr(transformers, f"{family}ForConditionalGeneration")
    vision = CLIPVisionConfig(**SIZES)
    options = EXTRA[family] | changes
    model = cls(
        cls.config_class(vision_config=vision, text_config=copy.deepcopy(WORDS), image_token_index=IMAGE, **options)
    )
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def tower(seed=1, **changes):
    torch.manual_seed(seed)
    made = CLIPVisionModel(CLIPVisionConfig(**SIZES | changes))
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.3)
    return made.eval().requires_grad_(False)


def inputs(model, family="Llava"):
    """Return a picture, and for Video-LLaVA a film, with a prompt that has room for it."""
    torch.manual_seed(2)
    picture = torch.randn(1, 3, SIDE, SIDE, dtype=model.dtype)
    given, words = {"pixel_values": picture}, [IMAGE] * 4
    if family.startswith("LlavaNext"):
        given = {"pixel_values": picture[None].repeat(1, 3, 1, 1, 1), "image_sizes": torch.tensor([[SIDE, SIDE]])}
        found = model.model.get_image_features(**given)
        words = [IMAGE] * sum(len(part) for part in found.pooler_output)
    if family == "VideoLlava":
        given["pixel_values_videos"] = torch.randn(1, 8, 3, SIDE, SIDE, dtype=model.dtype)
        words += [VIDEO] * 8 * 5
    ids = torch.tensor([[1, 9, *words, 11, 12]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **given}


def say(model, family="Llava"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Video-LLaVA's own renaming of an argument
        return model.generate(**inputs(model, family), max_new_tokens=6, do_sample=False).tolist()
