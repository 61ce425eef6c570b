"""`safeencoders train`: redirect a CLIP's towers by a recipe, on the world's pairs or on one's own."""

from pathlib import Path
from typing import Annotated

import typer

from safeencoders.cli.evaluate import Towers
from safeencoders.cli.options import JsonFile
from safeencoders.errors import BadInputError


def train(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the towers and train.json.")],
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE.toml",
            help="'pictoworld', 'safe-clip', 'text-pairs' for captions alone, or a file in their form.",
        ),
    ] = "pictoworld",
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="pictoworld|PATH",
            help="The built-in world, or pairs: .jsonl, .json, .csv, .parquet with columns among safe_text, "
            "unsafe_text, safe_image, unsafe_image; or datasets:NAME.",
        ),
    ] = "pictoworld",
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="At most so many steps, in a schedule of the same shape.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Rows in a step, over all processes. Default: the recipe's.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in DIR; start it when there is none.")
    ] = False,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="The CLIP to start from: 'pictoworld', a folder, or a Hub id that was downloaded before.",
        ),
    ] = "pictoworld",
    towers_from: Annotated[
        str | None,
        typer.Option(
            "--towers-from",
            metavar="ENCODER",
            help="Go on from the towers of a shipped encoder, or of an earlier run's folder; --model stays what they "
            "are compared with.",
        ),
    ] = None,
    towers: Annotated[
        Towers | None, typer.Option("--towers", help="Which towers are trained. Default: the recipe's.")
    ] = None,
    use: Annotated[
        str | None,
        typer.Option("--use", metavar="COLUMNS", help="Use only these columns, e.g. safe_text,unsafe_text."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="DIR",
            help="The folder of the pictures; needed for ViSU's and CoProV2's layouts. Default: the data file's.",
        ),
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave rows out whose pictures cannot be decoded.")
    ] = False,
    validation: Annotated[
        float,
        typer.Option(
            "--validation",
            min=0.0,
            metavar="SHARE",
            help="Share of a file's rows that is held out, by hash; 0 for none. The world has its own.",
        ),
    ] = 0.05,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of everything random. Default: the recipe's.")
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            "--precision", metavar="auto|fp32|bf16", help="auto: bf16 on a GPU that has it, else fp32 throughout."
        ),
    ] = "auto",
    micro_batch: Annotated[
        int,
        typer.Option(
            "--micro-batch",
            min=0,
            metavar="ROWS",
            help="Rows that are encoded at a time, 0 for the whole batch: less memory, more time, the same result "
            "up to rounding and dropout.",
        ),
    ] = 0,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log losses and validations to DIR/tensorboard.")
    ] = False,
    sweep: Annotated[
        str | None,
        typer.Option(
            "--sweep",
            metavar="FILE.toml",
            help="Instead of one recipe, train and measure each variant of a sweep over its seeds on the world, such "
            "as ablations/safe-clip.toml; only --out and --max-steps count. The same command goes on after a kill.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report on data, formula, memory and time, and write nothing to DIR.")
    ] = False,
    json: JsonFile = None,
) -> None:
    """Redirect a CLIP's towers so that unsafe inputs land on their safe twins, and write them for transformers.

    Data, formula, memory and time are reported first. A run that was killed goes on with --resume and ends with the
    same weights; its state is written every 30 seconds. Held-out rows are ranked five times in a run; where the recipe
    itself asks for validations, the weights with the best mean R@1 are kept rather than the last. For several
    processes, write torchrun --nproc-per-node 8 --no-python before the command (tried with processes on a CPU; no
    machine with several GPUs was at hand).

    Example: safeencoders train --recipe safe-clip --data pairs.jsonl --model ./clip-vit-large-patch14 --out tuned
    """
    if sweep is not None:
        from safeencoders.cli.sweep import run_sweep

        if dry_run or json is not None or seed is not None or towers is not None:
            raise BadInputError("expected --sweep with --out and --max-steps only; its file says the rest")
        run_sweep(sweep, out, steps=max_steps)
        return
    from safeencoders.cli.train_inputs import Asked
    from safeencoders.cli.training import run_train

    asked = Asked(
        recipe=recipe,
        data=data,
        out=out,
        max_steps=max_steps,
        batch=batch,
        resume=resume,
        model=model,
        towers_from=towers_from,
        towers=None if towers is None else towers.value,
        use=None if use is None else tuple(name.strip() for name in use.split(",")),
        images=images,
        skip_unreadable=skip_unreadable,
        validation=validation,
        seed=seed,
        precision=precision,
        micro_batch=micro_batch,
        tensorboard=tensorboard,
        dry_run=dry_run,
        json_file=json,
    )
    run_train(asked)
