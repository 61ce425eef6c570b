"""`safeencoders doctor`: look whether this installation can do its work, and say what to do where it cannot."""

import typer

from safeencoders.cli.options import JsonFile


def doctor(json: JsonFile = None) -> None:
    """Report on this installation: versions, devices, extras, caches, shipped weights, combinations known to break.

    Nothing is downloaded or changed. Exit code 1 when something is wrong that must be mended.

    Example: safeencoders doctor --json doctor.json
    """
    from safeencoders.cli.examination import report

    if not report(json):
        raise typer.Exit(1)
