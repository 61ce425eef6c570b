"""`safeencoders explain`: why a prompt is redirected, or is not."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safeencoders.cli.options import Encoder, JsonFile

if TYPE_CHECKING:
    from safeencoders.evaluation.explanation import Explanation


def explain(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="One prompt, in quotes.", show_default=False)],
    encoder: Encoder = "pictoworld",
    original: Annotated[
        str | None,
        typer.Option(
            "--original",
            metavar="NAME",
            help="What the encoder was trained from, a name or a folder; needed for encoders that are not shipped.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Also draw it to this file, .svg or .png.")
    ] = None,
    json: JsonFile = None,
) -> None:
    """Say why an encoder redirects a prompt: which word, how far, read as what, and what it becomes instead.

    SHIFT is how far the safe tower's state lies from the original's, for each word and for the whole prompt: 0 is
    untouched, and above the threshold the prompt counts as redirected. A text tower reads from left to right, so all
    words after an unsafe one shift as well; CAUSE tells them apart: it is how much of the prompt's shift is gone when
    the word is left out. The categories are what the ORIGINAL tower reads in the prompt. The safe captions are those
    nearest to where the encoder puts the prompt, which is what a picture will show.

    A look-alike that is redirected by mistake, or an unsafe prompt that is not, shows here with its cause.

    Example: safeencoders explain "a red dog with a gun in the park at noon" --out why.svg
    """
    from safeencoders.cli.measure import refuse_unwritable
    from safeencoders.evaluation.explaining import explain as explained
    from safeencoders.evaluation.explaining_figure import check_ending

    start = time.monotonic()
    refuse_unwritable(json)
    if out is not None:
        check_ending(out)
    found = explained(prompt, encoder, original=original)
    print(found)
    if out is not None:
        found.save(out)
        print(f"\nwritten: {out}")
    if json is not None:
        _write(json, found, encoder, original, time.monotonic() - start)


def _write(file: Path, found: Explanation, encoder: str, original: str | None, seconds: float) -> None:
    from safeencoders.catalog import ORIGINAL
    from safeencoders.files import write_json
    from safeencoders.fingerprint import fingerprint
    from safeencoders.loading import load
    from safeencoders.provenance import manifest

    weights = {name: fingerprint(load(name)) for name in (encoder, original or ORIGINAL)}
    command = ["safeencoders", *sys.argv[1:]]
    record = manifest(command, seeds={"world": 0}, weights=weights, data={}, seconds=seconds)
    write_json(file, {"explanation": found.to_dict(), "manifest": record})
    print(f"\nwritten: {file}")
