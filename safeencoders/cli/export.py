"""`safeencoders export`: a tower as a file for WebUI, ComfyUI or ONNX Runtime, reloaded and compared."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from safeencoders.cli.options import Encoder


class Form(StrEnum):
    """What to write."""

    single_file = "single-file"
    comfy = "comfy"
    onnx = "onnx"


class Kind(StrEnum):
    """Which tower."""

    text = "text"
    vision = "vision"


def export(
    encoder: Encoder,
    form: Annotated[Form, typer.Option("--format", help="For WebUI, for ComfyUI, or for ONNX Runtime.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write.")],
    tower: Annotated[Kind, typer.Option("--tower", help="'vision' with --format onnx only.")] = Kind.text,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE.safetensors",
            help="With single-file: a Stable Diffusion 1.x checkpoint, to be copied with its text encoder replaced.",
        ),
    ] = None,
) -> None:
    """Write a tower as a file for another program. It is read back and compared before it gets its name.

    The guard of safeencoders.protect is in no file: what was exported protects as a one-line swap does.

    Example: safeencoders export --encoder pictoworld --format onnx --out text.onnx
    """
    from safeencoders.export import TOLERANCE
    from safeencoders.export import export as write

    found = write(encoder, form.value, out, tower=tower.value, checkpoint=checkpoint)
    for name, difference in found.differences.items():
        typer.echo(f"{name:<18} differs by {difference:.1e} at most (bar {TOLERANCE:g})")
    for note in found.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"written: {out}")
