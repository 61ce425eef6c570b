"""The CLIP that Q16's prompts belong to: an original one, for a safe tower hides from a judge what it is to judge.

What is known to be original: OpenAI's three repositories on the Hub, files with the bytes that were recorded from them
at first use, and the embedded world's own CLIP. What is never accepted: an encoder of the catalog, a folder that this
package made, and weights equal to those of either. Anything else is accepted only when its user says that it is
original, which then stands in every manifest with the weights' fingerprint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from safeencoders import catalog, checkpoints, deltas, loading, openclip, trust
from safeencoders.errors import BadInputError, HubError
from safeencoders.files import sha256_file
from safeencoders.pictoworld import models

if TYPE_CHECKING:
    from PIL.Image import Image

Backend = Literal["transformers", "open_clip"]
ORIGINALS = {
    "ViT-L-14": "openai/clip-vit-large-patch14",
    "ViT-B-16": "openai/clip-vit-base-patch16",
    "ViT-B-32": "openai/clip-vit-base-patch32",
}
SHAPES = {"ViT-L-14": (768, 14, 224), "ViT-B-16": (512, 16, 224), "ViT-B-32": (512, 32, 224)}
"""Width of the common space, patch size, picture size."""
_OPEN_CLIP = "open_clip_config.json"
_REMEDY = "Q16 needs the CLIP as its authors published it: give clip a folder of it, or leave clip out for the Hub's"


@dataclass(frozen=True)
class Backbone:
    """A vision tower with its projection, and how it reads pictures.

    Attributes:
        embed: RGB pictures -> float32 (n, d), on the CPU, of any length.
        shape: width of the common space, patch size, picture size.
        fingerprint: sha256 of the tower and its projection in float32, the same for both backends.
        source: where it comes from.
        original: how that is known.
    """

    embed: Callable[[Sequence[Image]], Tensor]
    shape: tuple[int, int, int]
    fingerprint: str
    source: str
    original: str


def load(
    clip: str | Path | nn.Module,
    *,
    backend: Backend = "transformers",
    original: bool = False,
    device: str | None = None,
) -> Backbone:
    """Load a CLIP's vision tower and make sure that it is an original one.

    Args:
        clip: "none" for the world's, a repository on the Hub, a folder (of transformers, or open_clip's with
            open_clip_config.json), or a CLIPModel, CLIPVisionModelWithProjection or open_clip.CLIP.
        backend: which package computes it, where ``clip`` is a name or a folder of transformers.
        original: say that it is the original although that cannot be known here.
        device: where to compute; None: CUDA where it is there, else the CPU; a model that is given stays where it is.

    Raises:
        BadInputError: it is a safe encoder, not known to be original, or no CLIP.
        HubError: it cannot be had from the Hub.
        MissingExtraError: open_clip is needed and not installed.
    """
    known = None if isinstance(clip, nn.Module) else _known(str(clip))
    model = clip if isinstance(clip, nn.Module) else _load(str(clip), backend)
    source = f"a {type(clip).__name__}" if isinstance(clip, nn.Module) else str(clip)
    state = _tensors(model)
    fingerprint = _fingerprint(state)
    if fingerprint == _shipped(catalog.ORIGINAL):
        known = "the world's own CLIP"
    shipped = (name for name in models.tower_names() if catalog.info(name).tower("vision"))
    safe = next((name for name in shipped if fingerprint == _shipped(name)), None)
    if safe is not None:
        raise _safe(source, f"its weights are those of {safe!r}")
    if known is None and not original:
        raise BadInputError(
            f"cannot know that {source} is an original CLIP, and a safe tower would hide from the judge what it is to "
            f"judge. {_REMEDY}; if you know that it is original, say so with original=True"
        )
    prepare = _preparation(model, None if isinstance(clip, nn.Module) else str(clip))
    if device is None and not isinstance(clip, nn.Module) and torch.cuda.is_available():
        device = "cuda"
    embed = _embedder((model if device is None else model.to(device)).eval(), prepare)
    return Backbone(embed, _shape(state), fingerprint, source, known or "as its user says")


def _known(name: str) -> str | None:
    """Return how it is known that a name stands for an original, None when it is not; refuse a safe one."""
    listed = catalog.find(name)
    if listed is not None:
        if listed.name != catalog.ORIGINAL:
            raise _safe(name, f"the catalog lists it as {listed.name!r}")
        return "the world's own CLIP"
    folder = Path(name)
    if not folder.is_dir():
        return "its repository on the Hub, with the bytes of first use" if name in ORIGINALS.values() else None
    if any([*folder.glob(deltas.FILE), *folder.glob(f"*/{deltas.FILE}")]):
        raise _safe(name, f"this package made it ({deltas.FILE} lies there)")
    recorded = {digest: key.split("@")[0] for key, entry in trust.entries().items() for digest in entry.files.values()}
    repos = {recorded.get(sha256_file(file)) for file in _weights(folder)}
    published = next((one for one in catalog.PUBLISHED if one.repo in repos), None)
    if published is not None:
        raise _safe(name, f"its bytes are those of {published.repo}")
    originals = repos & set(ORIGINALS.values())
    return f"the bytes of {originals.pop()}" if len(repos) == len(originals) == 1 else None


def _weights(folder: Path) -> list[Path]:
    """Return the files that a folder's vision tower is read from."""
    if (folder / _OPEN_CLIP).is_file():
        return sorted(folder.glob("open_clip_*.safetensors")) or sorted(folder.glob("open_clip_*.bin"))
    place = loading.encoder_folder(str(folder), "vision")
    names = checkpoints.weight_files([path.name for path in place.iterdir()], where=place)
    return [place / name for name in names if name != checkpoints.INDEX]


