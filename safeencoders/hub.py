"""The Hub: files of a repository, downloaded once, and held to what they were at first use.

``huggingface_hub`` downloads and caches; this module chooses the commit (the recorded one), compares every file with
its recorded sha256, tries again what can be tried again, and gives each fault its name and its remedy.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from safeencoders import trust
from safeencoders.errors import (
    BadInputError,
    DownloadError,
    GatedError,
    HubError,
    IntegrityError,
    MissingOnHubError,
    OfflineError,
    OutputError,
    SafeEncodersError,
)
from safeencoders.files import sha256_file

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

T = TypeVar("T")

WAITS = (1.0, 4.0)
"""Seconds before the second and the third try; ``huggingface_hub`` tries each file several times within each."""

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT = 10.0
_AGAIN = (408, 429, 500, 502, 503, 504)
_NO_WAY = ("ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)

log = logging.getLogger(__name__)


def is_id(name: str) -> bool:
    """Say whether a name could be a repository on the Hub: "organisation/name"."""
    return bool(_ID.fullmatch(name)) and ".." not in name and "--" not in name


def fetch(repo: str, choose: Callable[[Sequence[str]], Sequence[str]], *, revision: str | None = None) -> Path:
    """Return the folder of a repository's files, each with the bytes that it had at first use.

    At first use the commit that ``revision`` (or the main branch) points to is recorded with the sha256 of each file;
    from then on that commit is used, without asking the Hub when all is in the cache.

    Args:
        repo: "organisation/name".
        choose: picks the files that are needed from the names of all.
        revision: a branch, tag or commit; its entry in the lock file is its own.

    Returns:
        The folder in the cache of ``huggingface_hub`` under which the chosen files lie by their names.

    Raises:
        OfflineError: there is no connection, or offline mode is on, and the files are not in the cache.
        GatedError: the repository asks for an agreement or a login.
        MissingOnHubError: no such repository, revision or file, or it has moved.
        DownloadError: the download failed again and again, or was damaged; no damaged file stays in the cache.
        ChangedError: the bytes are not those of first use.
        IntegrityError: a cached file was damaged, and without a connection it cannot be had again.
        OutputError: the cache cannot be written.
    """
    known, chosen = _known(repo, revision, choose)
    paths, files = {}, {}
    for name in chosen:
        paths[name], files[name] = _checked(repo, known, name)
    trust.record(repo, revision, replace(known, files=files))
    name, path = next(iter(paths.items()))
    return path.parents[name.count("/")]


def cached(repo: str) -> bool:
    """Say whether something of a repository is in the cache."""
    return any((_cache(repo) / "snapshots").glob("*/*"))


def _known(
    repo: str, revision: str | None, choose: Callable[[Sequence[str]], Sequence[str]]
) -> tuple[trust.Entry, Sequence[str]]:
    """Return what is recorded of a repository, or what the Hub or else the cache says, and the files to take.

    The cache does not know which other files a repository has: an entry made from it has no names.
    """
    before = trust.recall(repo, revision)
    if before is not None and before.names:
        return before, choose(before.names)
    files = {} if before is None else before.files
    wanted = revision if before is None else before.commit
    try:
        found = _look_up(repo, wanted)
    except OfflineError as error:
        kept = _in_cache(repo, wanted)
        if kept is None:
            raise
        try:
            chosen = choose(kept.names)
        except BadInputError:  # the rest of it may be on the Hub
            raise error from None
        return trust.Entry(kept.commit, (), files), chosen
    return replace(found, files=files), choose(found.names)


def _look_up(repo: str, revision: str | None) -> trust.Entry:
    """Ask the Hub which commit a revision is, and which files it has."""
    from huggingface_hub import HfApi

    def ask() -> trust.Entry:
        info = HfApi(library_name="safeencoders").model_info(repo, revision=revision, timeout=_TIMEOUT)
        if info.id != repo:
            raise MissingOnHubError(f"{repo} has moved to {info.id}; if you trust that one, load it by its new name")
        names = sorted(file.rfilename for file in info.siblings or ())
        if not _COMMIT.fullmatch(info.sha or "") or not names:
            raise _no_hub(repo)
        return trust.Entry(str(info.sha), tuple(names))

    return patiently(ask, repo, "its file list")


def _in_cache(repo: str, revision: str | None) -> trust.Entry | None:
    """Find the commit in the cache that a revision points to; without one, the only commit there."""
    top = _cache(repo)
    reference = top / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    kept = [path.name for path in (top / "snapshots").glob("*")]
    if commit is None and len(kept) == 1:
        commit = kept[0]
    if commit not in kept:
        return None
    files = (path for path in (top / "snapshots" / commit).rglob("*") if path.is_file())
    return trust.Entry(commit, tuple(sorted(path.relative_to(top / "snapshots" / commit).as_posix() for path in files)))


def _cache(repo: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def _checked(repo: str, known: trust.Entry, name: str) -> tuple[Path, str]:
    """Return a file and its sha256, downloaded once more when its bytes are not the right ones."""
    expected = known.files.get(name)
    path = _download(repo, known.commit, name)
    found = sha256_file(path)
    if not _right(path, found, expected):
        log.warning("%s of %s is damaged in the cache; downloading it again", name, repo)
        try:
            path = _download(repo, known.commit, name, force=True)
        except OfflineError as error:
            raise IntegrityError(path, expected or path.resolve().name, found) from error
        found = sha256_file(path)
        if not _right(path, found, expected):
            _forget(path)
            if expected:
                raise trust.changed(repo, f"{name} with sha256 {expected}", found)
            raise DownloadError(
                f"expected {name} of {repo} with the checksum that the Hub names, got sha256 {found} twice; "
                "nothing of it was kept. Try again later, or through another network"
            )
    return path, found


def _right(path: Path, found: str, expected: str | None) -> bool:
    """Compare with the record and with the name of the cached file, which is the checksum the Hub named.

    That is a sha256 for large files and git's sha1 for small ones; a cache without links has neither.
    """
    named = path.resolve().name
    if len(named) == len(found) and named != found:
        return False
    if _COMMIT.fullmatch(named):
        content = path.read_bytes()
        if hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() != named:
            return False
    return expected in {None, found}


def _forget(path: Path) -> None:
    """Remove a file from the cache, so that no later run takes it for a good one."""
    content = path.resolve()
    path.unlink(missing_ok=True)
    content.unlink(missing_ok=True)


def _download(repo: str, commit: str, name: str, *, force: bool = False) -> Path:
    from huggingface_hub import hf_hub_download

    def get() -> Path:
        return Path(hf_hub_download(repo, name, revision=commit, force_download=force, library_name="safeencoders"))

    return patiently(get, repo, name)


def patiently(call: Callable[[], T], repo: str, what: str) -> T:
    """Call; try again what can be tried again; give a fault of the Hub its name."""
    for wait in (*WAITS, None):
        try:
            return call()
        except SafeEncodersError:
            raise
        except Exception as error:
            named, again = _named(_cause(error), repo, what)
            if named is None:
                raise
            if wait is None or not again:
                raise named from error
            log.warning("downloading %s of %s: %s; trying again in %g s", what, repo, error, wait)
            time.sleep(wait)
    raise AssertionError


def _cause(error: Exception) -> Exception:
    """Unwrap what ``huggingface_hub`` wraps: a file that is not cached, because of the fault that stands behind."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    wrapped = isinstance(error, LocalEntryNotFoundError) or (isinstance(error, ValueError) and "orce" in str(error))
    return _cause(error.__cause__) if wrapped and isinstance(error.__cause__, Exception) else error


