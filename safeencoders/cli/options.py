"""Options that several commands share, so that they read the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

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
