"""`safeencoders index` and `safeencoders search`: find pictures of a folder by text or by picture."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from safeencoders.cli.options import JsonFile, OnError

Original = Annotated[
    str | None,
    typer.Option(
        "--original",
        metavar="NAME",
        help="What the encoder was tuned from, a name or a folder; needed for encoders that are in no catalog.",
    ),
]


class Backend(StrEnum):
    """What searches."""

    torch = "torch"
    faiss = "faiss"


def index(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder with pictures.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the index.")],
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            metavar="NAME",
            help="A name of the catalog, a folder or a Hub id; 'none' for the original towers. "
            "Default: pictoworld; with --update, the index's own.",
        ),
    ] = None,
    original: Original = None,
    pair: Annotated[
        bool,
        typer.Option(
            "--pair",
            help="Embed the pictures with the encoder's own vision tower too: for two towers that were trained as a "
            "pair; prompts are redirected then, pictures find themselves. Without it, with the original one, beside "
            "which a single tower is at its best.",
        ),
    ] = False,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="Bring the index in DIR up to date: add what is new in PATH, embed again what changed, take out "
            "what is gone. Goes on with an index that was interrupted.",
        ),
    ] = False,
    on_error: Annotated[
        OnError, typer.Option("--on-error", help="'skip' leaves out pictures that cannot be read, and lists them.")
    ] = OnError.skip,
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="Where the towers run, such as 'cuda'.")
    ] = "cpu",
    json: JsonFile = None,
) -> None:
    """Embed the pictures of a folder, and of the folders in it, so that `safeencoders search` finds them.

    The id of a picture is its path as given here. CMYK, 16-bit, palette and transparent pictures are converted, EXIF's
    orientation is applied, of an animation the first frame is taken; links inside the folder are not followed. Every
    five minutes what is done is saved: after an interruption, go on with --update.

    Example: safeencoders index photos --encoder pictoworld --out photos-index
    """
    from safeencoders.cli.indexing import Asked, make_index

    make_index(Asked(path, out, encoder, original, pair, update, on_error.value, device, json))


def search(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with an index.", show_default=False)],
    query: Annotated[
        str | None, typer.Argument(metavar="[QUERY]", help="What to look for, in quotes.", show_default=False)
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="Look for what is like this picture.")
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="How many to show.")] = 10,
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            metavar="safe|raw",
            help="'safe' asks through the safe tower, which takes an unsafe query for its safe twin; 'raw' through the "
            "original one. ('aware' comes with hyperbolic towers.)",
        ),
    ] = "safe",
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", metavar="NAME", help="Where the index's own encoder lies now, if it has moved."),
    ] = None,
    original: Original = None,
    backend: Annotated[
        Backend, typer.Option("--backend", help="'faiss' needs the extra faiss; both find the same.")
    ] = Backend.torch,
    json: JsonFile = None,
) -> None:
    """Show the pictures of an index that are nearest to a text or a picture, with their cosines.

    The index holds all pictures, unsafe ones too: mode safe redirects what is asked, it does not remove what can be
    found. Try one query in both modes and compare.

    Example: safeencoders search photos-index "a red dog in the park" --mode safe --k 5
    """
    from safeencoders.cli.indexing import search_index

    search_index(
        folder,
        query,
        image,
        k=k,
        mode=mode,
        encoder=encoder,
        original=original,
        backend=backend.value,
        json_file=json,
    )