def _named(error: Exception, repo: str, what: str) -> tuple[SafeEncodersError | None, bool]:
    """Return our error for one of the Hub's, and whether trying again can help; None when it is none of the Hub's."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return _refused(error, repo, what)
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return _offline(repo, what, "offline mode is on"), False
    if type(error).__name__ in _NO_WAY:
        return _offline(repo, what, f"there is no connection ({error})"), True
    http_error = errors.HfHubHTTPError.__bases__[0]  # of the HTTP library, whichever this version uses
    if isinstance(error, http_error | ConnectionError | TimeoutError):
        return _failed(repo, what, f"the connection broke ({str(error) or type(error).__name__})"), True
    if isinstance(error, errors.FileMetadataError | KeyError | ValueError):  # a page that says it is not the Hub's
        return _no_hub(repo), False
    return _written(error, repo, what) if isinstance(error, OSError) else (None, False)


def _written(error: OSError, repo: str, what: str) -> tuple[SafeEncodersError | None, bool]:
    if error.errno in _DISK:
        return OutputError(
            f"cannot write {what} of {repo} to the cache: {error.strerror}; free some space, or choose another "
            "folder with HF_HUB_CACHE"
        ), False
    if error.errno is None:  # a length that is not the announced one
        return _failed(repo, what, "it ended early"), True
    return None, False


def _refused(error: HfHubHTTPError, repo: str, what: str) -> tuple[HubError, bool]:
    from huggingface_hub import constants, errors

    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError) or (
        status in {401, 403} and not isinstance(error, errors.RepositoryNotFoundError)
    ):
        return GatedError(
            f"{repo} asks for an agreement or a login: accept its terms on {constants.ENDPOINT}/{repo}, then run "
            "'hf auth login' or set HF_TOKEN"
        ), False
    if isinstance(error, errors.RevisionNotFoundError):
        return MissingOnHubError(
            f"{repo} has no such revision; check the name, or leave it out for the main branch. If it was recorded at "
            f"first use, it has been removed since: delete its entry in {trust.path()} to trust the repository anew"
        ), False
    if isinstance(error, errors.EntryNotFoundError):
        return MissingOnHubError(f"{repo} has no file {what} at this revision; choose another encoder"), False
    if status in _AGAIN:
        return _failed(repo, what, f"the server answered {status} again and again"), True
    return MissingOnHubError(
        f"there is no {repo} on the Hub (status {status}), and no folder of that name here; check the name, or log in "
        "with 'hf auth login' when it is private"
    ), False


def _offline(repo: str, what: str, reason: str) -> OfflineError:
    return OfflineError(
        f"expected {what} of {repo} in the cache or on the Hub, but {reason}. Load it once with a connection (unset "
        "HF_HUB_OFFLINE), or copy its folder here and load that by its path; load('pictoworld') needs no download"
    )


def _failed(repo: str, what: str, reason: str) -> DownloadError:
    return DownloadError(
        f"could not download {what} of {repo}: {reason}. Nothing half-written was kept; run the same again later"
    )


def _no_hub(repo: str) -> DownloadError:
    return DownloadError(
        f"what answered for {repo} is no Hub: a login page of the network, a proxy, or a wrong HF_ENDPOINT; check these"
    )
