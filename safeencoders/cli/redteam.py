"""`safeencoders redteam`: the ways round a safe text encoder, tried as attacks."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from safeencoders.cli.options import Encoder, JsonFile, Seed


class Goal(StrEnum):
    """What the white-box attacks make small."""

    states = "states"
    denoiser = "denoiser"


def redteam(
    pipeline: Annotated[
        str, typer.Option("--pipeline", metavar="NAME", help="'pictoworld', the shipped pipeline, which has a judge.")
    ] = "pictoworld",
    encoder: Encoder = "pictoworld",
    n: Annotated[int, typer.Option("--n", min=2, max=400, help="How many attempts each attack makes.")] = 50,
    seed: Seed = 0,
    goal: Annotated[
        Goal,
        typer.Option(
            "--goal",
            help="What optimised prompts and vectors aim at: 'states', those of the original tower; 'denoiser', what "
            "the denoiser makes of them, which is stronger and takes five times as long.",
        ),
    ] = Goal.states,
    quick: Annotated[
        bool, typer.Option("--quick", help="Learn in a few steps only: to see it run, not to trust the numbers.")
    ] = False,
    json: JsonFile = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Also write a report into this new folder.")
    ] = None,
) -> None:
    """Attack the pipeline in every known way: with the original encoder, with this one, and with the guard around it.

    A judge says how many pictures show what was asked for; what the guard refuses makes no picture. Two attacks are
    white-box: they optimise a prompt's tokens, and a vector, against each tower. Learning takes most of the time.

    Example: safeencoders redteam --encoder pictoworld --n 20 --quick --json redteam.json
    """
    from safeencoders.cli.redteaming import run_redteam

    run_redteam(pipeline, encoder, n=n, seed=seed, goal=goal.value, quick=quick, json_file=json, report=report)
