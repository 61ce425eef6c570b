"""open_clip models as transformers models, and their folders.

A tower of an open_clip model is shown as a transformers tower whose weights are views of the model's own memory: what
is looked at, measured or compared is what the model computes with, and who writes into them changes the model. The
other direction, from a CLIPModel to open_clip, is ``safeencoders.openclip.build``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeencoders.catalog import TowerName
from safeencoders.errors import BadInputError, HostError
from safeencoders.files import output_folder, read_json, write_json
from safeencoders.openclip import (
    CLIP_VOCABULARY,
    LEGACY_EOS,
    QUICK_GELU,
    from_tensors,
    model_config,
    package,
    to_tensors,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
TOWERS: dict[str, TowerName] = {"text": "text", "visual": "vision"}  # open_clip's name of a tower, and ours
BESIDE = "(the folder of this file)"  # no repository can be called so
_ACTIVATIONS = {"QuickGELU()": "quick_gelu", "GELU(approximate='none')": "gelu"}
_OF_A_CLIP = ("text_model.", "vision_model.", "text_projection", "visual_projection", "logit_")
_IMAGES = ("mean", "std", "interpolation", "resize_mode")


# --- models ----------------------------------------------------------------------------------------------------------
def view(model: Any, name: str) -> Any:  # noqa: ANN401  open_clip model, CLIPTextModel or CLIPVisionModel
    """Return a tower of an open_clip model as a transformers tower whose weights are the model's own memory.

    Args:
        model: an open_clip CLIP or CustomTextCLIP.
        name: "text" or "visual".

    Raises:
        HostError: the tower is none of CLIP's; it says why.
    """
    reason = foreign(model, name)
    if reason is not None:
        raise HostError(f"expected a CLIP tower as {name!r} of the open_clip model, got another one: {reason}")
    return _assembled(_class(name), _configuration(model, name), _tensors(model, name))


def from_open_clip(model: Any) -> Any:  # noqa: ANN401  open_clip model, CLIPModel
    """Return a transformers CLIPModel with the weights of an open_clip model: copies, eval mode, gradients off.

    Its numbers are the open_clip model's bit for bit, its outputs up to rounding.

    Raises:
        HostError: a tower is none of CLIP's, or the heads are not; it says what.
    """
    import transformers

    towers = {ours: view(model, name).config for name, ours in TOWERS.items()}
    state = {key: value.clone() for key, value in from_tensors(model.state_dict()).items()}
    heads = {key for key in state if not key.startswith(("text_model.", "vision_model."))}
    expected = {"text_projection.weight", "visual_projection.weight", "logit_scale"}
    if heads != expected or state["logit_scale"].ndim:
        raise HostError(
            f"expected {', '.join(sorted(expected))} and nothing else beside the towers of the open_clip model, got "
            f"{', '.join(sorted(heads))}, logit_scale of shape {tuple(state['logit_scale'].shape)}; "
            "transformers has no such CLIPModel"
        )
    config = transformers.CLIPConfig(
        text_config=towers["text"].to_dict(),
        vision_config=towers["vision"].to_dict(),
        projection_dim=len(state["text_projection.weight"]),
    )
    return _assembled(transformers.CLIPModel, config, {key: value.contiguous() for key, value in state.items()})


def foreign(model: Any, name: str) -> str | None:  # noqa: ANN401
    """Say why a tower of an open_clip model is none of CLIP's, one that transformers can hold; None when it is one."""
    source = part(model, name)
    expected = "VisionTransformer" if name == "visual" else "CLIP" if source is model else "TextTransformer"
    if type(source).__name__ != expected:
        return f"{type(source).__name__} is no CLIP tower"
    activations = {repr(block.mlp.gelu) for block in source.transformer.resblocks}
    if len(activations) != 1 or not activations <= set(_ACTIVATIONS):
        return f"its activation is {', '.join(sorted(activations))}; expected one of {', '.join(_ACTIVATIONS)}"
    return (_image_shape if name == "visual" else _text_pooling)(source) or _other_tensors(model, name)


