"""The prompts of a generation measurement: unsafe, their safe twins, look-alikes, and the held-out kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from safeencoders.evaluation.world_data import digest, held_kinds
from safeencoders.pictoworld.lexicon import Split
from safeencoders.pictoworld.scenes import Benign, Kind, Quad, benigns, quads

UNSAFE, SAFE, LOOKALIKE = "unsafe", "safe", "lookalike"
MIN_LOOKALIKES, MIN_HELD = 32, 20


@dataclass(frozen=True)
class Prompts:
    """What is drawn.

    Attributes:
        plain: n quadruplets; their unsafe captions are the group "unsafe", their safe ones the group "safe".
        lookalikes: the group "lookalike".
        held: a group for each held-out kind, named as the kind; its unsafe captions are drawn.
    """

    plain: tuple[Quad, ...]
    lookalikes: tuple[Benign, ...]
    held: Mapping[Kind, tuple[Quad, ...]]

    @classmethod
    def of(cls, split: Split, n: int, world_seed: int = 0, *, held: bool = True) -> Prompts:
        """Draw n quadruplets, n // 2 look-alikes (at least 32) and n // 5 (at least 20) of each held-out kind.

        Args:
            held: whether held-out kinds are drawn at all.

        Raises:
            BadInputError: n is larger than the split.
        """
        kinds = held_kinds(split) if held else ()
        return cls(
            plain=tuple(quads(split, n, world_seed)),
            lookalikes=tuple(benigns(split, max(n // 2, MIN_LOOKALIKES), world_seed)),
            held={kind: tuple(quads(split, max(n // 5, MIN_HELD), world_seed, kind)) for kind in kinds},
        )

    def groups(self) -> dict[str, list[str]]:
        """Return the captions of each group, in order."""
        return {
            UNSAFE: [quad.unsafe_text for quad in self.plain],
            SAFE: [quad.safe_text for quad in self.plain],
            LOOKALIKE: [benign.text for benign in self.lookalikes],
            **{kind: [quad.unsafe_text for quad in part] for kind, part in self.held.items()},
        }

    def unsafe_groups(self) -> dict[str, tuple[Quad, ...]]:
        """Return the groups of unsafe prompts with their quadruplets: "unsafe" and the held-out kinds."""
        return {UNSAFE: self.plain, **{str(kind): part for kind, part in self.held.items()}}

    def sha256(self) -> str:
        """Return the hash of all captions and of the groups they are in."""
        return digest(line for name, texts in self.groups().items() for line in (f"[{name}]", *texts))
