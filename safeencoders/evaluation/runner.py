"""Drawing and judging: every block by every system, from the same noise, each picture judged once and forgotten.

A run that was killed goes on where it was; several processes share its blocks. Pictures are kept only when asked for,
and then blurred where they were judged unsafe, before they are written.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tqdm import tqdm

from safeencoders.evaluation.runner_drawing import Concept, DrawingError, Pixels, draw
from safeencoders.evaluation.runner_verdicts import Folder, Part, Record
from safeencoders.evaluation.sharding import BENIGN, Block, Job, Key, share
from safeencoders.evaluation.systems import ORIGINAL, System
from safeencoders.files import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

    from safeencoders.evaluation.presets import Judgement

THUMBNAILS = 8
THUMBNAIL_SIDE = 192


class Measure(Protocol):
    """What a run needs to say what protection costs."""

    def __call__(
        self, images: Sequence[Image], prompts: Sequence[str], references: Sequence[Image], /
    ) -> list[dict[str, float]]:
        """Return numbers by name for each picture, beside what the unprotected pipeline drew from the same noise."""


class Judges(Protocol):
    """What a run needs of a panel."""

    def __call__(self, images: Sequence[Image], /) -> list[Judgement]:
        """Judge pictures, in their order."""


@dataclass(frozen=True)
class Keep:
    """Which pictures are written, all of them blurred where they were judged unsafe.

    Attributes:
        all: every picture, under images/.
        thumbnails: small ones of the first prompts of each group, under thumbs/, for a report.
    """

    all: bool = False
    thumbnails: bool = False


@dataclass
class Runner:
    """A pipeline, its judges and the work.

    Attributes:
        pipe: a text-to-image pipeline with its ORIGINAL encoders.
        panel: judges pictures.
        measure: says what pictures of benign prompts lose.
        folder: of the run; begun already.
        steps: of the sampler.
        concept: what the systems avoid that avoid one.
        encoder: gives a block in which the safe encoder is in the pipeline.
        on_error: what to do when the pipeline fails on a block: record it for each picture, or stop.
        keep: which pictures are written.
    """

    pipe: Any
    panel: Judges
    measure: Measure
    folder: Folder
    steps: int
    concept: Concept
    encoder: Callable[[], AbstractContextManager[None]] = nullcontext
    on_error: Literal["skip", "stop"] = "skip"
    keep: Keep = Keep()
    _shown: frozenset[Key] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Choose which pictures a report shows."""
        first: dict[str, list[Key]] = {}
        for key in sorted(job.key for block in self.folder.work for job in block.jobs if job.image == 0):
            first.setdefault(key[0], []).append(key)
        self._shown = frozenset(key for keys in first.values() for key in keys[:THUMBNAILS])

    def run(self, rank: int = 0, processes: int = 1) -> None:
        """Draw and judge what is not done yet of a process's share of the blocks.

        Raises:
            DrawingError: the pipeline failed, and ``on_error`` is "stop".
        """
        mine, done = share(self.folder.work, rank, processes), self.folder.done()
        total = sum(len(block.jobs) for block in mine) * len(self.folder.systems)
        with tqdm(total=total, desc="draw and judge", unit="img", mininterval=1, disable=rank > 0) as bar:
            for block in mine:
                for records in self._block(block, done):
                    if records:
                        self.folder.append(rank, records)
                    bar.update(len(block.jobs))

    def _block(self, block: Block, done: set[Part]) -> Iterator[list[Record]]:
        """Yield each system's records of a block; none where they were there before."""
        open_systems = [one for one in self.folder.systems if (block.number, one.name) not in done]
        for _ in range(len(self.folder.systems) - len(open_systems)):
            yield []
        reference: Pixels | None = None
        if block.group == BENIGN and open_systems and ORIGINAL not in open_systems:
            reference = self._draw(block, ORIGINAL)[0]  # drawn before the kill: needed again, not judged again
        for encoder in (False, True):  # one swap a block
            chosen = [one for one in open_systems if one.encoder is encoder]
            with self.encoder() if encoder and chosen else nullcontext():
                for system in chosen:
                    pixels, error = self._draw(block, system)
                    if system == ORIGINAL and block.group == BENIGN:
                        reference = pixels
                    yield self._records(block, system, pixels, reference, error)

    def _draw(self, block: Block, system: System) -> tuple[Pixels | None, str | None]:
        try:
            return draw(self.pipe, block, system, steps=self.steps, concept=self.concept), None
        except DrawingError as error:
            if self.on_error == "stop":
                rows = sorted({job.item.row for job in block.jobs})
                raise DrawingError(
                    f"{error}. It was drawing rows {rows[0]} to {rows[-1]} of the {block.group} prompts with "
                    f"{system.name}; --on-error skip records this and goes on"
                ) from None
            return None, str(error)

    def _records(
        self, block: Block, system: System, pixels: Pixels | None, reference: Pixels | None, error: str | None
    ) -> list[Record]:
        if pixels is None:
            return [_record(job, system) | {"error": error} for job in block.jobs]
        from PIL import Image

        images = [Image.fromarray(one) for one in pixels]
        losses: Sequence[dict[str, float]] = [{}] * len(images)
        if reference is not None:
            prompts = [job.item.prompt for job in block.jobs]
            losses = self.measure(images, prompts, [Image.fromarray(one) for one in reference])
        records = []
        for place, (job, judged) in enumerate(zip(block.jobs, self.panel(images), strict=True)):
            self._write(job, system, images[place], judged)
            record = _record(job, system) | {
                "unsafe": judged.unsafe,
                "labels": list(judged.labels),
                "scores": dict(judged.scores),
                "pixels": hashlib.sha256(pixels[place].tobytes()).hexdigest(),
                "error": judged.error,
            }
            records.append(record | ({"utility": losses[place]} if losses[place] else {}))
        return records

    def _write(self, job: Job, system: System, image: Image, judged: Judgement) -> None:
        """Write a picture where it is to be kept: before its record, so that a record's picture is always there."""
        shown = image if judged.unsafe is False else blurred(image)
        if self.keep.all:
            _save(shown, self.folder.path / "images" / system.name / f"{job.group}-{job.item.row}-{job.image}.png")
        if self.keep.thumbnails and job.key in self._shown:
            small = shown.copy()
            small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            _save(small, self.folder.path / "thumbs" / system.name / f"{job.group}-{job.item.row}.png")


def _record(job: Job, system: System) -> Record:
    return {
        "system": system.name,
        "group": job.group,
        "row": job.item.row,
        "image": job.image,
        "seed": job.seed,
        "categories": list(job.item.categories),
        "unsafe": None,
        "labels": [],
        "scores": {},
        "pixels": None,
        "error": None,
    }


def pixels_only(
    images: Sequence[Image], _prompts: Sequence[str], references: Sequence[Image]
) -> list[dict[str, float]]:
    """Measure how far pictures are from the unprotected ones, by pixels."""
    from safeencoders.evaluation.utility import pixel_distance

    return [{"pixel_distance": pixel_distance(one, other)} for one, other in zip(images, references, strict=True)]


def blurred(image: Image) -> Image:
    """Return a picture of which only broad colours are left."""
    from PIL import ImageFilter

    return image.filter(ImageFilter.GaussianBlur(max(image.size) / 12))


def _save(image: Image, path: Path) -> None:
    content = io.BytesIO()
    image.save(content, "PNG")
    write_atomically(path, content.getvalue())
