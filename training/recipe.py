"""Recipes: the exact file that made each shipped model, as TOML beside the code.

A recipe is read into frozen dataclasses; an unknown key is an error, so that a typing slip is not a silent default.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safeencoders.errors import BadInputError, UnknownNameError
from safeencoders.training.adversary import Attack
from safeencoders.training.edits import EditSpec
from safeencoders.training.loop import Schedule
from safeencoders.training.objectives import objectives
from safeencoders.training.objectives.terms import Objective
from safeencoders.training.settings import fill

Towers = Literal["text", "vision", "both"]
FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """How one model was made.

    Attributes:
        name: the file's name without its ending.
        about: one sentence.
        schedule: length and rate of the training.
        objective: name in the registry of objectives; empty for the world's base models.
        weights: the objective's own numbers.
        towers: which towers are trained: "text", "vision" or "both".
        edit: how their weights may move.
        reference: "frozen", the original, or "self", as the released Safe-CLIP script has it; an ablation.
        attack: how captions are attacked while the tower is trained; None: they are not.
        options: numbers of a base model's own, such as the chunks of latents to draw from.
    """

    name: str
    about: str
    schedule: Schedule
    objective: str = ""
    weights: Mapping[str, Any] = field(default_factory=dict)
    towers: Towers = "text"
    edit: EditSpec = field(default_factory=EditSpec)
    reference: Literal["frozen", "self"] = "frozen"
    attack: Attack | None = None
    options: Mapping[str, int] = field(default_factory=dict)

    def terms(self) -> Objective:
        """Return the objective with the recipe's weights.

        Raises:
            UnknownNameError: no such objective, or a weight that it has not; it suggests the nearest.
            BadInputError: a weight of the wrong type.
        """
        return objectives.get(self.objective)(**self.weights)


def names() -> tuple[str, ...]:
    """Return the names of the shipped recipes."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def from_values(values: Mapping[str, Any], name: str) -> Recipe:
    """Make a recipe of what a TOML file says.

    Raises:
        UnknownNameError: a key that no recipe has, or an objective that nobody registered; it suggests the nearest.
        BadInputError: a number is missing or of the wrong type.
    """
    values = {"name": name, **values}
    for part, kind in (("schedule", Schedule), ("edit", EditSpec), ("attack", Attack)):
        if not isinstance(values.get(part, {}), dict):
            raise BadInputError(f"expected a table [{part}] in recipe {name}, got {values[part]!r}")
        fill(kind, values.get(part, {}), f"[{part}] of recipe {name}")
    made = fill(Recipe, values, f"recipe {name}")
    if made.objective:
        made.terms()
    return made


def read(name_or_file: str) -> Recipe:
    """Read a shipped recipe by name, or any file that ends in .toml.

    Raises:
        UnknownNameError: no such recipe, or a key that no recipe has; it suggests the nearest.
        BadInputError: the file is not TOML, or a number is missing.
    """
    path = recipe_file(name_or_file)
    return from_values(read_toml(path), path.stem)


def recipe_file(name_or_file: str) -> Path:
    """Return the file of a shipped recipe, or the path itself when it ends in .toml.

    Raises:
        UnknownNameError: no such recipe; it suggests the nearest.
    """
    path = Path(name_or_file)
    if path.suffix == ".toml":
        return path
    if name_or_file not in names():
        raise UnknownNameError("recipe", name_or_file, names())
    return FOLDER / f"{name_or_file}.toml"


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        BadInputError: there is none, or it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInputError(f"expected a TOML file in {path}: {error}") from error
