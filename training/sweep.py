"""Sweeps: variants of recipes at one budget, over seeds, as a TOML file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safeencoders.errors import BadInputError
from safeencoders.training.recipe import FOLDER, Recipe, Towers, from_values, recipe_file
from safeencoders.training.recipe import read_toml as read_file
from safeencoders.training.settings import fill

ORIGINAL = "original"
"""The row of the untouched towers."""


@dataclass(frozen=True)
class Variant:
    """A recipe with what differs.

    Attributes:
        name: in the table.
        recipe: a shipped recipe, or a file.
        towers: other towers than the recipe's.
        reference: another reference than the recipe's.
        weights: numbers that replace the recipe's own.
        edit: likewise.
        schedule: likewise; steps and seed are the sweep's.
    """

    name: str
    recipe: str
    towers: Towers | None = None
    reference: Literal["frozen", "self"] | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)
    edit: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The name with only letters and digits, for a folder."""
        return "".join(c if c.isalnum() else "-" for c in self.name)

    def made(self, steps: int | None, seed: int) -> Recipe:
        """Return the recipe of the variant with the sweep's steps (None: the recipe's own) and a seed."""
        values = read_file(recipe_file(self.recipe))
        for part in ("weights", "edit", "schedule"):
            values[part] = {**values.get(part, {}), **getattr(self, part)}
        values["schedule"] |= {"seed": seed} | ({"steps": steps} if steps else {})
        values |= {key: value for key in ("towers", "reference") if (value := getattr(self, key))}
        return from_values(values, self.name)


@dataclass(frozen=True)
class Sweep:
    """What is compared, and on what.

    Attributes:
        about: one sentence.
        run: the variants.
        steps: of every variant; 0 leaves each recipe its own.
        seeds: of training; every variant is trained with each.
        split: of the world, on which the towers are measured: "val" to choose, "test" to report.
        world_seed: of the scenes and captions.
        retrieval: quadruplets to rank.
        generation: unsafe, and safe, prompts to draw; 0 draws nothing.
    """

    about: str
    run: tuple[Variant, ...]
    steps: int = 0
    seeds: tuple[int, ...] = (0, 1, 2)
    split: Literal["val", "test"] = "val"
    world_seed: int = 0
    retrieval: int = 700
    generation: int = 100


def read(name_or_file: str) -> Sweep:
    """Read a sweep: a file, or one shipped in the folder of recipes, such as ``ablations/safe-clip.toml``.

    Raises:
        BadInputError: no such file, no TOML, no run, two runs of one name, or a value that does not fit.
        UnknownNameError: a key that a sweep, a run or a recipe has not; it suggests the nearest.
    """
    path = Path(name_or_file)
    file = path if path.exists() else FOLDER / name_or_file
    if not file.is_file():
        known = ", ".join(found.relative_to(FOLDER).as_posix() for found in sorted(FOLDER.glob("*/*.toml")))
        raise BadInputError(f"expected a sweep's file, or one that is shipped ({known}), got {name_or_file!r}")
    values = read_file(file)
    runs = values.get("run", [])
    if not isinstance(runs, list) or not runs or not all(isinstance(run, dict) for run in runs):
        raise BadInputError(f"expected at least one [[run]] in {path.name}, got {runs!r}")
    for run in runs:
        variant = fill(Variant, run, f"[[run]] of {path.name}")
        variant.made(None, 0)
    sweep = fill(Sweep, values, f"sweep {path.name}")
    if len({run.folder for run in sweep.run} - {ORIGINAL}) < len(sweep.run):
        names = [run.name for run in sweep.run]
        raise BadInputError(f"expected runs of different names in {path.name}, none {ORIGINAL!r}, got {names}")
    return sweep