def _safe(source: str, why: str) -> BadInputError:
    return BadInputError(f"expected an original CLIP for the Q16 judge, got a safe encoder, {source}: {why}. A safe "
                         f"tower hides from the judge what it is to judge. {_REMEDY}")  # fmt: skip


def _load(name: str, backend: Backend) -> Any:  # noqa: ANN401
    try:
        if (Path(name) / _OPEN_CLIP).is_file():
            return openclip.package().create_model_from_pretrained(f"local-dir:{name}", return_transform=False)
        if backend == "open_clip":
            return loading.load(name, backend="open_clip")
        return loading.load(name, tower="vision", projection=True)
    except HubError as error:
        raise type(error)(f"the Q16 judge needs the weights of {name}: {error}") from error


def _tensors(model: Any) -> dict[str, Tensor]:  # noqa: ANN401
    """Return the vision tower and its projection under transformers' names, whichever package the model is of."""
    state: Mapping[str, Tensor] = model.state_dict()
    found = checkpoints.of_tower(openclip.from_tensors(state) if hasattr(model, "encode_image") else state,
                                 "vision", projection=True)  # fmt: skip
    found = {name: value for name, value in found.items() if name.startswith(("vision_model.", "visual_projection."))}
    if checkpoints.PROJECTIONS["vision"] not in found:
        raise BadInputError(f"expected a CLIP with a vision tower and its projection, got a {type(model).__name__}; "
                            "give a CLIPModel, a CLIPVisionModelWithProjection or an open_clip.CLIP")  # fmt: skip
    return found


def _fingerprint(state: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(f"{name} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return found.hexdigest()


@cache
def _shipped(name: str) -> str:
    return _fingerprint(_tensors(loading.load(name, tower="vision", projection=True)))


def _shape(state: Mapping[str, Tensor]) -> tuple[int, int, int]:
    patch = state["vision_model.embeddings.patch_embedding.weight"].shape[-1]
    side = round((len(state["vision_model.embeddings.position_embedding.weight"]) - 1) ** 0.5)
    return len(state[checkpoints.PROJECTIONS["vision"]]), patch, patch * side


def _preparation(model: Any, name: str | None) -> Callable[[Sequence[Image]], Tensor]:  # noqa: ANN401
    """Return what makes pixel values of pictures: as the model or its folder says, else as CLIP itself does."""
    if hasattr(model, "encode_image"):
        transform: Any = openclip.package().transform
        one = transform.image_transform_v2(transform.PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
        return lambda images: torch.stack([one(image) for image in images])
    from transformers import CLIPImageProcessorPil

    size = (getattr(model.config, "vision_config", None) or model.config).image_size
    place = models.WEIGHTS / models.CLIP if size == 64 else Path(name or "")
    if name and (place / loading.PROCESSOR).is_file():
        processor: Any = CLIPImageProcessorPil.from_pretrained(place, local_files_only=True)
    else:
        processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return lambda images: torch.as_tensor(processor(images=list(images), return_tensors="pt")["pixel_values"])


def _embedder(model: Any, prepare: Callable[[Sequence[Image]], Tensor]) -> Callable[[Sequence[Image]], Tensor]:  # noqa: ANN401
    place = next(iter(model.parameters()))

    @torch.no_grad()
    def embed(images: Sequence[Image]) -> Tensor:
        pixels = prepare(images).to(place.device, place.dtype)
        if hasattr(model, "encode_image"):
            found = model.encode_image(pixels)
        else:
            found = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        embeddings: Tensor = found.float().cpu()
        return embeddings

    return embed
