"""A CLIP in the form of open_clip: the same numbers under other names.

Per tower, from transformers to open_clip: the query, key and value weights lie in one tensor, in this order; a
projection is the transposed matrix, since open_clip multiplies from the other side; everything else is renamed. Which
GELU a CLIP was trained with is in no tensor: ``quick_gelu`` is derived from ``hidden_act``, never assumed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from safeencoders.errors import BadInputError, MissingExtraError

if TYPE_CHECKING:
    from torch import Tensor

QUICK_GELU = {"quick_gelu": True, "gelu": False}
LEGACY_EOS = 2  # with it, transformers pools at the largest id, as open_clip's "argmax" does
EPS = 1e-5  # of open_clip's norms when it is told nothing
CLIP_VOCABULARY = 49408  # the one that open_clip's own tokenizer has
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers

_HEADS = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
_SCALE = "logit_scale"
_NAMES = (
    ("text_model.embeddings.token_embedding.", "token_embedding."),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.final_layer_norm.", "ln_final."),
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding.", "visual.conv1."),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision_model.pre_layrnorm.", "visual.ln_pre."),
    ("vision_model.post_layernorm.", "visual.ln_post."),
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
)
_IN_LAYER = (
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
    (".self_attn.", ".attn."),
)
_QKV = re.compile(r"(.*\.self_attn)\.([qkv])_proj\.(weight|bias)")
_IN_PROJ = re.compile(r"(.*\.attn)\.in_proj_(weight|bias)")


def package() -> Any:  # noqa: ANN401  the module
    """Return the package open_clip.

    Raises:
        MissingExtraError: it, or torchvision or timm, which it imports, is missing or does not go with torch.
    """
    try:
        return import_module("open_clip")
    except (ImportError, RuntimeError) as error:  # a torchvision built for another torch raises a RuntimeError
        raise MissingExtraError(f"open_clip_torch, with a torchvision for this torch ({error})", "openclip") from error


# --- tensors ---------------------------------------------------------------------------------------------------------
def to_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a CLIPModel, or of one of its towers with its prefix, as open_clip's CLIP has them.

    Returns:
        Copies, contiguous; none shares memory with what was given.
    """
    import torch

    found: dict[str, Tensor] = {}
    for name, value in state.items():
        part = _QKV.fullmatch(name)
        if part is None:
            turned = value.T if name in _HEADS else value
            found[_HEADS.get(name) or _renamed(name)] = turned.clone(memory_format=torch.contiguous_format)
        elif part[2] == "q":
            together = [state[f"{part[1]}.{letter}_proj.{part[3]}"] for letter in "qkv"]
            found[f"{_renamed(part[1] + '.')}in_proj_{part[3]}"] = torch.cat(together)
    return found


