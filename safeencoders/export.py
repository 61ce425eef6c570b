"""Export: a tower as a file that other programs read, reloaded and compared with its source before it gets its name.

=============  ====================================================================================================
single-file    the text encoder's part of a Stable Diffusion 1.x checkpoint, keys ``cond_stage_model.transformer.``;
               or a whole checkpoint of yours with this part replaced, which WebUI and ComfyUI load
comfy          what ComfyUI's CLIP loaders read: keys ``text_model.``, and ``text_projection.weight`` where there is one
onnx           a graph with any batch size, of the text or the vision tower
=============  ====================================================================================================

The guard of ``safeencoders.protect`` is in no file: what was exported protects as a one-line swap does.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from safeencoders import checkpoints, loading
from safeencoders.catalog import TowerName
from safeencoders.errors import BadInputError, FitError, MissingExtraError
from safeencoders.files import output_file
from safeencoders.openclip import CLIP_VOCABULARY, LEGACY_EOS
from safeencoders.pictoworld import models

if TYPE_CHECKING:
    from torch import Tensor

Format = Literal["single-file", "comfy", "onnx"]
Outputs = dict[str, "Tensor"]

TOLERANCE = 1e-5
OPSET = 20
PREFIX = "cond_stage_model.transformer."
"""Where a Stable Diffusion 1.x checkpoint keeps its CLIPTextModel."""
COMFY = (("CLIP-G", 30, (32, 1280)), ("CLIP-H", 22, (24, 1024)), ("CLIP-L", 0, (12, 768)))
"""ComfyUI's text encoders: the layer by whose presence it tells each, looked for in this order, its layers and width.

Read in comfy/sd.py (detect_te_model, load_text_encoder_state_dicts) of its public repository; not run here.
"""

_INPUTS = {"text": "input_ids", "vision": "pixel_values"}
_OUTPUTS = ("last_hidden_state", "pooler_output", "penultimate")
_ROWS = 3
_GUARD = "the guard of safeencoders.protect is in no file: this protects as a one-line swap does"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        differences: of each output from the source's, the largest, relative to the source's largest where that is
            above 1.
        notes: what its user must know.
    """

    path: Path
    differences: Mapping[str, float]
    notes: tuple[str, ...]


def export(
    encoder: str, form: Format, out: Path, *, tower: TowerName = "text", checkpoint: Path | None = None
) -> Exported:
    """Write a tower in another program's form, after reading it back and comparing what it puts out.

    Args:
        encoder: what ``safeencoders.load`` takes.
        form: "single-file", "comfy" or "onnx".
        out: the file; one that is there is replaced when the new one is whole.
        tower: "vision" with "onnx" only.
        checkpoint: with "single-file", a Stable Diffusion 1.x checkpoint in safetensors; ``out`` is then a copy of it
            with its text encoder replaced.

    Raises:
        BadInputError: the form has no such tower, the checkpoint is no such checkpoint, or what was read back puts
            out something else (nothing is written then).
        FitError: the checkpoint's text encoder has other sizes.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        OutputError: the file cannot be written.
    """
    if tower == "vision" and form != "onnx":
        raise BadInputError(f"expected the text tower for {form}, which holds no vision tower; take --format onnx")
    if checkpoint is not None and form != "single-file":
        raise BadInputError(f"expected no checkpoint for {form}; it goes with --format single-file")
    source = loading.load(encoder, tower=tower)
    given = inputs(source.config, tower)
    with output_file(out) as partial:
        read = _write(encoder, source, form, partial, given, checkpoint)
        found = _differences(read(given), outputs(source, tower, given))
        worst = max(found.values())
        if not worst <= TOLERANCE:
            raise BadInputError(
                f"expected outputs within {TOLERANCE:g} of {encoder}'s after reading {form} back, got {worst:.2g}; "
                "nothing was written"
            )
    return Exported(out, found, tuple(_notes(form, source.config, tower, merged=checkpoint is not None)))


