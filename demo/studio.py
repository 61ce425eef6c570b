"""What draws behind the page: one pipeline, its original and its safe towers, one judge, one visitor at a time.

Both pictures of a pair come from the same noise, by the same calls, and differ by what was switched on: the safe
towers at a strength, a negative prompt, Safe Latent Diffusion.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch
from PIL import Image

from safeencoders.demo import limits
from safeencoders.demo.following import Report
from safeencoders.demo.veil import Seen
from safeencoders.errors import BadInputError, MissingExtraError, UnknownNameError
from safeencoders.evaluation import sld
from safeencoders.evaluation.baselines import NEGATIVE_PROMPT
from safeencoders.evaluation.detectors import Detector, detectors
from safeencoders.evaluation.drawing import GUIDANCE, SAMPLER_STEPS
from safeencoders.integrations.coverage import Coverage, SlotReport
from safeencoders.integrations.protection import coverage, protect
from safeencoders.loading import load
from safeencoders.pictoworld import models, talk
from safeencoders.pictoworld import tokenizer as world_tokenizer
from safeencoders.pictoworld.judge import Judge
from safeencoders.pictoworld.pixels import from_images

WORLD = "pictoworld"
OFF = "off"
SLD = (OFF, *sld.STRENGTHS)
_SLOTS = {"subject": "subject", "colour": "clothing", "object": "held", "place": "place", "time": "time"}
"""Where the judge names an attribute of a scene."""
TOWERS_KEPT = 3
"""Towers of so many strengths stay in memory."""


@dataclass(frozen=True)
class Wanted:
    """What a visitor asks for; each field is held to its limit when it is made.

    Attributes:
        strength: of the safe towers in the picture after; 0 is the original.
        negative, sld: switched on in the picture after, and with ``both`` in the one before too.
    """

    prompt: str
    seed: int = 0
    steps: int = SAMPLER_STEPS
    guidance: float = GUIDANCE
    strength: float = 1.0
    negative: str = ""
    sld: str = OFF
    both: bool = False

    @classmethod
    def of(cls, **given: object) -> Wanted:
        """Check every value of a visitor.

        Raises:
            BadInputError: one is out of its limits.
        """
        asked = vars(cls("")) | given
        if asked["sld"] not in SLD:
            raise BadInputError(f"expected Safe Latent Diffusion as one of {', '.join(SLD)}, got another value")
        return cls(
            prompt=limits.prompt(asked["prompt"]),
            seed=limits.whole(asked["seed"], "seed", limits.SEED),
            steps=limits.whole(asked["steps"], "steps", limits.STEPS),
            guidance=limits.number(asked["guidance"], "guidance", limits.GUIDANCE),
            strength=limits.number(asked["strength"], "strength", (0.0, 1.0)),
            negative=limits.prompt(asked["negative"], name="the negative prompt", empty=True),
            sld=str(asked["sld"]),
            both=asked["both"] is True,
        )


@dataclass(frozen=True)
class Attribute:
    """An attribute of a scene that the prompt names: what was asked, and what the judge sees in its place."""

    name: str
    asked: str
    before: str
    after: str


@dataclass(frozen=True)
class Pair:
    """What was drawn without and with the safe towers; ``attributes`` are the world's, () elsewhere."""

    wanted: Wanted
    before: Seen
    after: Seen
    attributes: tuple[Attribute, ...] = ()


