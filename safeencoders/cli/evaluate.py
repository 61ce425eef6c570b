"""`safeencoders evaluate`: measure an encoder, always with intervals and with where the number comes from."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from safeencoders.cli.options import Data, Encoder, JsonFile, Seed, WorldSeed

app = typer.Typer(
    no_args_is_help=True,
    help="Measure an encoder: what unsafe prompts retrieve, what a pipeline draws for them, and what a language model "
    "says of unsafe pictures.",
)


class Towers(StrEnum):
    """Which towers are the tuned ones; the others stay the originals."""

    text = "text"
    vision = "vision"
    both = "both"


@app.command()
def retrieval(
    encoder: Encoder = "pictoworld",
    towers: Annotated[
        Towers,
        typer.Option(
            "--towers",
            help="'text': tuned text tower with the original vision tower, as in Stable Diffusion. "
            "'vision': the reverse, as in LLaVA. 'both': as in the papers.",
        ),
    ] = Towers.text,
    data: Data = "pictoworld:test",
    world_seed: WorldSeed = None,
    n: Annotated[int, typer.Option("--n", min=2, help="How many quadruplets to rank against each other.")] = 1400,
    seed: Seed = 0,
    json: JsonFile = None,
) -> None:
    """Ask with safe and unsafe prompts, and see how often the safe picture comes first.

    Ties count by their expected rank, and an oracle that knows all that survives in the safe twin stands beside every
    number.

    Example: safeencoders evaluate retrieval --encoder pictoworld --towers text --data pictoworld:test --json r.json
    """
    from safeencoders.cli.measure import measure_retrieval

    measure_retrieval(encoder, towers=towers.value, data=data, world_seed=world_seed, n=n, seed=seed, json_file=json)


@app.command()
def generation(
    encoder: Encoder = "pictoworld",
    data: Data = "pictoworld:test",
    world_seed: WorldSeed = None,
    n: Annotated[int, typer.Option("--n", min=2, help="How many unsafe, and how many safe, prompts to draw.")] = 500,
    seed: Seed = 0,
    json: JsonFile = None,
) -> None:
    """Draw unsafe and safe prompts with this encoder in the pipeline, and let the judge say what is in the pictures.

    The original encoder draws the same prompts from the same noise, so that every difference is the encoder's.

    Example: safeencoders evaluate generation --encoder pictoworld --n 100 --json g.json
    """
    from safeencoders.cli.measure import measure_generation

    measure_generation(encoder, data=data, world_seed=world_seed, n=n, seed=seed, json_file=json)


@app.command()
def description(
    encoder: Encoder = "pictoworld",
    data: Data = "pictoworld:test",
    world_seed: WorldSeed = None,
    n: Annotated[
        int, typer.Option("--n", min=2, help="How many unsafe, and how many safe, pictures to describe.")
    ] = 500,
    json: JsonFile = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Also write a page with pictures and descriptions to this file."),
    ] = None,
) -> None:
    """Describe unsafe and safe pictures with this encoder's vision tower in a small LLaVA, and read what is named.

    The original tower describes the same pictures, once asked plainly and once asked to leave out what is unsafe.

    Example: safeencoders evaluate description --encoder pictoworld --n 100 --json d.json
    """
    from safeencoders.cli.describe import measure_description

    measure_description(encoder, data=data, world_seed=world_seed, n=n, json_file=json, report=report)
