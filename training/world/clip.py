"""The world's CLIP, fitted from scratch on pairs of the train split (Radford et al., 2021, symmetric InfoNCE).

The unsafe twin of every picture is in its batch, as the nearest negative; concepts, synonyms, implicit
wordings and look-alikes of all splits are known to it, as they would be to a CLIP of the wild.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from safeencoders.pictoworld import tokenizer as world_tokenizer
from safeencoders.pictoworld.pixels import pixel_values
from safeencoders.pictoworld.renderer import SIZE, render_batch
from safeencoders.pictoworld.scenes import stream
from safeencoders.training.loop import LossTask

WIDTH = 128


def config(tokenizer: CLIPTokenizer) -> CLIPConfig:
    """Return the architecture: 4 + 4 layers of width 128, 16 pixel patches."""
    shared = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4, "num_hidden_layers": 4}
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": world_tokenizer.CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
        "projection_dim": WIDTH,
    }
    vision = {"image_size": SIZE, "patch_size": 16, "projection_dim": WIDTH}
    return CLIPConfig(text_config=shared | text, vision_config=shared | vision, projection_dim=WIDTH)


class ClipTask(LossTask):
    """Symmetric InfoNCE over a batch of quadruplets and look-alikes."""

    def __init__(self, tokenizer: CLIPTokenizer, batch: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = CLIPModel(config(tokenizer))
        self.module = self.model
        self._tokenizer, self._batch, self._seed = tokenizer, batch, seed

    def loss(self, step: int) -> Tensor:
        """Return the loss of a step's batch; the logit scale is held at 100 or below."""
        quads, benigns = stream("clip", self._seed, step, self._batch, everything=True)
        texts = [q.safe_text for q in quads] + [q.unsafe_text for q in quads] + [b.text for b in benigns]
        pictures = [q.safe for q in quads] + [q.unsafe for q in quads] + [b.picture for b in benigns]
        ids = world_tokenizer.encode(self._tokenizer, texts)
        pixels = pixel_values(render_batch(pictures))
        with torch.autocast("cpu", torch.bfloat16):
            text = self.model.get_text_features(input_ids=ids).pooler_output
            image = self.model.get_image_features(pixel_values=pixels).pooler_output
        scale = self.model.logit_scale.clamp(max=4.6052).exp()
        logits = scale * functional.normalize(text.float(), dim=-1) @ functional.normalize(image.float(), dim=-1).T
        target = torch.arange(len(texts))
        return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
