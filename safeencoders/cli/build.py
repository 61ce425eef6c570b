"""What `safeencoders world build` does: train stage after stage until the slice is over, and say how to go on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import typer

from safeencoders.files import write_json


def build_world(out: Path, *, stages: Sequence[str], minutes: float, seed: int, json_file: Path | None) -> None:
    """Go on with the stages, in order, for the given minutes; finished ones are skipped.

    Raises:
        BadInputError: a stage needs an earlier one that is not finished.
    """
    from safeencoders.training.world.build import WorldBuild

    begin, build = time.monotonic(), WorldBuild(out, seed)
    finished: list[str] = []
    for stage in stages:
        left = minutes * 60 - (time.monotonic() - begin)
        if not build.exported(stage) and (left <= 0 or not build.run(stage, left)):
            break
        finished.append(stage)
        typer.echo(f"finished: {stage}")
    open_stages = [stage for stage in stages if stage not in finished]
    if json_file is not None:
        seconds = round(time.monotonic() - begin, 1)
        write_json(
            json_file, {"finished": finished, "open": open_stages, "seconds": seconds, "weights": str(build.weights)}
        )
    if open_stages:
        typer.echo(f"saved in {out}; the same command goes on with: {', '.join(open_stages)}")
    else:
        typer.echo(f"all finished: {build.weights}")
