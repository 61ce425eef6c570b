"""The manifest of a published encoder: the sha256 of every file beside it, and under which licence they stand.

It is written last and holds nothing but what the files are, so that the same files always have the same manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safeencoders.errors import BadInputError, IntegrityError
from safeencoders.files import check_sha256, read_json, sha256_file, write_json

FILE = "MANIFEST.json"
FORMAT = 1


@dataclass(frozen=True)
class Seal:
    """What a manifest says.

    Attributes:
        encoder: the encoder's name.
        licence: of the weights.
        files: sha256 of each file by its path from the top.
    """

    encoder: str
    licence: str
    files: Mapping[str, str]


def write(folder: Path, encoder: str, licence: str) -> Seal:
    """Write the manifest of all files that lie in a folder."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    found = Seal(encoder, licence, {name: sha256_file(folder / name) for name in paths if name != FILE})
    write_json(folder / FILE, {"format": FORMAT, "encoder": encoder, "licence": licence, "files": dict(found.files)})
    return found


def read(path: Path) -> Seal:
    """Read a manifest.

    Raises:
        BadInputError: it is none, or of a later format.
    """
    content = read_json(path)
    try:
        if content["format"] != FORMAT:
            raise BadInputError(f"expected format {FORMAT} in {path}, got {content['format']!r}; update safeencoders")
        return Seal(str(content["encoder"]), str(content["licence"]), dict(content["files"]))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, BadInputError):
            raise
        raise BadInputError(f"expected encoder, licence and files in {path}; download the encoder again") from error


def check(folder: Path, names: Iterable[str] | None = None) -> Seal:
    """Compare files with the manifest beside them.

    Args:
        folder: where both lie.
        names: which files; all that the manifest names when None.

    Returns:
        What the manifest says.

    Raises:
        IntegrityError: a file is missing, has other bytes, or is none of the manifest's.
        BadInputError: the manifest is none.
    """
    seal = read(folder / FILE)
    for name in seal.files if names is None else names:
        if name == FILE:
            continue
        if name not in seal.files:
            raise IntegrityError(folder / name, f"of a file that {FILE} names", sha256_file(folder / name))
        check_sha256(folder / name, seal.files[name])
    return seal