def from_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of an open_clip CLIP or CustomTextCLIP as transformers' CLIPModel has them.

    Returns:
        Views: whoever writes into them writes into what was given. A name that no CLIP has keeps its name.
    """
    heads = {theirs: ours for ours, theirs in _HEADS.items()}
    found: dict[str, Tensor] = {}
    for given, value in state.items():
        name = given.removeprefix("text.")  # where CustomTextCLIP keeps its text tower
        part = _IN_PROJ.fullmatch(name)
        if name in heads:
            found[heads[name]] = value.T
        elif part is None:
            found[_renamed(name, back=True)] = value
        else:
            place = _renamed(part[1] + ".", back=True)
            found |= {f"{place}{x}_proj.{part[2]}": y for x, y in zip("qkv", value.chunk(3), strict=True)}
    return found


def _renamed(name: str, *, back: bool = False) -> str:
    """Replace the start of a name, then, inside a layer, its end."""
    tables = [tuple((b, a) for a, b in table) if back else table for table in (_NAMES, _IN_LAYER)]
    start = next(((a, b) for a, b in tables[0] if name.startswith(a)), None)
    if start is None:
        return name
    name = start[1] + name.removeprefix(start[0])
    for a, b in tables[1] if "layers." in start[0] + start[1] else ():
        name = name.replace(a, b)
    return name


# --- configuration ---------------------------------------------------------------------------------------------------
def model_config(config: Any) -> dict[str, Any]:  # noqa: ANN401  a CLIPConfig
    """Return open_clip's ``model_cfg`` of a CLIPConfig.

    Raises:
        BadInputError: open_clip has no such CLIP: its two towers differ in their activation, or it is another one
            than ``quick_gelu`` and ``gelu``, the pictures are not square or have no three channels.
    """
    text, vision = config.text_config, config.vision_config
    if text.hidden_act != vision.hidden_act or text.hidden_act not in QUICK_GELU:
        raise BadInputError(
            f"expected one activation for both towers, quick_gelu or gelu, got {text.hidden_act!r} for text and "
            f"{vision.hidden_act!r} for vision; open_clip has no such CLIP"
        )
    if vision.num_channels != 3 or not isinstance(vision.image_size, int) or not isinstance(vision.patch_size, int):
        raise BadInputError(
            f"expected square pictures and patches of three channels, got num_channels {vision.num_channels}, "
            f"image_size {vision.image_size}, patch_size {vision.patch_size}; open_clip has no such CLIP"
        )
    if not isinstance(text.eos_token_id, int):
        raise BadInputError(f"expected one eos_token_id, at which the text tower pools, got {text.eos_token_id}")
    pooling = {} if text.eos_token_id == LEGACY_EOS else {"pool_type": "eos", "eos_id": text.eos_token_id}
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": QUICK_GELU[text.hidden_act],
        "vision_cfg": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            **_sizes(vision),
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "heads": text.num_attention_heads,
            **_sizes(text),
            **pooling,
        },
    }


def _sizes(config: Any) -> dict[str, Any]:  # noqa: ANN401  of either tower
    norms = {} if config.layer_norm_eps == EPS else {"norm_kwargs": {"eps": config.layer_norm_eps}}
    return {
        "width": config.hidden_size,
        "layers": config.num_hidden_layers,
        "mlp_ratio": _ratio(config.intermediate_size, config.hidden_size),
        **norms,
    }


def _ratio(inner: int, width: int) -> float:
    """Return a ratio r for which int(width * r), which is what open_clip computes, is the inner width exactly."""
    ratio = inner / width
    return ratio if int(width * ratio) == inner else (inner + 0.5) / width


def preprocessing(processor: Mapping[str, Any] | None, size: int) -> dict[str, Any]:
    """Return open_clip's ``preprocess_cfg`` of an image processor.

    Args:
        processor: what a CLIPImageProcessor's ``to_dict`` or its file holds; None for that of CLIP itself: the shorter
            side to ``size``, bicubic, centre crop, CLIP's mean and deviation.
        size: of the pictures the tower reads, in pixels.

    Raises:
        BadInputError: open_clip cannot prepare pictures so.
    """
    if processor is None:
        return {"mean": list(CLIP_MEAN), "std": list(CLIP_STD), "interpolation": "bicubic", "resize_mode": "shortest"}
    given = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": True} | dict(processor)
    edges, crop = dict(given["size"]), dict(given["crop_size"] or {}) if given["do_center_crop"] else {}
    square = edges.get("height") == edges.get("width") == size
    shorter = edges.get("shortest_edge") == size and given["do_center_crop"]
    cropped = crop.get("height", size) == crop.get("width", size) == size
    steps = given["do_resize"] and given["do_rescale"] and given["do_normalize"]
    interpolation = _RESAMPLE.get(int(given["resample"]))
    if not (square or shorter) or not cropped or not steps or interpolation is None:
        raise BadInputError(
            f"expected an image processor that resizes to {size} pixels (bilinear or bicubic), crops the centre or "
            f"not at all, rescales and normalises, got size {edges}, crop_size {crop}, resample {given['resample']}; "
            "pass the processor of this CLIP"
        )
    return {
        "mean": list(given["image_mean"]),
        "std": list(given["image_std"]),
        "interpolation": interpolation,
        "resize_mode": "squash" if square else "shortest",
    }


# --- models ----------------------------------------------------------------------------------------------------------
def build(clip: Any, processor: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401  CLIPModel, open_clip.CLIP
    """Return an open_clip CLIP with the weights of a transformers CLIPModel: copies, eval mode, gradients off.

    Args:
        clip: the CLIPModel.
        processor: as in ``preprocessing``; the model says with it how pictures are prepared.

    Raises:
        MissingExtraError: open_clip, torchvision or timm is missing.
        BadInputError: open_clip has no such CLIP.
    """
    import torch

    config = model_config(clip.config)
    images = preprocessing(processor, clip.config.vision_config.image_size)
    module = package().model
    with torch.device("meta"):  # no random weights are drawn that would be overwritten
        model = module.CLIP(**config)
    model.load_state_dict(to_tensors(clip.state_dict()), assign=True)
    length = config["text_cfg"]["context_length"]
    model.attn_mask = torch.full((length, length), -torch.inf, device=clip.device).triu(1)  # the only buffer
    defaults = {"mode": "RGB", "fill_color": 0, "size": model.visual.image_size}
    module.set_model_preprocess_cfg(model, defaults | images)
    return model.eval().requires_grad_(False)
