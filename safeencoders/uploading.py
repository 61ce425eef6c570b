"""Uploading: a staged folder becomes one commit on the Hub, and what came to lie there is compared with it.

Everything is in one commit or one pull request, so that a repository is never half of an encoder. What was sent and
not committed is invisible, and is not sent again; a commit whose answer was lost is found by its manifest.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from safeencoders import hub, publishing, seal
from safeencoders.catalog import TowerName
from safeencoders.errors import BadInputError, GatedError, HubError, IntegrityError, OfflineError, SafeEncodersError

T = TypeVar("T")

TIMEOUT = 120.0
"""Seconds without a single byte in either direction before a connection counts as broken; it is tried three times."""

_AGAIN = (408, 429, 500, 502, 503, 504)
_OWN = frozenset({publishing.SIGNATURE, seal.FILE})

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """Where it lies now.

    Attributes:
        repo: "organisation/name".
        commit: of the main branch, or of the pull request.
        pull_request: its address, None when the main branch was written.
        done: whether anything had to be done.
    """

    repo: str
    commit: str
    pull_request: str | None
    done: bool


@dataclass(frozen=True)
class _Remote:
    """What a repository is now: its commit, its files, and the manifest among them."""

    commit: str
    names: frozenset[str]
    seal: seal.Seal | None


def check_names(repo: str) -> str:
    """Return the token to publish with, after looking at what can be known without asking.

    Raises:
        BadInputError: the repository's name is none, or nobody is logged in.
    """
    from huggingface_hub import get_token

    if not hub.is_id(repo):
        raise BadInputError(f"expected a repository 'organisation/name', got {repo!r}")
    token = get_token()
    if token is None:
        raise BadInputError(
            "expected a token with write permission, found none: run 'hf auth login', or set HF_TOKEN; "
            "--dry-run needs none"
        )
    return token


def upload(folder: Path, repo: str, *, private: bool = False, create_pr: bool = False) -> Published:
    """Make a staged folder the content of a repository, in one commit.

    Args:
        folder: what ``publishing.stage`` wrote.
        repo: "organisation/name"; it is made when it is not there.
        private: whether a new repository is private.
        create_pr: open a pull request instead of writing the main branch.

    Returns:
        The commit; when the repository holds this very manifest already, nothing is sent.

    Raises:
        BadInputError: no token, a wrong name, or a repository with other content.
        GatedError: the token is refused or may not write there.
        OfflineError: there is no connection.
        HubError: the Hub refused, or failed again and again; nothing was published by halves.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="safeencoders", token=check_names(repo))
    own = seal.read(folder / seal.FILE)
    with _plain_http(TIMEOUT):
        remote = _remote(api, repo)
        if remote is None:
            patiently(lambda: api.create_repo(repo, private=private, exist_ok=True), repo, "make the repository")
            remote = _remote(api, repo)
        if remote is not None and remote.seal == own and remote.names >= _names(folder):
            return Published(repo, remote.commit, None, done=False)
        _refuse_foreign(repo, remote, own, create_pr=create_pr)
        return _commit(api, folder, repo, remote, own, create_pr=create_pr)


def verify(folder: Path, published: Published, towers: Sequence[TowerName]) -> None:
    """Download what was published into a clean cache, and compare it with what was staged, file by file and loaded.

    Raises:
        IntegrityError: a file is not what was staged.
        HubError: it cannot be downloaded.
        OutputError: there is no space for it.
    """
    from huggingface_hub import snapshot_download

    with tempfile.TemporaryDirectory(prefix="safeencoders-") as cache, _plain_http(TIMEOUT):
        repo, token = published.repo, check_names(published.repo)

        def download() -> str:
            return snapshot_download(repo, revision=published.commit, cache_dir=cache, token=token)

        top = Path(hub.patiently(download, repo, "what was published"))
        if seal.check(top) != seal.read(folder / seal.FILE):
            raise IntegrityError(top / seal.FILE, "of the staged manifest", "another one")
        publishing.check_towers(top, folder, towers)


def _names(folder: Path) -> set[str]:
    return set(publishing.sizes(folder))