def inputs(config: Any, tower: TowerName) -> Tensor:  # noqa: ANN401  a CLIPTextConfig or CLIPVisionConfig
    """Return a few inputs to compare with: ids (3, tokens) that begin and end as captions do, or pictures of noise."""
    import torch

    draw = torch.Generator().manual_seed(0)
    if tower == "vision":
        return torch.randn(_ROWS, config.num_channels, config.image_size, config.image_size, generator=draw)
    end = config.vocab_size - 1 if config.eos_token_id == LEGACY_EOS else config.eos_token_id
    length = config.max_position_embeddings
    ids = torch.randint(3, config.vocab_size - 2, (_ROWS, length), generator=draw)
    ids[ids == end] = 3
    ids[:, 0] = config.bos_token_id
    for row in range(_ROWS):
        ids[row, length // (row + 1) - 1 :] = end
    return ids


def outputs(model: Any, tower: TowerName, given: Tensor) -> Outputs:  # noqa: ANN401  a tower
    """Return what hosts read of a tower: its last and its penultimate states, and its pooled output."""
    import torch

    with torch.no_grad():
        found = model(**{_INPUTS[tower]: given}, output_hidden_states=True)
    return dict(zip(_OUTPUTS, (found.last_hidden_state, found.pooler_output, found.hidden_states[-2]), strict=True))


def _differences(found: Outputs, expected: Outputs) -> dict[str, float]:
    return {
        name: float((found[name] - value).abs().max() / max(1.0, float(value.abs().max())))
        for name, value in expected.items()
    }


def _write(
    encoder: str,
    source: Any,  # noqa: ANN401  a tower
    form: Format,
    path: Path,
    given: Tensor,
    checkpoint: Path | None,
) -> Callable[[Tensor], Outputs]:
    """Write a file and return what reads it and computes with it."""
    if form == "onnx":
        return _write_onnx(source, path, given)
    state = {f"text_model.{key}": value for key, value in source.state_dict().items()}
    if form == "comfy":
        _save(state | _projection(encoder), path)
    elif checkpoint is None:
        _save({f"{PREFIX}{key}": value for key, value in state.items()}, path)
    else:
        _merge(state, checkpoint, path)
    prefix = "" if form == "comfy" else PREFIX
    return lambda ids: outputs(_read(path, prefix, source.config), "text", ids)


def _projection(encoder: str) -> dict[str, Tensor]:
    """Return the projection of a text tower; nothing when its encoder has none, where ComfyUI takes the identity."""
    try:
        tower: Any = loading.load(encoder, projection=True)
        return {"text_projection.weight": tower.text_projection.weight}
    except BadInputError:
        return {}


def _save(state: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata={"format": "pt"})


def _merge(state: Mapping[str, Tensor], checkpoint: Path, path: Path) -> None:
    """Copy a checkpoint with its text encoder replaced; everything else stays bit for bit."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(checkpoint, framework="pt") as file:
            metadata = file.metadata()
            whole = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no mapping
    except (OSError, SafetensorError) as error:
        raise BadInputError(
            f"expected a checkpoint in safetensors at {checkpoint}: {error}. A .ckpt can run code; convert it first"
        ) from error
    own = {key for key in whole if key.startswith(PREFIX) and not key.endswith("position_ids")}
    new = {f"{PREFIX}{key}": value for key, value in state.items()}
    if not own:
        raise BadInputError(
            f"expected a Stable Diffusion 1.x checkpoint, with keys {PREFIX}..., in {checkpoint}, found none; other "
            "families keep their text encoders elsewhere and have several"
        )
    for key in sorted(own | new.keys()):
        if key not in own or key not in new or whole[key].shape != new[key].shape:
            sizes = [tuple(part[key].shape) if key in part else "nothing" for part in (whole, new)]
            raise FitError(f"expected {key} of {sizes[0]} as in {checkpoint}, got {sizes[1]}; another encoder fits it")
    from safetensors.torch import save_file

    save_file({**whole, **{key: value.contiguous() for key, value in new.items()}}, path, metadata=metadata)


def _read(path: Path, prefix: str, config: Any) -> Any:  # noqa: ANN401  a CLIPTextModel
    """Build the text tower of a file with plain transformers; every weight must be there."""
    import torch
    import transformers
    from safetensors import safe_open

    start = f"{prefix}text_model."
    with safe_open(path, framework="pt") as file:
        keys = [key for key in file.keys() if key.startswith(start)]  # noqa: SIM118  it is no mapping
        state = {key.removeprefix(prefix): file.get_tensor(key) for key in keys}
    state = checkpoints.of_tower(state, "text", projection=False)
    checkpoints.check(state, transformers.CLIPTextModel, config, "text", path)
    return models.quiet(transformers.CLIPTextModel, None, config=config, state_dict=state, dtype=torch.float32).eval()


def _write_onnx(source: Any, path: Path, given: Tensor) -> Callable[[Tensor], Outputs]:  # noqa: ANN401  a tower
    import torch

    runtime = _onnxruntime()
    tower: TowerName = "text" if given.dim() == 2 else "vision"

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = source

        def forward(self, given: Tensor) -> tuple[Tensor, ...]:
            return tuple(outputs(self.tower, tower, given).values())

    with _quiet():
        program = torch.onnx.export(
            Graph().eval(),
            (given,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[_INPUTS[tower]],
            output_names=list(_OUTPUTS),
            dynamic_shapes={"given": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
        if program is None:  # what it returns without dynamo
            raise AssertionError
        program.save(path)
    return lambda batch: _run(runtime, path, _INPUTS[tower], batch)


def _run(runtime: Any, path: Path, name: str, batch: Tensor) -> Outputs:  # noqa: ANN401  the module
    """Run a graph on a batch of one row, then on one of the others, so that a batch size that was fixed is found."""
    import torch

    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = [session.run(list(_OUTPUTS), {name: part.numpy()}) for part in (batch[:1], batch[1:])]
    return {
        key: torch.from_numpy(np.concatenate(values))
        for key, values in zip(_OUTPUTS, zip(*parts, strict=True), strict=True)
    }


def _onnxruntime() -> Any:  # noqa: ANN401  the module
    try:
        for name in ("onnx", "onnxscript"):  # the exporter imports these itself, and says less when they are missing
            import_module(name)
        return import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError("onnx, onnxscript and onnxruntime", "export") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes on its own inner works off the screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def comfy_kind(keys: Mapping[str, Any]) -> str | None:
    """Return as which of its text encoders ComfyUI would take a file with these keys; None for none of them."""
    for name, layer, _ in COMFY:
        if f"text_model.encoder.layers.{layer}.mlp.fc1.weight" in keys:
            return name
    return None


def _notes(form: Format, config: Any, tower: TowerName, *, merged: bool) -> Iterator[str]:  # noqa: ANN401
    yield _GUARD
    if form == "single-file" and not merged:
        yield "the text encoder's part only: name your checkpoint with --checkpoint to have it put in"
    if form == "comfy":
        sizes = (config.num_hidden_layers, config.hidden_size)
        fits = [name for name, _, known in COMFY if known == sizes]
        if not fits:
            yield f"ComfyUI has no text encoder of {sizes[0]} layers of width {sizes[1]}, and will not run this one"
        yield "read back by ComfyUI's key rules as its public code has them; ComfyUI itself was not run"
    if form != "onnx" and config.vocab_size != CLIP_VOCABULARY:
        own = f"this tower has {config.vocab_size} others"
        yield f"WebUI and ComfyUI make ids with CLIP's {CLIP_VOCABULARY} tokens; {own}"
    if form == "onnx":
        yield f"opset {OPSET}, any batch, input {_INPUTS[tower]}, outputs {', '.join(_OUTPUTS)}"
