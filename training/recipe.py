"""Recipes: the exact file that made each shipped model, as TOML beside the code.

A recipe is read into frozen dataclasses; an unknown key is an error, so that a typing slip is not a silent default.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from safeencoders.errors import BadInputError, UnknownNameError
from safeencoders.training.loop import Schedule

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
        frozen: beginnings of parameter names that do not move.
        options: numbers of a base model's own, such as the chunks of latents to draw from.
    """

    name: str
    about: str
    schedule: Schedule
    objective: str = ""
    weights: Mapping[str, Any] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    options: Mapping[str, int] = field(default_factory=dict)


def names() -> tuple[str, ...]:
    """Return the names of the shipped recipes."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def _fill(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:  # noqa: ANN401  the dataclass given
    known = {entry.name for entry in fields(kind)}
    for key in values:
        if key not in known:
            raise UnknownNameError(f"key of {where}", key, known - {"name"})
    try:
        return kind(**values)
    except TypeError as error:
        raise BadInputError(f"expected a complete {where}, got {sorted(values)}: {error}") from error


def read(name_or_file: str) -> Recipe:
    """Read a shipped recipe by name, or any file that ends in .toml.

    Raises:
        UnknownNameError: no such recipe, or a key that no recipe has; it suggests the nearest.
        BadInputError: the file is not TOML, or a number is missing.
    """
    path = Path(name_or_file)
    if path.suffix != ".toml":
        if name_or_file not in names():
            raise UnknownNameError("recipe", name_or_file, names())
        path = FOLDER / f"{name_or_file}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadInputError(f"expected a TOML recipe in {path}: {error}") from error
    values["schedule"] = _fill(Schedule, values.get("schedule", {}), f"[schedule] in {path.name}")
    values["frozen"] = tuple(values.get("frozen", ()))
    made: Recipe = _fill(Recipe, {"name": path.stem} | values, f"recipe {path.name}")
    return made
