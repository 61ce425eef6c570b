"""An index on disk: index.json, and vectors in a safetensors file that is named by its content.

The two are whole together: new vectors are written beside the old ones, index.json is exchanged for one that names them
in a single rename, and the old ones are removed. A reader, a full disk or Ctrl-C meets the old index or the new one.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from safeencoders.errors import BadInputError, IntegrityError, OutputError
from safeencoders.files import check_sha256, output_folder, read_json, sha256_file, write_json

FILE, FORMAT = "index.json", 1
_VECTORS = re.compile(r"vectors-[0-9a-f]{16}\.safetensors")


def is_index(folder: Path) -> bool:
    """Say whether a folder holds an index."""
    return (folder / FILE).is_file()


def write(folder: Path, record: Mapping[str, Any], vectors: Mapping[str, Tensor], *, replace: bool) -> None:
    """Write an index to a new folder, or with ``replace`` in the place of the one that is there.

    Raises:
        OutputError: it cannot be written; without ``replace``, the folder exists and is not empty.
        BadInputError: with ``replace``, there is no index in the folder.
    """
    if not replace:
        with output_folder(folder) as new:
            _write(new, record, vectors)
        return
    if not is_index(folder):
        raise BadInputError(f"expected an index in {folder} to be replaced, found none; check the path")
    try:
        kept = _write(folder, record, vectors)
    except OutputError:
        raise
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write the index in {folder}, which is as before: {error}") from error
    for path in folder.iterdir():
        if _VECTORS.fullmatch(path.name) and path.name != kept:
            with suppress(OSError):  # a reader on some systems holds it; it is harmless, and goes the next time
                path.unlink()


def _write(folder: Path, record: Mapping[str, Any], vectors: Mapping[str, Tensor]) -> str:
    partial = folder / f".vectors-{secrets.token_hex(4)}.partial"
    try:
        safetensors.save_file({name: value.contiguous() for name, value in vectors.items()}, partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        digest = sha256_file(partial)
        name = f"vectors-{digest[:16]}.safetensors"
        partial.replace(folder / name)
    finally:
        partial.unlink(missing_ok=True)
    write_json(folder / FILE, {"format": FORMAT, "vectors": {"file": name, "sha256": digest}, **record})
    return name


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read an index; its vectors are checked against their recorded sha256.

    Raises:
        BadInputError: there is none, it is damaged, or a later version made it.
    """
    if not is_index(folder):
        raise BadInputError(f"expected an index ({FILE}) in {folder}, found none; make one with: "
                            "safeencoders index PATH --out DIR")  # fmt: skip
    record = read_json(folder / FILE)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise BadInputError(f"expected an index of format {FORMAT} in {folder}, got {found!r}; this version of "
                            "safeencoders reads no other: make the index again")  # fmt: skip
    try:
        name, digest = str(record["vectors"]["file"]), str(record["vectors"]["sha256"])
        if not _VECTORS.fullmatch(name):
            raise ValueError(name)
        check_sha256(folder / name, digest)
        # Copies: what is mapped would change with the file, after it was checked.
        vectors = {kind: value.clone() for kind, value in safetensors.load_file(folder / name).items()}
        _check(record, vectors)
    except IntegrityError as error:
        state = "is missing" if error.found is None else f"has sha256 {error.found} instead of {error.expected}"
        raise BadInputError(f"the index in {folder} is damaged: {error.file.name} {state}; make it again") from error
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise BadInputError(f"the index in {folder} is damaged: {FILE} and its vectors do not agree ({error}); "
                            "make it again") from error  # fmt: skip
    return record, vectors


def _check(record: Mapping[str, Any], vectors: Mapping[str, Tensor]) -> None:
    """Raise KeyError, TypeError or ValueError unless every item has a text as its id, once, and a vector."""
    ids = [name for kind in record["items"] for name in record["items"][kind]]
    if not all(isinstance(name, str) for name in ids) or len(ids) != len(set(ids)):
        raise ValueError("ids")
    if {kind: len(names) for kind, names in record["items"].items()} != {k: len(v) for k, v in vectors.items()}:
        raise ValueError("number of items")
    for key, kind in {"encoder": str, "pair": bool, "fingerprints": dict, "notes": dict}.items():
        if not isinstance(record[key], kind):
            raise TypeError(key)
