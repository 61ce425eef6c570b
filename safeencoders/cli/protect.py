"""`safeencoders protect` and `safeencoders audit`: a protected copy of a pipeline, and what a pipeline leaves open."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safeencoders.cli.options import JsonFile

if TYPE_CHECKING:
    from safeencoders.integrations.coverage import Coverage


class Policy(StrEnum):
    """What to do about a text encoder that would stay open."""

    warn = "warn"
    strict = "strict"


Pipeline = Annotated[
    str,
    typer.Option(
        "--pipeline",
        metavar="PATH|ID",
        help="A folder with a model_index.json, a repository 'organisation/name', or 'pictoworld' for the shipped one.",
    ),
]
Markdown = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="Also write the report as Markdown to this file.")
]


def protect(
    pipeline: Pipeline,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the protected copy.")],
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", metavar="NAME", help="Which encoder goes in; default: what the catalog has for the pipeline."
        ),
    ] = None,
    policy: Annotated[
        Policy,
        typer.Option("--policy", help="'strict' refuses when a text encoder would stay open; 'warn' says so."),
    ] = Policy.warn,
    json: JsonFile = None,
) -> None:
    """Write a copy of a pipeline with safe towers in it, and a report of what they cover.

    The copy is a plain pipeline that loads without safeencoders. The guard is not part of it: where the pipeline runs,
    call safeencoders.protect(pipe) after loading. The report lies in the copy as coverage.md and coverage.json.

    Example: safeencoders protect --pipeline pictoworld --out protected
    """
    from safeencoders.cli.pipelines import open_pipeline
    from safeencoders.files import output_folder
    from safeencoders.integrations import protection

    with output_folder(out) as folder:
        pipe = open_pipeline(pipeline)
        protection.protect(pipe, encoders=encoder, policy=policy.value)
        covered = protection.verify(pipe)
        pipe.save_pretrained(folder)
        (folder / "coverage.md").write_text(covered.markdown(), encoding="utf-8")
        (folder / "coverage.json").write_text(covered.json() + "\n", encoding="utf-8")
    _show(covered, json)
    typer.echo(f"written to {out}")


def audit(pipeline: Pipeline, json: JsonFile = None, markdown: Markdown = None) -> None:
    """Report what of a pipeline is protected and which holes are open; nothing is changed.

    Exit code 1 says that a text encoder is open.

    Example: safeencoders audit --pipeline protected
    """
    from safeencoders.cli.pipelines import open_pipeline
    from safeencoders.files import write_atomically
    from safeencoders.integrations import protection

    covered = protection.coverage(open_pipeline(pipeline))
    _show(covered, json)
    if markdown is not None:
        write_atomically(markdown, covered.markdown())
    if covered.open_text:
        raise typer.Exit(1)


def _show(covered: "Coverage", json: Path | None) -> None:
    from rich.console import Console

    from safeencoders.files import write_json

    console = Console()
    for line in covered.tower_lines():
        console.print(line, markup=False)
    console.print(covered.table())
    if json is not None:
        write_json(json, covered.to_dict())
