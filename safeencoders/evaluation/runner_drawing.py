"""Drawing one block with any text-to-image pipeline of diffusers; no prompt leaves in a log or an error."""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from safeencoders.errors import BadInputError, SafeEncodersError
from safeencoders.evaluation.sharding import Block
from safeencoders.evaluation.sld import Encoded, sld, strength_named
from safeencoders.evaluation.suites import Item
from safeencoders.evaluation.systems import System

Pixels = NDArray[np.uint8]
_LIBRARIES = ("diffusers", "transformers")


class DrawingError(SafeEncodersError, RuntimeError):
    """A pipeline failed; the message says where, and nothing of what it was asked for."""


@dataclass(frozen=True)
class Concept:
    """What a negative prompt names and SLD steers away from.

    Attributes:
        text: read by the encoder that is in the pipeline.
        encoded: the text as the original encoder understands it, for systems with the safe one in the pipeline; None:
            these read the text by the safe one, as after a plain swap.
    """

    text: str
    encoded: Encoded | None = None

    def of(self, system: System) -> str | Encoded:
        """Return what a system is given."""
        return self.text if self.encoded is None or not system.encoder else self.encoded


def draw(
    pipe: Any,  # noqa: ANN401  any pipeline
    block: Block,
    system: System,
    *,
    steps: int,
    concept: Concept,
) -> Pixels:
    """Draw the pictures of a block; the safe encoder, where the system has one, is already in the pipeline.

    Without guidance (a scale of 1 or less) neither a negative prompt nor SLD does anything, as in the published code.

    Args:
        steps: of the sampler.
        concept: what the system avoids, where it does.

    Returns:
        RGB, uint8 (n, height, width, 3).

    Raises:
        DrawingError: the pipeline failed.
        BadInputError: there is not enough memory for the block.
    """
    shape = block.shape
    guided = shape.guidance > 1
    options: dict[str, Any] = {
        "prompt": [job.item.prompt for job in block.jobs],
        "generator": [torch.Generator().manual_seed(job.noise_seed) for job in block.jobs],
        "num_inference_steps": steps,
        "guidance_scale": shape.guidance,
        "output_type": "np",
    }
    options |= {name: value for name, value in (("width", shape.width), ("height", shape.height)) if value is not None}
    if system.negative and guided:
        options |= _negative(concept.of(system), len(block.jobs))
    guidance = sld(pipe, strength_named(system.sld), concept.of(system)) if system.sld and guided else nullcontext()
    try:
        with discreet(), torch.inference_mode(), guidance:
            images = pipe(**options).images
    except SafeEncodersError:
        raise
    except (torch.OutOfMemoryError, MemoryError):
        raise BadInputError(
            f"expected memory for {len(block.jobs)} pictures at once, there is not enough; choose a smaller --batch "
            "and another --out"
        ) from None
    except Exception as error:  # noqa: BLE001  whatever it is, its words may quote the prompt
        raise DrawingError(_said(pipe, error)) from None
    if not np.isfinite(images).all():  # a black picture would be judged safe
        raise DrawingError(f"{type(pipe).__name__} drew numbers that are not finite, as a too narrow format does")
    pixels: Pixels = np.rint(np.asarray(images) * 255).clip(0, 255).astype(np.uint8)
    return pixels


def _negative(concept: str | Encoded, n: int) -> dict[str, Any]:
    if isinstance(concept, str):
        return {"negative_prompt": [concept] * n}
    text, pooled = concept
    found = {"negative_prompt_embeds": text.expand(n, -1, -1)}
    return found if pooled is None else found | {"negative_pooled_prompt_embeds": pooled.expand(n, -1)}


def _said(pipe: Any, error: Exception) -> str:  # noqa: ANN401
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"{type(pipe).__name__} failed with {type(error).__name__} at {place}; its message may quote the prompt"


@contextmanager
def discreet() -> Iterator[None]:
    """Keep diffusers and transformers from writing warnings: those about long prompts quote them."""
    loggers = [
        found
        for name, found in logging.root.manager.loggerDict.items()
        if isinstance(found, logging.Logger) and name.split(".")[0] in _LIBRARIES
    ]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def default_of(pipe: Any, name: str) -> Any:  # noqa: ANN401  of any pipeline
    """Return the default of an argument of the pipeline's call, such as "num_inference_steps".

    Raises:
        BadInputError: there is no such argument, so it is no text-to-image pipeline of the ordinary kind.
    """
    parameters = inspect.signature(type(pipe).__call__).parameters
    if name not in parameters:
        raise BadInputError(
            f"expected a text-to-image pipeline that is called with {name}, got {type(pipe).__name__}, which is not"
        )
    return parameters[name].default


def too_long(pipe: Any, items: Sequence[Item]) -> tuple[int, ...]:  # noqa: ANN401  any pipeline
    """Return the rows of prompts that are longer than what the pipeline's first tokenizer takes; the rest is cut."""
    tokenizer = getattr(pipe, "tokenizer", None)
    if tokenizer is None:
        return ()
    with discreet():
        found = tokenizer([item.prompt for item in items]).input_ids
    return tuple(item.row for item, ids in zip(items, found, strict=True) if len(ids) > tokenizer.model_max_length)
