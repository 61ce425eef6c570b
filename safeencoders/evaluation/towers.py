"""The two towers of a CLIP as an embedder; either may be a tuned one, the projections are always the original's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from safeencoders.pictoworld import tokenizer as world_tokenizer
from safeencoders.pictoworld.pixels import pixel_values
from safeencoders.pictoworld.renderer import render_batch
from safeencoders.pictoworld.scenes import Picture

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, CLIPVisionModel

BATCH = 200

Embeddings = NDArray[np.float32]


@dataclass(frozen=True)
class Towers:
    """Embeds captions and pictures into one space.

    Attributes:
        text: a plain CLIPTextModel; its pooled output is projected by `text_projection`.
        vision: a plain CLIPVisionModel; its pooled output is projected by `visual_projection`.
    """

    text: CLIPTextModel
    text_projection: nn.Linear
    vision: CLIPVisionModel
    visual_projection: nn.Linear
    tokenizer: CLIPTokenizer

    @classmethod
    def from_clip(
        cls,
        clip: CLIPModel,
        tokenizer: CLIPTokenizer,
        *,
        text: CLIPTextModel | None = None,
        vision: CLIPVisionModel | None = None,
    ) -> Towers:
        """Take a CLIP's towers and projections, with a tuned tower in the place of its own where one is given.

        The CLIP is not changed.
        """
        return cls(
            text=clip.text_model if text is None else text,
            text_projection=clip.text_projection,
            vision=clip.vision_model if vision is None else vision,
            visual_projection=clip.visual_projection,
            tokenizer=tokenizer,
        )

    def texts(self, texts: Sequence[str]) -> Embeddings:
        """Embed captions.

        Returns:
            float32 (n, d), each row of length 1.

        Raises:
            BadInputError: a caption is longer than the context.
        """

        def pooled(part: Sequence[str]) -> Tensor:
            ids = world_tokenizer.encode(self.tokenizer, part)
            return _project(self.text(input_ids=ids.to(self.text.device)), self.text_projection)

        return _in_batches(texts, pooled)

    def images(self, pictures: Tensor | Sequence[Picture]) -> Embeddings:
        """Embed pictures of the world, drawn here, or pixel values (n, 3, height, width) in -1..1.

        Returns:
            float32 (n, d), each row of length 1.
        """

        def pooled(part: Any) -> Tensor:  # noqa: ANN401  a slice of either form
            pixels = part if isinstance(part, Tensor) else pixel_values(render_batch(part))
            return _project(self.vision(pixel_values=pixels.to(self.vision.device)), self.visual_projection)

        return _in_batches(pictures, pooled)


def _project(output: Any, projection: nn.Linear) -> Tensor:  # noqa: ANN401  a transformers output
    projected: Tensor = projection(output.pooler_output)
    return functional.normalize(projected.float(), dim=-1)


@torch.no_grad()
def _in_batches(items: Any, embed: Callable[[Any], Tensor]) -> Embeddings:  # noqa: ANN401  anything that can be sliced
    if not len(items):
        raise ValueError("Nothing to embed: expected at least one caption or picture.")
    parts = [embed(items[start : start + BATCH]).cpu() for start in range(0, len(items), BATCH)]
    together: Embeddings = torch.cat(parts).numpy()
    return together
