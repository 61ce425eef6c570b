"""`safeencoders quickstart`: the whole story in one command."""

from pathlib import Path
from typing import Annotated

import typer

from safeencoders.cli.options import Seed


def quickstart(
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="A new folder for results.json, sheet.png and report.html."),
    ],
    seed: Seed = 0,
) -> None:
    """Fine-tune a small CLIP text tower to be safe, swap it into a Stable Diffusion pipeline, and show the effect.

    Everything is measured before and after: what a prompt retrieves, and what the pipeline draws for it with the same
    noise. No GPU and no download is needed; two cores take a few minutes.

    Example: safeencoders quickstart --out quickstart-out
    """
    from safeencoders.cli.story import run_quickstart

    run_quickstart(out, seed=seed)
