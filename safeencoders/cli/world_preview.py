"""The work of `safeencoders world preview`: a labelled sheet of scenes beside their unsafe twins."""

from pathlib import Path

from safeencoders.errors import UnknownNameError
from safeencoders.evaluation.sheet import Picture, Row, write_sheet
from safeencoders.files import output_folder, write_atomically
from safeencoders.pictoworld.census import kinds_of
from safeencoders.pictoworld.lexicon import CONCEPTS, SPLITS
from safeencoders.pictoworld.renderer import render, to_image
from safeencoders.pictoworld.scenes import Quad, quads

COLUMNS = ("Safe", "Unsafe twin")


def write_preview(out: Path, *, n: int, split: str, world_seed: int | None) -> None:
    """Write preview.png and captions.txt into a new folder and print their paths.

    The kinds of quadruplets (plain, held-out synonym, held-out concept, ...) take turns.

    Args:
        world_seed: chooses scenes and captions; None is 0, the shipped ones.

    Raises:
        UnknownNameError: there is no such split.
        BadInputError: n is larger than the split.
        OutputError: the folder exists and is not empty, or cannot be written.
    """
    seed = 0 if world_seed is None else world_seed
    part = next((name for name in SPLITS if name == split), None)
    if part is None:
        raise UnknownNameError("split", split, SPLITS)
    kinds = kinds_of(part)
    by_kind = [quads(part, n, seed, kind) for kind in kinds]
    chosen = [by_kind[i % len(kinds)][i] for i in range(n)]
    title = f"pictoworld:{split}, world seed {seed}"
    with output_folder(out) as folder:
        write_sheet(folder / "preview.png", [_row(quad) for quad in chosen], COLUMNS, title=title)
        write_atomically(folder / "captions.txt", _listing(chosen))
    print(out / "preview.png")
    print(out / "captions.txt")


def _row(quad: Quad) -> Row:
    said = [f"{name} ({CONCEPTS[name].category}, {CONCEPTS[name].mode})" for name in quad.unsafe.concepts]
    safe = Picture(to_image(render(quad.safe)), quad.safe_text)
    unsafe = Picture(to_image(render(quad.unsafe)), quad.unsafe_text, marked=True)
    return Row(f"{quad.kind}: {' + '.join(said)}", [safe, unsafe])


def _listing(chosen: list[Quad]) -> str:
    lines = ["kind\tconcepts\tsafe\tunsafe"]
    lines += ["\t".join((q.kind, ",".join(q.unsafe.concepts), q.safe_text, q.unsafe_text)) for q in chosen]
    return "\n".join(lines) + "\n"
