"""Reading, checking and writing files so that nothing is ever left half-written.

Whatever is written goes first under a temporary name beside its final one and is renamed when complete: a reader,
a full disk or Ctrl-C sees either all of it or none of it.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safeencoders.errors import BadInputError, IntegrityError, OutputError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another place",
    errno.EACCES: "permission is denied; choose a place you may write to",
    errno.EPERM: "permission is denied; choose a place you may write to",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
    errno.EEXIST: "something else is there already; choose another path",
    errno.ENOTEMPTY: "the folder was filled by somebody else meanwhile; choose another path",
    errno.ENOENT: "no file can be made there; choose another place",
    errno.EISDIR: "a folder of this name exists; choose another file name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# Writers in compiled code (safetensors) report a full disk as their own error, with only this text in common.
_FULL_DISK_TEXT = "No space left on device"


def sha256_file(path: str | Path) -> str:
    """Return the sha256 of a file's content as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: str | Path, expected: str) -> None:
    """Raise IntegrityError unless the file is there and its sha256 is `expected`."""
    found = sha256_file(path) if Path(path).is_file() else None
    if found != expected.lower():
        raise IntegrityError(path, expected, found)


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a whole file or nothing; text is UTF-8, a missing parent folder is made, an old file is replaced."""
    data = content.encode() if isinstance(content, str) else content
    final = Path(path)
    # A pipe or a device such as /dev/stdout is written to: renaming a file over it would destroy it.
    in_place = final.exists() and not final.is_file() and not final.is_dir()
    final = final if in_place else final.resolve()
    partial = _partial(final)
    with _all_or_nothing(partial, final):
        if in_place:
            final.write_bytes(data)
            return
        final.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, final)


@contextmanager
def output_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary neighbour to write a large file to, which becomes `path` when the block ends well."""
    final = Path(path).resolve()
    partial = _partial(final)
    with _all_or_nothing(partial, final):
        final.parent.mkdir(parents=True, exist_ok=True)
        partial.touch(exist_ok=False)  # a place that takes no file is refused before any work
        partial.unlink()
    with _all_or_nothing(partial, final, inside=final.parent):
        yield partial
        os.replace(partial, final)


@contextmanager
def output_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `path` when the block ends well, and vanishes when it does not.

    A `path` that exists and is not an empty folder is refused before any work is done.
    """
    final = Path(path).resolve()
    partial = _partial(final)
    with _all_or_nothing(partial, final):
        _refuse_existing(final)
        final.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    with _all_or_nothing(partial, final, inside=partial):
        yield partial
        if final.is_dir():
            final.rmdir()  # only ever an empty one; the rename below needs the place free on every system
        partial.rename(final)


def read_json(path: str | Path) -> Any:  # noqa: ANN401  JSON may hold anything
    """Read a JSON file; a missing or malformed one raises BadInputError with the place of the fault."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInputError(f"expected a JSON file at {path}, found none; check the path.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} is not valid JSON ({error}); it may be truncated: make it again.") from error


def write_json(path: str | Path, content: object) -> None:
    """Write JSON atomically: two spaces of indent, keys in the given order, no NaN or infinity."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _partial(path: Path) -> Path:
    """Name a temporary neighbour of `path` (the same folder, so that the rename never crosses a file system)."""
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.partial"


def _refuse_existing(path: Path) -> None:
    if os.path.isdir(path):
        if any(path.iterdir()):
            raise OutputError(
                f"expected a new output folder, but {path} exists and is not empty; "
                "choose another --out, or delete it first."
            )
    elif os.path.lexists(path):
        raise OutputError(f"expected a new output folder, but {path} is a file; choose another --out.")


@contextmanager
def _all_or_nothing(partial: Path, final: Path, inside: Path | None = None) -> Iterator[None]:
    """Remove `partial` on any error, Ctrl-C too, and say in plain words why `final` could not be written.

    With `inside`, the block is a user's: only faults in that folder, or a full disk, are ours to put into words.
    """
    try:
        yield
    except BaseException as error:
        _remove(partial)
        reason = _reason(error, inside)
        if reason is None:
            raise
        raise OutputError(f"cannot write {final}: {reason}.") from error


def _remove(path: Path) -> None:
    """Remove what was begun; never raise, for another error is already on its way."""
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _reason(error: BaseException, inside: Path | None) -> str | None:
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, Exception) and _FULL_DISK_TEXT in str(error):
        number = errno.ENOSPC
    if number is None or (inside is not None and number not in _NO_SPACE and not _concerns(error, inside)):
        return None
    if inside is not None and number == errno.ENOENT:  # a file that the block wanted to read
        return None
    return _REASONS.get(number)


def _concerns(error: BaseException, folder: Path) -> bool:
    name = getattr(error, "filename", None)
    return isinstance(name, str | os.PathLike) and Path(name).is_relative_to(folder)