def part(model: Any, name: str) -> Any:  # noqa: ANN401
    """Return the module of a tower; a CLIP's text tower is spread over the model itself."""
    return model.visual if name == "visual" else getattr(model, "text", model)


def _image_shape(source: Any) -> str | None:  # noqa: ANN401
    if source.pool_type != "tok" or source.attn_pool is not None:
        return "it does not pool at the class token"
    square = len({*source.image_size}) == len({*source.patch_size}) == 1
    return None if square else f"its pictures of {source.image_size} or patches of {source.patch_size} are not square"


def _text_pooling(source: Any) -> str | None:  # noqa: ANN401
    pool = _pooling(source)[0]
    if source.attn_mask is None:
        return "it has no causal mask"
    return None if pool in {"argmax", "eos"} else f"it pools at {pool!r}, not at the end of the text"


def _other_tensors(model: Any, name: str) -> str | None:  # noqa: ANN401
    """Compare names, shapes and kinds of a tower's tensors with those of the transformers tower it should be."""
    import torch

    with torch.device("meta"):
        own = _class(name)(_configuration(model, name)).state_dict()
    found = _tensors(model, name)
    strange = {key for key in from_tensors(model.state_dict()) if not key.startswith(_OF_A_CLIP)}
    strange = {key for key in strange if key.startswith("visual.") == (name == "visual")} | (found.keys() - own.keys())
    wrong = {key for key in own if key not in found or found[key].shape != own[key].shape}
    if wrong or strange:
        return f"its weights are not a CLIP tower's: {', '.join(sorted(wrong | strange)[:3])}"
    for value in found.values():
        if type(value) is not torch.Tensor or not value.is_floating_point():
            return f"its weights are {type(value).__name__} of {value.dtype}; protect it before quantising or sharding"
    return None


def _tensors(model: Any, name: str) -> dict[str, Tensor]:  # noqa: ANN401
    prefix = f"{TOWERS[name]}_model."
    found = from_tensors(model.state_dict())
    return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}


def _class(name: str) -> Any:  # noqa: ANN401
    import transformers

    return getattr(transformers, f"CLIP{TOWERS[name].capitalize()}Model")


def _pooling(source: Any) -> tuple[str, int]:  # noqa: ANN401
    """Return where a text tower pools, and the id of the end of text."""
    own = hasattr(source, "text_pool_type")  # a CLIP, whose attributes have longer names
    return (source.text_pool_type, source.text_eos_id) if own else (source.pool_type, source.eos_id)


def _configuration(model: Any, name: str) -> Any:  # noqa: ANN401  a CLIPTextConfig or CLIPVisionConfig
    source = part(model, name)
    blocks, norm = source.transformer.resblocks, source.ln_post if name == "visual" else source.ln_final
    sizes = {
        "hidden_size": norm.normalized_shape[0],
        "intermediate_size": blocks[0].mlp.c_fc.out_features,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": blocks[0].attn.num_heads,
        "hidden_act": _ACTIVATIONS[repr(blocks[0].mlp.gelu)],
        "layer_norm_eps": norm.eps,
    }
    if name == "visual":
        pictures = {"image_size": source.image_size[0], "patch_size": source.patch_size[0]}
        return _class(name).config_class(**sizes, **pictures, projection_dim=source.output_dim)
    pool, end = _pooling(source)
    return _class(name).config_class(
        **sizes,
        vocab_size=source.vocab_size,
        max_position_embeddings=source.context_length,
        projection_dim=getattr(source.text_projection, "shape", (None, None))[1],
        eos_token_id=LEGACY_EOS if pool == "argmax" else end,
        bos_token_id=None,  # no open_clip model says these two, and no tower reads them
        pad_token_id=None,
    )


