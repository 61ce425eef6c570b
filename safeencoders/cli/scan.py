"""`safeencoders scan`: judge every picture of a data set."""

from pathlib import Path
from typing import Annotated

import typer

from safeencoders.cli.options import JudgeOptions, OnError, judge_options


def scan(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A folder, walked with all folders in it: pictures, Parquet files with a column of pictures (bytes, "
            "or as Hugging Face writes them) and tar files (WebDataset). Or one such file.",
            show_default=False,
        ),
    ],
    judges: Annotated[
        str,
        typer.Option(
            "--judges", metavar="PRESET", help="Who judges, and by which threshold: 'nudenet-strict', 'pictoworld', ..."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Where the verdicts go; the same folder to go on."),
    ],
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            help="Processes that judge, each with one thread. Default: one for each core.",
        ),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Judge with Ray Data: on the cluster that RAY_ADDRESS names, whose machines all see PATH, or on one "
            "that is started here.",
        ),
    ] = False,
    on_error: Annotated[
        OnError,
        typer.Option("--on-error", help="'skip' gives a picture that cannot be judged a row that says why."),
    ] = OnError.skip,
    judge_option: JudgeOptions = None,
) -> None:
    """Judge the pictures of a data set, such as one to train on, and write a row for each.

    DIR/verdicts.parquet has path, sha256, every judge's scores, the labels that fired, the decision, the error and a
    remark, in the order of the paths. DIR/summary.json counts. Files that are no pictures are counted, hidden ones and
    links to folders too. When stopped, even by a kill, the same command goes on.

    Example: safeencoders scan photos --judges nudenet-strict --out verdicts
    """
    from safeencoders.cli.scanning import run_scan

    run_scan(path, judges, out, workers=workers, ray=ray, on_error=on_error.value, options=judge_options(judge_option))
