"""The embedded world behind the page: an album of pictures, an index over it, a vision-language model.

What a visitor uploads is shrunk to the world's 64 x 64 pixels: its models know pictograms and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from safeencoders.demo.veil import Seen
from safeencoders.evaluation.description import MAX_TOKENS, vision_tower
from safeencoders.evaluation.detectors.pictoworld import PictoworldDetector
from safeencoders.loading import DEFAULT, load
from safeencoders.pictoworld import models, talk
from safeencoders.pictoworld.renderer import SIZE, render_batch
from safeencoders.pictoworld.scenes import Quad, quads
from safeencoders.pictoworld.talk import QUESTIONS, Topic
from safeencoders.retrieval import Index, Mode

SCENES, TOP, SAMPLES = 150, 6, 8


@dataclass
class World:
    """Everything is loaded at first use; one visitor at a time uses a model.

    Attributes:
        encoder: a shipped one with both towers.
    """

    encoder: str = DEFAULT
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @cached_property
    def quads(self) -> tuple[Quad, ...]:
        """The scenes of the album, each with its unsafe twin; of the split that no encoder was trained on."""
        return tuple(quads("test", SCENES, 0))

    @cached_property
    def album(self) -> dict[str, Seen]:
        """Every picture of the album by its name, judged."""
        shown = {f"safe {i}": quad.safe for i, quad in enumerate(self.quads)}
        shown |= {f"unsafe {i}": quad.unsafe for i, quad in enumerate(self.quads)}
        images = [Image.fromarray(pixels) for pixels in render_batch(list(shown.values()))]
        verdicts = self._judge(images)
        return {name: Seen(image, verdict) for name, image, verdict in zip(shown, images, verdicts, strict=True)}

    @cached_property
    def samples(self) -> tuple[Seen, ...]:
        """Some pictures to choose from, unsafe and safe ones in turn."""
        return tuple(self.album[f"{'safe' if i % 2 else 'unsafe'} {i}"] for i in range(SAMPLES))

    @cached_property
    def _judge(self) -> PictoworldDetector:
        return PictoworldDetector()

    @cached_property
    def _index(self) -> Index:
        return Index.build(self.encoder, images=[one.image for one in self.album.values()], ids=list(self.album))

    @cached_property
    def _talker(self) -> tuple[Any, Any, Any]:
        return models.vlm(), models.vlm_processor(), load(self.encoder, tower="vision")

    def warm(self) -> None:
        """Load everything now, so that no visitor waits for it."""
        _ = self.samples, self._index, self._talker

    def taken(self, image: Image.Image) -> Seen:
        """Take a visitor's picture: shrunk to the world's size, judged."""
        small = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        with self._lock:
            return Seen(small, self._judge([small])[0], "your picture")

    def search(self, query: str | Image.Image, mode: Mode) -> list[Seen]:
        """Return the nearest pictures of the album.

        Raises:
            BadInputError: the text is too long.
        """
        with self._lock:
            found = self._index.search(query, TOP, mode)
        return [replace(self.album[hit.id], caption=f"{hit.score:.2f}") for hit in found]

    def describe(self, image: Image.Image, topic: Topic) -> tuple[str, str]:
        """Return what the language model answers with its original and with the safe vision tower."""
        model, processor, tower = self._talker
        inputs = processor(images=[image], text=talk.prompt(QUESTIONS[topic][0]), return_tensors="pt")
        with self._lock:
            before, after = (self._answer(model, processor, inputs, one) for one in (None, tower))
        return before, after

    @torch.no_grad()
    def _answer(self, model: Any, processor: Any, inputs: Any, tower: Any) -> str:  # noqa: ANN401
        with vision_tower(model, tower):
            made = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        said: str = processor.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return said.strip() or "(nothing)"


def unsafe(seen: Sequence[Seen]) -> int:
    """Count the pictures that the judge calls unsafe."""
    return sum(one.verdict is not None and one.verdict.unsafe for one in seen)
