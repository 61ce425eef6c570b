"""Trust on first use: what a repository served the first time is written down, and later uses are held to it.

One JSON file in the user's cache: "repository" or "repository@revision" -> commit, names of all files there, and the
sha256 of each file that was used. It is written whole and under a lock, so that processes do not lose one another's
entries.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safeencoders.errors import BadInputError, ChangedError, OutputError
from safeencoders.files import read_json, write_json

VARIABLE = "SAFEENCODERS_CACHE"
FILE = "lock.json"


@dataclass(frozen=True)
class Entry:
    """What a repository was at first use.

    Attributes:
        commit: 40 hexadecimal digits.
        names: of all files at that commit; none where only a cache could be asked.
        files: sha256 of each file that was used.
    """

    commit: str
    names: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)


def folder() -> Path:
    """Return the folder of the lock file: SAFEENCODERS_CACHE, or "safeencoders" in the user's cache folder."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "safeencoders"


def path() -> Path:
    """Return the lock file's place; the file need not exist."""
    return folder() / FILE


def recall(repo: str, revision: str | None = None) -> Entry | None:
    """Return what was recorded of a repository, None before its first use. A revision asked for is its own entry.

    Raises:
        BadInputError: the lock file is damaged.
    """
    return entries().get(_key(repo, revision))


def record(repo: str, revision: str | None, seen: Entry) -> None:
    """Write down what was seen, beside what is there already; what another process wrote first holds.

    Raises:
        ChangedError: another process recorded another commit or other bytes meanwhile.
        OutputError: the lock file cannot be written.
    """
    key = _key(repo, revision)
    before = recall(repo, revision)
    if before is not None and seen.files.items() <= before.files.items() and before.names == seen.names:
        return  # nothing new: a cache on a read-only disk keeps working
    with _locked():
        known = entries()
        before = known.get(key, Entry(seen.commit, seen.names))
        if before.commit != seen.commit:
            raise changed(repo, f"commit {before.commit}", f"commit {seen.commit}")
        for name, value in seen.files.items():
            if before.files.get(name, value) != value:
                raise changed(repo, f"{name} with sha256 {before.files[name]}", value)
        known[key] = Entry(seen.commit, seen.names or before.names, {**before.files, **seen.files})
        write_json(path(), {key: asdict(entry) for key, entry in sorted(known.items())})


@contextmanager
def _locked() -> Iterator[None]:
    from filelock import FileLock

    guard = FileLock(f"{path()}.lock")
    try:
        folder().mkdir(parents=True, exist_ok=True)
        guard.acquire()
    except OSError as error:
        raise OutputError(
            f"cannot write {path()}: {error.strerror or error}; choose another folder with {VARIABLE}"
        ) from error
    try:
        yield
    finally:
        guard.release()


def changed(repo: str, expected: str, found: str) -> ChangedError:
    """Return the error for a repository that is not what it was at first use."""
    return ChangedError(
        f"expected {repo} to be as at first use ({expected}), found {found}. Do not use it before you know why it "
        f"changed; to trust it anew, delete its entry in {path()}"
    )


def entries() -> dict[str, Entry]:
    """Return all that is recorded, by "repository" or "repository@revision".

    Raises:
        BadInputError: the lock file is damaged; it names the remedy.
    """
    if not path().is_file():
        return {}
    found = read_json(path())
    try:
        return {key: _entry(value) for key, value in found.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise BadInputError(
            f"expected commit, names and files for each entry of {path()}; got something else. Delete the file: what "
            "it held is then trusted anew at its next use"
        ) from error


def _entry(value: Mapping[str, Any]) -> Entry:
    return Entry(str(value["commit"]), tuple(value["names"]), dict(value["files"]))


def _key(repo: str, revision: str | None) -> str:
    return f"{repo}@{revision}" if revision else repo
