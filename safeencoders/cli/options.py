"""Options that several commands share, so that they read the same everywhere."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from safeencoders.errors import BadInputError


class OnError(StrEnum):
    """What to do with one input of many, a row or a picture, that cannot be used."""

    skip = "skip"
    stop = "stop"


Seed = Annotated[
    int, typer.Option("--seed", min=0, help="Seed of everything random; the same seed gives the same run.")
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the result, with its manifest, to this file.")
]
WorldSeed = Annotated[
    int | None,
    typer.Option(
        "--world-seed",
        min=0,
        help="Draw fresh scenes and captions with this seed; the splits stay as they are. Default: the shipped ones.",
    ),
]
Encoder = Annotated[
    str,
    typer.Option(
        "--encoder",
        metavar="NAME",
        help="'none' for the original towers, a shipped name such as 'pictoworld', or a folder with an encoder.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data", metavar="DATA", help="Which data: 'pictoworld:test', 'pictoworld:val' or 'pictoworld:train'."
    ),
]
JudgeOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--judge-option",
        metavar="NAME=VALUE",
        help="An option of the judges, as often as needed: 'q16_clip=FOLDER' with the original CLIP, "
        "'q16_prompts=FILE', 'threads=4'.",
    ),
]


def judge_options(given: Sequence[str] | None) -> dict[str, object]:
    """Return the options by name; a value that is a whole number is one.

    Raises:
        BadInputError: one is not of the form NAME=VALUE.
    """
    found: dict[str, object] = {}
    for option in given or ():
        name, _, value = option.partition("=")
        if not name or not value:
            raise BadInputError(f"expected --judge-option NAME=VALUE, got {option!r}; for example q16_clip=FOLDER")
        found[name.strip()] = int(value) if value.isdigit() else value
    return found