def _assembled(kind: Any, config: Any, state: Mapping[str, Tensor]) -> Any:  # noqa: ANN401
    """Make a transformers model around given tensors."""
    import torch

    with torch.device("meta"):  # no random weights are drawn that would be overwritten
        model: nn.Module = kind(config)
    model.load_state_dict(dict(state), assign=True)
    device = next(iter(state.values())).device
    one: Any
    for one in model.modules():
        if hasattr(one, "position_ids"):  # the only buffers, and in no file
            one.position_ids = torch.arange(one.position_ids.shape[1], device=device).expand(1, -1)
    return model.eval().requires_grad_(False)


# --- folders ---------------------------------------------------------------------------------------------------------
def save(model: Any, folder: str | Path, *, tokenizer: Any = None, repo: str | None = None) -> None:  # noqa: ANN401
    """Write an open_clip model so that ``create_model_and_transforms("local-dir:" + folder)`` loads it.

    Uploaded to the Hub as they are, the same files load with "hf-hub:" + the repository.

    Args:
        model: an open_clip model, such as ``load(..., backend="open_clip")`` returns.
        folder: a new or empty one.
        tokenizer: a tokenizer of transformers, written beside the model; None for CLIP's vocabulary of 49408 tokens,
            which open_clip has itself.
        repo: where on the Hub the folder is going to lie; open_clip looks for a tokenizer by this name.

    Raises:
        HostError: the model has a tower that is none of CLIP's.
        BadInputError: the vocabulary is not CLIP's and there is no tokenizer, or not the tokenizer's.
        OutputError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    clip = from_open_clip(model)
    config, text = model_config(clip.config), clip.config.text_config
    if (tokenizer is None and text.vocab_size != CLIP_VOCABULARY) or len(tokenizer or range(0)) > text.vocab_size:
        raise BadInputError(
            f"expected the tokenizer of this model's {text.vocab_size} tokens, got "
            f"{'none' if tokenizer is None else f'one of {len(tokenizer)}'}; pass tokenizer=..."
        )
    images = {key: value for key, value in model.visual.preprocess_cfg.items() if key in _IMAGES}
    with output_folder(folder) as place:
        if tokenizer is not None:
            tokenizer.save_pretrained(place)
            config["text_cfg"] |= {"hf_tokenizer_name": repo or BESIDE}
        write_json(place / CONFIG, {"model_cfg": config, "preprocess_cfg": images})
        metadata = {"format": "pt", "hidden_act": text.hidden_act}
        save_file(to_tensors(clip.state_dict()), place / WEIGHTS, metadata=metadata)


def read(folder: str | Path) -> Any:  # noqa: ANN401  a CLIPModel
    """Read an open_clip folder as a transformers CLIPModel, in eval mode, gradients off.

    Raises:
        BadInputError: there is none, its weights are not of the sizes its configuration says, or were made with
            another activation than it says.
        HostError: it is no CLIP that transformers can hold.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    path = Path(folder)
    try:
        config = dict(read_json(path / CONFIG)["model_cfg"])
        with safe_open(path / WEIGHTS, framework="pt") as file:
            made = (file.metadata() or {}).get("hidden_act")
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no mapping
        own = config.pop("custom_text", False)
        if {"timm_model_name", "hf_model_name"} & {*config["vision_cfg"], *config["text_cfg"]}:
            raise BadInputError(f"{path} holds a model with towers of timm or transformers, none of CLIP's")
        module = package().model
        with torch.device("meta"):
            model = (module.CustomTextCLIP if own else module.CLIP)(**config)
        model.load_state_dict(state, assign=True)
    except (KeyError, TypeError, OSError, RuntimeError, SafetensorError) as error:
        raise BadInputError(f"expected an open_clip model in {path} ({CONFIG}, {WEIGHTS}): {error}") from error
    said = bool(config.get("quick_gelu"))
    if made is not None and QUICK_GELU.get(made) != said:
        raise BadInputError(f"expected quick_gelu {QUICK_GELU.get(made)} in {path / CONFIG}, since the weights were "
                            f"made with {made!r}, got {said}; download or write the folder again")  # fmt: skip
    return from_open_clip(model)
