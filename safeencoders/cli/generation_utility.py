"""What protection costs on benign prompts, measured by an original CLIP where one can be had."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from PIL import Image

from safeencoders.catalog import ORIGINAL
from safeencoders.errors import HubError
from safeencoders.evaluation import systems
from safeencoders.evaluation.runner import Measure, pixels_only
from safeencoders.evaluation.runner_drawing import DrawingError, draw
from safeencoders.evaluation.sharding import BENIGN
from safeencoders.evaluation.utility import OriginalClip, Utility, world_judge

if TYPE_CHECKING:
    from safeencoders.cli.generation_plan import Plan

CLIP = "openai/clip-vit-large-patch14"


def original_clip(pipe: Any, *, world: bool) -> OriginalClip | None:  # noqa: ANN401  any pipeline
    """Return the world's CLIP, or OpenAI's; None where it cannot be had, or reads other tokens than the pipeline."""
    if world:
        return OriginalClip.load(ORIGINAL, pipe.tokenizer)
    tokenizer = getattr(pipe, "tokenizer", None)
    if tokenizer is None:
        return None
    try:
        clip = OriginalClip.load(CLIP, tokenizer, device=str(pipe.device))
    except HubError:
        return None
    return clip if len(tokenizer) == clip.text.config.vocab_size else None


def measure_of(plan: Plan) -> Measure:
    """Return what measures the pictures of benign prompts: by pixels alone where there is no CLIP.

    Its yardstick of unrelated pictures is the first benign block, drawn once by every process when it is first needed.
    """
    clip = plan.clip
    if clip is None:
        return pixels_only

    @cache
    def utility() -> Utility:
        first = next(block for block in plan.blocks if block.group == BENIGN)
        unrelated: list[Image.Image] = []
        with suppress(DrawingError):
            drawn = draw(plan.pipe, first, systems.ORIGINAL, steps=plan.steps, concept=plan.concept)
            unrelated = [Image.fromarray(one) for one in drawn] if len(drawn) > 1 else []
        return Utility(clip, unrelated=unrelated, judge=world_judge if plan.own else None)

    def measure(
        images: Sequence[Image.Image], prompts: Sequence[str], references: Sequence[Image.Image]
    ) -> list[dict[str, float]]:
        return utility()(images, prompts, references)

    return measure