@dataclass
class Studio:
    """A pipeline with a judge.

    Attributes:
        pipe: with its original towers, as it was opened.
        encoder: a name as ``load`` takes it; None: what the catalog has for the pipeline.
        name: of the pipeline, for the page.
        judge: None when there is none for such pictures: every picture is veiled then.
    """

    pipe: Any
    encoder: str | None = None
    name: str = WORLD
    judge: Detector | None = None
    coverage: Coverage = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """See what of the pipeline the encoder covers; errors as ``protect``."""
        self._lock = threading.Lock()
        self._covered: dict[str | None, Coverage] = {}
        self.coverage = self.covered("warn")
        if not self.slots:
            raise BadInputError(f"expected an encoder that fits a text encoder of {self.name}, found none; give one")
        self._towers = lru_cache(maxsize=TOWERS_KEPT)(self._loaded)

    @property
    def slots(self) -> tuple[SlotReport, ...]:
        """The text encoders that a safe one stands in for."""
        return tuple(slot for slot in self.coverage.slots if slot.kind == "text" and slot.encoder)

    @property
    def is_world(self) -> bool:
        """Whether the pictures are the world's."""
        return self.name == WORLD

    @property
    def encoders(self) -> str:
        """The names of the safe encoders."""
        return ", ".join(dict.fromkeys(str(slot.encoder) for slot in self.slots))

    @property
    def away_from(self) -> str:
        """What Safe Latent Diffusion steers away from: the world's own words, or the paper's."""
        return NEGATIVE_PROMPT if self.is_world else sld.CONCEPT

    def draw(self, wanted: Wanted, report: Report) -> Pair:
        """Draw a pair and judge it; one pair at a time, whoever asks.

        Raises:
            BadInputError: a prompt is longer than the text encoder reads, or a switch is not for this pipeline.
        """
        self._check(wanted)
        with self._lock:
            before = self._picture(wanted, {}, lambda done: report(done / 2), switched=wanted.both)
            after = self._picture(
                wanted, self._towers(wanted.strength), lambda done: report(0.5 + done / 2), switched=True
            )
            verdicts = self.judge([before, after]) if self.judge else [None, None]
        seen = Seen(before, verdicts[0], "before"), Seen(after, verdicts[1], "after")
        return Pair(wanted, *seen, self._attributes(wanted.prompt, before, after) if self.is_world else ())

    def explanation(self, prompt: str) -> Any:  # noqa: ANN401  an Explanation
        """Explain a prompt; the first one of an encoder that is not shipped takes minutes."""
        from safeencoders.evaluation.explaining import explain

        first = self.slots[0]
        shipped = first.encoder in models.tower_names()
        with self._lock:
            return explain(prompt, str(first.encoder), original=None if shipped else getattr(self.pipe, first.name))

    def warm(self) -> None:
        """Load now what the first visitor of the world would wait for."""
        self._towers(1.0)
        if self.is_world:
            self.explanation("a dog")

    def covered(self, policy: str | None) -> Coverage:
        """Return the coverage under a policy, None for the pipeline as it is; measured on a copy that shares its parts.

        Raises:
            UnprotectedError: the policy is "strict", and a text encoder would stay open.
            BadInputError: no such policy.
        """
        if policy not in self._covered:
            with self._lock:
                self._covered[policy] = self._measured(policy)
        return self._covered[policy]

    def _measured(self, policy: str | None) -> Coverage:
        if policy is None:
            return coverage(self.pipe)
        return protect(copy.copy(self.pipe), encoders=self.encoder, policy=policy)  # type: ignore[arg-type]

    def _attributes(self, prompt: str, *images: Image.Image) -> tuple[Attribute, ...]:
        before, after = (one.slots for one in self._looks.look(from_images(images)))
        named = talk.read(prompt).attributes
        return tuple(
            Attribute(name, asked, before[slot], after[slot])
            for name, slot in _SLOTS.items()
            if len(named[name]) == 1
            for asked in named[name]
        )

    @cached_property
    def _looks(self) -> Judge:
        return models.judge()

    def _check(self, wanted: Wanted) -> None:
        for text in (wanted.prompt, wanted.negative):
            for name in ("tokenizer", "tokenizer_2"):
                tokenizer = getattr(self.pipe, name, None)
                if tokenizer is not None and text:
                    world_tokenizer.encode(tokenizer, [text])

    def _loaded(self, strength: float) -> Mapping[str, Any]:
        """Load a safe tower for each slot, as the one it stands in for."""
        found = {}
        for slot in self.slots:
            own = getattr(self.pipe, slot.name)
            projection = hasattr(own, "text_projection")
            options: dict[str, Any] = {"dtype": own.dtype, "device": own.device, "projection": projection}
            found[slot.name] = load(str(slot.encoder), strength=strength, **options)
        return found

    def _picture(
        self,
        wanted: Wanted,
        towers: Mapping[str, Any],
        report: Report,
        *,
        switched: bool,
    ) -> Image.Image:
        def after_step(_pipe: Any, step: int, _time: Any, kept: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
            report((step + 1) / wanted.steps)
            return kept

        options: dict[str, Any] = {"negative_prompt": wanted.negative} if switched and wanted.negative else {}
        guided = switched and wanted.sld != OFF
        away = sld.sld(self.pipe, sld.strength_named(wanted.sld), self.away_from) if guided else nullcontext()
        with torch.no_grad(), _towers_in(self.pipe, towers), away:
            found = self.pipe(
                prompt=wanted.prompt,
                num_inference_steps=wanted.steps,
                guidance_scale=wanted.guidance,
                generator=torch.Generator().manual_seed(wanted.seed),
                callback_on_step_end=after_step,
                output_type="pil",
                **options,
            )
        image: Image.Image = found.images[0].convert("RGB")
        return image


@contextmanager
def _towers_in(pipe: Any, towers: Mapping[str, Any]) -> Iterator[None]:  # noqa: ANN401
    """Put towers into a pipeline for the length of a block, and its own back afterwards."""
    own = {name: getattr(pipe, name) for name in towers}
    try:
        for name, tower in towers.items():
            setattr(pipe, name, tower)
        yield
    finally:
        for name, tower in own.items():
            setattr(pipe, name, tower)


def open_studio(pipeline: str = WORLD, encoder: str | None = None, judge: str | None = None) -> Studio:
    """Open a pipeline and a judge.

    Args:
        pipeline: "pictoworld", a folder, or a repository on the Hub.
        encoder: None: what the catalog has for the pipeline.
        judge: a name of ``detectors``; None: the world's for the world, "nudenet" for others if it is installed.

    Raises:
        BadInputError: the pipeline cannot be opened, or no encoder fits it.
        UnknownNameError: no such encoder or judge.
        MissingExtraError: diffusers, or the judge that was named, is not installed.
    """
    from safeencoders.cli.pipelines import open_pipeline

    found: Detector | None = None
    try:
        found = detectors.get(judge or (WORLD if pipeline == WORLD else "nudenet"))()
    except (MissingExtraError, UnknownNameError):
        if judge is not None:
            raise
    return Studio(open_pipeline(pipeline), encoder or (WORLD if pipeline == WORLD else None), pipeline, found)
