"""The `safeencoders` command: registers the sub-commands and turns errors into exit codes.

A command module imports nothing heavy at its top; what needs torch is imported inside the command's function, so that
`--help` answers at once.
"""

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from safeencoders import __version__
from safeencoders.cli import (
    cards,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    index,
    protect,
    publish,
    quickstart,
    redteam,
    scan,
    suites,
    train,
    world,
)
from safeencoders.errors import SafeEncodersError

DONE, NO, BAD_INPUT, FAULT, INTERRUPTED = 0, 1, 2, 70, 130

HELP = """Safer drop-in replacements for the CLIP encoders of text-to-image and vision-language models.

Start here, no GPU and no download needed:

    safeencoders quickstart --out quickstart-out

Exit codes: 0 done; 1 it ran and the answer is no; 2 bad usage or input;
70 a fault of safeencoders itself; 130 interrupted.
"""

app = typer.Typer(name="safeencoders", help=HELP, no_args_is_help=True, pretty_exceptions_enable=False)
app.command("quickstart")(quickstart.quickstart)
app.command("train")(train.train)
app.command("protect")(protect.protect)
app.command("audit")(protect.audit)
app.command("redteam")(redteam.redteam)
app.command("explain")(explain.explain)
app.command("index")(index.index)
app.command("search")(index.search)
app.command("doctor")(doctor.doctor)
app.command("scan")(scan.scan)
app.command("cards")(cards.cards)
app.command("publish")(publish.publish)
app.command("export")(export.export)
app.command("demo")(demo.demo)
app.add_typer(suites.app, name="suites")
app.add_typer(world.app, name="world")
app.add_typer(evaluate.app, name="evaluate")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"safeencoders {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Hold the options that stand before a sub-command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; `arguments` defaults to the process's own."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="safeencoders")
    except SystemExit as stop:  # typer ends this way, having printed what was wrong with the usage
        code = stop.code if isinstance(stop.code, int) else DONE
        return _interrupted() if code == INTERRUPTED else code
    except KeyboardInterrupt:
        return _interrupted()
    except SafeEncodersError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except Exception:
        traceback.print_exc()
        print("\nThis is a fault of safeencoders: please report it with the lines above.", file=sys.stderr)
        return FAULT
    return DONE


def _interrupted() -> int:
    print("interrupted; nothing was half-written", file=sys.stderr)
    return INTERRUPTED
