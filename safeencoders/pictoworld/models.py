"""The world's shipped models, each checked against its recorded sha256 before it is read.

Weights are float16 safetensors; configurations say float32, so that a plain load on a CPU is consistent.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeencoders.errors import MissingExtraError
from safeencoders.files import check_sha256, read_json

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from transformers import CLIPModel, CLIPTokenizer, LlavaForConditionalGeneration, LlavaProcessor

    from safeencoders.pictoworld.judge import Judge

WEIGHTS = Path(__file__).parent / "weights"
CLIP, GENERATOR, JUDGE, VLM, TOWERS = "clip", "generator", "judge", "vlm", "towers"
HASHES = "sha256.json"


@cache
def hashes() -> dict[str, str]:
    """Return the sha256 of every shipped weight file by its path inside the weights folder."""
    recorded: dict[str, str] = read_json(WEIGHTS / HASHES)
    return recorded


def checked(part: str) -> Path:
    """Return the folder of a shipped model after comparing each of its weight files with the recorded sha256.

    Raises:
        IntegrityError: a file is missing, truncated or changed; it names the file and both hashes.
    """
    for name, expected in hashes().items():
        if name.startswith(part + "/"):
            check_sha256(WEIGHTS / name, expected)
    return WEIGHTS / part


def tower_names() -> tuple[str, ...]:
    """Return the names of the shipped tuned towers, such as "pictoworld" and "pictoworld/safe-clip"."""
    found = {Path(name).parent.parent.relative_to(TOWERS) for name in hashes() if name.startswith(TOWERS + "/")}
    return tuple(sorted(str(path) for path in found))


def quiet(loader: Any, source: Path | None, **options: Any) -> Any:  # noqa: ANN401  any from_pretrained
    """Call ``from_pretrained``: safetensors only, nothing fetched, no progress bars for what takes a moment."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return loader.from_pretrained(source, local_files_only=True, use_safetensors=True, **options)
    finally:
        if shown:
            logging.enable_progress_bar()


def clip() -> CLIPModel:
    """Return the world's original CLIP in float32, eval mode, gradients off."""
    from transformers import CLIPModel

    model: CLIPModel = quiet(CLIPModel, checked(CLIP))
    model.eval().requires_grad_(False)
    return model


def tokenizer() -> CLIPTokenizer:
    """Return the world's tokenizer."""
    from transformers import CLIPTokenizer

    loaded: CLIPTokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / CLIP, local_files_only=True)
    return loaded


def pipeline() -> StableDiffusionPipeline:
    """Return the world's text-to-image pipeline with the ORIGINAL text tower.

    Raises:
        MissingExtraError: diffusers is not installed.
    """
    try:
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    except ImportError as error:
        raise MissingExtraError("diffusers", "diffusers") from error
    from diffusers.utils import logging

    logging.disable_progress_bar()
    loaded: StableDiffusionPipeline = quiet(StableDiffusionPipeline, checked(GENERATOR))
    logging.enable_progress_bar()
    loaded.set_progress_bar_config(disable=True)
    return loaded


def judge() -> Judge:
    """Return the world's judge."""
    from safetensors.torch import load_file

    from safeencoders.pictoworld.judge import Judge, JudgeNet

    net = JudgeNet()
    net.load_state_dict({k: v.float() for k, v in load_file(checked(JUDGE) / "model.safetensors").items()})
    return Judge(net)


def vlm() -> LlavaForConditionalGeneration:
    """Return the world's vision-language model with the ORIGINAL vision tower: float32, eval mode, gradients off."""
    from transformers import LlavaForConditionalGeneration

    model: LlavaForConditionalGeneration = quiet(LlavaForConditionalGeneration, checked(VLM))
    model.eval().requires_grad_(False)
    return model


def vlm_processor() -> LlavaProcessor:
    """Return what makes the vision-language model's inputs of pictures and prompts (see ``talk.prompt``)."""
    from transformers import LlavaProcessor

    loaded: LlavaProcessor = LlavaProcessor.from_pretrained(WEIGHTS / VLM, local_files_only=True, backend="pil")
    return loaded