def _remote(api: Any, repo: str) -> _Remote | None:  # noqa: ANN401  an HfApi
    """Look at a repository; None when there is none that this token may see."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    def ask() -> _Remote | None:
        try:
            info = api.model_info(repo)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return None
        if info.id != repo:
            raise BadInputError(f"{repo} has moved to {info.id}; publish there if it is yours")
        names = frozenset(file.rfilename for file in info.siblings or ())
        found = None
        if seal.FILE in names:
            with tempfile.TemporaryDirectory(prefix="safeencoders-") as cache:
                path = hf_hub_download(repo, seal.FILE, revision=info.sha, cache_dir=cache, token=api.token)
                found = _seal(Path(path))
        return _Remote(str(info.sha), names, found)

    return patiently(ask, repo, "look at the repository")


def _seal(path: Path) -> seal.Seal | None:
    try:
        return seal.read(path)
    except BadInputError:  # some other file of that name
        return None


def _refuse_foreign(repo: str, remote: _Remote | None, own: seal.Seal, *, create_pr: bool) -> None:
    """Raise BadInputError rather than write over what somebody else, or another encoder, has there."""
    if remote is None or create_pr or not remote.names - {".gitattributes"}:
        return
    if remote.seal is None or remote.seal.encoder != own.encoder:
        held = f"{len(remote.names)} files" if remote.seal is None else f"the encoder {remote.seal.encoder}"
        raise BadInputError(
            f"expected {repo} to be new, empty, or to hold an earlier version of {own.encoder}, found {held}; choose "
            "another --repo, or propose it with --create-pr"
        )


def _commit(
    api: Any,  # noqa: ANN401  an HfApi
    folder: Path,
    repo: str,
    remote: _Remote | None,
    own: seal.Seal,
    *,
    create_pr: bool,
) -> Published:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    old = set() if remote is None or remote.seal is None else {*remote.seal.files, *_OWN} & remote.names
    gone = sorted(old - _names(folder))

    def send() -> Published:
        adds = [CommitOperationAdd(name, folder / name) for name in sorted(_names(folder))]
        try:
            found = api.create_commit(
                repo,
                [*adds, *(CommitOperationDelete(name) for name in gone)],
                commit_message=f"{own.encoder}, published with safeencoders",
                parent_commit=None if remote is None else remote.commit,
                create_pr=create_pr,
            )
        except Exception:  # it may have come through all the same, and only its answer been lost
            now = None if create_pr else _remote(api, repo)
            if now is None or now.seal != own:
                raise
            return Published(repo, now.commit, None, done=True)
        return Published(repo, found.oid, found.pr_url, done=True)

    return patiently(send, repo, "publish", again=not create_pr)


@contextmanager
def _plain_http(seconds: float) -> Iterator[None]:
    """Have huggingface_hub use clients that give up on a silent connection, as its own, which wait for ever, do not.

    It makes a new client after some faults, so what makes them is exchanged. Silence becomes a TimeoutError, which
    ``patiently`` tries again; by itself huggingface_hub would wait for six silences before it told of one. Xet is off:
    its connections are its own, and so are their timeouts and faults.
    """
    from huggingface_hub import constants, errors, set_client_factory
    from huggingface_hub.utils import _http

    library = import_module(errors.HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
    make, xet = _http._GLOBAL_CLIENT_FACTORY, constants.HF_HUB_DISABLE_XET  # noqa: SLF001  it cannot be asked for

    def client() -> Any:  # noqa: ANN401  of whichever HTTP library
        made: Any = make()
        made.timeout = seconds
        send = made.send

        def heard(request: Any, **options: Any) -> Any:  # noqa: ANN401  as ``send``
            waits = request.extensions.get("timeout") or {}
            if waits.get("read") is None:  # some calls ask to wait for ever
                request.extensions["timeout"] = made.timeout.as_dict()
            try:
                return send(request, **options)
            except library.TimeoutException as error:
                raise TimeoutError(f"not a byte came or went for {seconds:g} s") from error

        made.send = heard
        return made

    set_client_factory(client)
    constants.HF_HUB_DISABLE_XET = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = xet
        set_client_factory(make)


def patiently(call: Callable[[], T], repo: str, what: str, *, again: bool = True) -> T:
    """Call; try again what can be tried again; give a fault of the Hub its name and its remedy.

    Args:
        call: what to do.
        repo: for messages.
        what: is being done, as an infinitive, for messages.
        again: whether what was done twice would do no harm.
    """
    for wait in (*hub.WAITS, None):
        try:
            return call()
        except SafeEncodersError:
            raise
        except Exception as error:
            named, transient = _named(_cause(error), repo, what)
            if named is None:
                raise
            if wait is None or not transient or not again:
                raise named from error
            log.warning("could not %s %s (%s); trying again in %g s", what, repo, error, wait)
            time.sleep(wait)
    raise AssertionError


def _cause(error: Exception) -> Exception:
    """Unwrap what ``huggingface_hub`` wraps: a file that could not be sent, because of the fault that stands behind."""
    return error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception) else error


def _named(error: Exception, repo: str, what: str) -> tuple[SafeEncodersError | None, bool]:
    """Return our error for one of the Hub's, and whether trying again can help; None when it is none of the Hub's."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return _refused(error, error.response.status_code, repo, what)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return OfflineError(f"cannot {what} {repo}: offline mode is on; unset HF_HUB_OFFLINE"), False
    if isinstance(error, ValueError) and "metadata" in str(error):
        return HubError(f"the Hub does not take the card of {repo}: {error}"), False
    if isinstance(error, ValueError):  # a page of an overloaded server, or of something between it and us
        return HubError(f"could not {what} {repo}: what answered did not answer as the Hub does ({error})"), True
    http_error = errors.HfHubHTTPError.__bases__[0]  # of the HTTP library, whichever this version uses
    if isinstance(error, http_error | ConnectionError | TimeoutError):
        reason = str(error) or type(error).__name__
        return OfflineError(
            f"could not {what} {repo}: the connection broke ({reason}). What was not committed is not visible; run the "
            "same again to go on"
        ), True
    return None, False


def _refused(error: Any, status: int, repo: str, what: str) -> tuple[SafeEncodersError, bool]:  # noqa: ANN401
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return GatedError(
            f"{repo} is gated: accept its terms on {constants.ENDPOINT}/{repo}, then run the same again"
        ), False
    if status in {401, 403}:
        return GatedError(
            f"the Hub refused to {what} {repo} (status {status}): the token is not valid, or has no write permission "
            "there. Make one that has, run 'hf auth login' or set HF_TOKEN, then run the same again"
        ), False
    if status in {409, 412}:
        return HubError(
            f"{repo} was written by somebody else meanwhile (status {status}); nothing of this was published. Look at "
            "it, then run the same again"
        ), False
    if status == 404:
        return HubError(f"there is no {repo} to {what}, or the token may not see it (status 404)"), False
    if status in _AGAIN:
        return HubError(
            f"could not {what} {repo}: the server answered {status} again and again. What was not committed is not "
            "visible; run the same again later to go on"
        ), True
    return HubError(f"the Hub refused to {what} {repo} (status {status}): {error}"), False
