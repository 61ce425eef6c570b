"""`safeencoders world`: look at the embedded pictoworld, count it, or train all its models again."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from safeencoders.cli.options import JsonFile, Seed, WorldSeed

if TYPE_CHECKING:
    from safeencoders.pictoworld import lexicon

app = typer.Typer(
    no_args_is_help=True,
    help="Pictoworld, the embedded world of pictograms: preview its scenes, count them, or train its models again.",
)


class Split(StrEnum):
    """The parts of the world; they share no caption and no scene."""

    train = "train"
    val = "val"
    test = "test"


class Stage(StrEnum):
    """The shipped models, in the order in which they are trained."""

    clip = "clip"
    vae = "vae"
    generator = "generator"
    judge = "judge"
    vlm = "vlm"
    encoders = "encoders"


@app.command()
def build(
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="Folder for checkpoints and finished models; a later call resumes there."
        ),
    ] = Path(".checkpoints"),
    only: Annotated[
        list[Stage] | None,
        typer.Option("--only", help="Train just this model (repeat for several). Default: all, in order."),
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.1, max=30, help="Length of this slice; call again to go on.")
    ] = 30.0,
    seed: Seed = 0,
    json: JsonFile = None,
) -> None:
    """Train every shipped model from nothing, in slices that can be resumed.

    One call works for at most --minutes and then saves a checkpoint; the same command goes on from there. The recipes
    are the files in training/recipes. On two cores the generator takes hours in all, on a GPU minutes.

    Example: safeencoders world build --only clip --minutes 10
    """
    from safeencoders.cli.build import build_world

    build_world(out, stages=[str(stage) for stage in only or Stage], minutes=minutes, seed=seed, json_file=json)


@app.command()
def preview(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for preview.png and captions.txt.")],
    n: Annotated[int, typer.Option("--n", min=1, help="How many quadruplets to show.")] = 24,
    split: Annotated[Split, typer.Option("--split", help="Which part of the world to show.")] = Split.test,
    world_seed: WorldSeed = None,
) -> None:
    """Draw a sheet of scenes beside their unsafe twins, with both captions.

    The unsafe concepts are harmless pictograms: a starburst, a skull, a censor bar on a faceless mannequin.

    Example: safeencoders world preview --out preview --n 12
    """
    from safeencoders.cli.world_preview import write_preview

    write_preview(out, n=n, split=cast("lexicon.Split", str(split)), world_seed=world_seed)


@app.command()
def stats(world_seed: WorldSeed = None, json: JsonFile = None) -> None:
    """Count the world: scenes, words, concepts, what is held out of each split, and the hash of the data.

    Example: safeencoders world stats --json stats.json
    """
    from safeencoders.cli.world_stats import show_stats

    show_stats(world_seed=world_seed, json_file=json)
