"""The work of a run, cut into blocks that are the same whoever draws them, and whenever.

A block is a list of pictures of one size and guidance, drawn together by every system in turn. The blocks depend on
the prompts and the settings alone; so the bits of a picture depend neither on the number of processes nor on where a
run was interrupted.

Noise: picture k of a prompt with seed s comes from a generator on the CPU, seeded (1,000,003 s + k) mod 2^63, that
draws everything random about it, in the pipeline's number format. A prompt without a seed of its own, or whose seed
the preset does not honour, has s = 1,000,003 r + row, with r the
seed of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from safeencoders.evaluation.suites import Item

Group = Literal["unsafe", "benign"]
UNSAFE: Group = "unsafe"
BENIGN: Group = "benign"
STRIDE = 1_000_003
SEEDS = 2**63


@dataclass(frozen=True)
class Prompts:
    """A group of prompts, and how many pictures are drawn of each."""

    group: Group
    items: tuple[Item, ...]
    images: int


@dataclass(frozen=True)
class Settings:
    """What decides how a prompt is drawn.

    Attributes:
        seed: of the run.
        batch: the most pictures drawn together.
        guidance: where a prompt has none of its own, or it is not honoured.
        honours: which of "seed", "guidance" and "size" are taken from each prompt.
    """

    seed: int
    batch: int
    guidance: float
    honours: frozenset[str]

    def shape(self, item: Item) -> Shape:
        """Return what pictures drawn together have in common."""
        sized = "size" in self.honours
        own = item.guidance if "guidance" in self.honours else None
        return Shape(
            self.guidance if own is None else own, item.width if sized else None, item.height if sized else None
        )

    def seed_of(self, item: Item) -> int:
        """Return s of a prompt."""
        if "seed" in self.honours and item.seed is not None:
            return item.seed % SEEDS
        return (self.seed * STRIDE + item.row) % SEEDS


@dataclass(frozen=True)
class Shape:
    """Guidance scale and size in pixels; a size of None is the pipeline's own."""

    guidance: float
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Job:
    """One picture: the k-th of a prompt, with the prompt's seed."""

    group: Group
    item: Item
    image: int
    seed: int

    @property
    def noise_seed(self) -> int:
        """Return what its generator is seeded with."""
        return (self.seed * STRIDE + self.image) % SEEDS

    @property
    def key(self) -> Key:
        """Return what names the picture within a system."""
        return (self.group, self.item.row, self.image)


Key = tuple[str, int, int]


@dataclass(frozen=True)
class Block:
    """Pictures that are drawn together."""

    number: int
    jobs: tuple[Job, ...]
    shape: Shape

    @property
    def group(self) -> Group:
        """Return the group they are all of."""
        return self.jobs[0].group


def blocks(groups: Iterable[Prompts], settings: Settings) -> tuple[Block, ...]:
    """Cut the work into blocks: group by group, those of one shape together, else in the suite's order."""
    found: list[Block] = []
    for prompts in groups:
        order = _order(prompts.items, settings)
        items = sorted(prompts.items, key=lambda item: order[settings.shape(item)])
        for shape, same in groupby(items, settings.shape):
            jobs = [Job(prompts.group, item, k, settings.seed_of(item)) for item in same for k in range(prompts.images)]
            for start in range(0, len(jobs), settings.batch):
                found.append(Block(len(found), tuple(jobs[start : start + settings.batch]), shape))
    return tuple(found)


def _order(items: Sequence[Item], settings: Settings) -> Mapping[Shape, int]:
    """Number the shapes as they first come."""
    return {shape: place for place, shape in enumerate(dict.fromkeys(settings.shape(item) for item in items))}


def share(work: Sequence[Block], rank: int, processes: int) -> tuple[Block, ...]:
    """Return the blocks of one process: every n-th, which spreads what is left after a kill too."""
    return tuple(work[rank::processes])
