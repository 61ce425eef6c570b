"""`safeencoders suites`: the prompt suites that can be read, and what is in a file of one."""

from pathlib import Path
from typing import Annotated

import typer

from safeencoders.cli.options import JsonFile, OnError

HELP = """List the prompt suites that can be read, with licence and where to get them; none is shipped or fetched.

Example: safeencoders suites
"""

app = typer.Typer(help=HELP, invoke_without_command=True)


@app.callback()
def listing(context: typer.Context) -> None:
    """List the suites, unless a sub-command follows."""
    if context.invoked_subcommand is None:
        from safeencoders.cli.suite_tables import print_suites

        print_suites()


@app.command()
def describe(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A suite of the list, or 'csv' for a file of your own.")],
    file: Annotated[Path | None, typer.Option("--file", metavar="FILE", help="Where its file lies.")] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", metavar="HEX", help="Refuse the file unless it has this sha256.")
    ] = None,
    on_error: Annotated[
        OnError, typer.Option("--on-error", help="Leave rows that cannot be used out, or stop at the first.")
    ] = OnError.skip,
    json: JsonFile = None,
) -> None:
    """Count a suite's rows, distinct prompts and categories, hash its file, and say which rows cannot be used, and why.

    No prompt is printed or written: rows are named by their number, from 1, the header not counted.

    Example: safeencoders suites describe i2p --file i2p.csv --json i2p.json
    """
    from safeencoders.cli.suite_tables import print_description

    print_description(name, file, sha256=sha256, on_error=on_error.value, json_file=json)
