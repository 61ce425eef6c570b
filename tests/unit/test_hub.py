"""The Hub: trust on first use, and every fault retried or named, with nothing half-written left behind."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fake_hub import etag
from huggingface_hub import constants

from safeencoders import hub, trust
from safeencoders.errors import (
    BadInputError,
    ChangedError,
    DownloadError,
    GatedError,
    IntegrityError,
    MissingOnHubError,
    OfflineError,
    OutputError,
)

REPO = "some-lab/some-encoder"
FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 40, "README.md": b"words"}
WANTED = ("config.json", "model.safetensors")
API, HEAD, GET = "GET /api", "HEAD .*model.safetensors", "GET .*resolve.*model.safetensors"


@pytest.fixture
def published(fake_hub):
    fake_hub.publish(REPO, FILES)
    return fake_hub


@pytest.fixture
def fetch(published):
    assert REPO in published.repos
    return lambda revision=None: hub.fetch(REPO, lambda _names: WANTED, revision=revision)


def assert_whole(folder):
    assert {name: (folder / name).read_bytes() for name in WANTED} == {name: FILES[name] for name in WANTED}


def broken_files():
    """Return what the cache holds under a checksum that is not its own, and what was begun and left."""
    blobs = list(Path(constants.HF_HUB_CACHE).rglob("blobs/*"))
    return [path.name for path in blobs if path.name != etag(path.read_bytes())]


def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_first_use_records_the_commit_and_every_checksum_and_later_uses_ask_nothing(published, fetch):
    assert_whole(fetch())
    commit = published.branches[REPO]["main"]
    files = {name: hashlib.sha256(FILES[name]).hexdigest() for name in WANTED}
    assert json.loads(trust.path().read_text()) == {REPO: {"commit": commit, "names": sorted(FILES), "files": files}}
    published.requests.clear()
    assert_whole(fetch())
    assert published.requests == []


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        *((kind, pattern) for kind in ("500", "503", "429", "408") for pattern in (API, HEAD, GET)),
        *(("reset", pattern) for pattern in (API, HEAD, GET)),
        *(("hang", pattern) for pattern in (API, HEAD, GET)),
        *((kind, GET) for kind in ("cut", "break", "short", "corrupt")),
    ],
)
def test_a_fault_that_passes_is_overcome_within_one_run(published, fetch, kind, pattern):
    published.fault(kind, pattern, times=1)
    assert_whole(fetch())
    assert published.faults[0].times == 0, "the fault never happened"
    assert broken_files() == []


LASTING = [
    ("503", API, DownloadError, "the server answered 503 again and again"),
    ("500", HEAD, DownloadError, "the server answered 500 again and again"),
    ("429", GET, DownloadError, "the server answered 429 again and again"),
    ("503", GET, DownloadError, "the server answered 503 again and again"),
    ("reset", API, DownloadError, "the connection broke"),
    ("reset", GET, DownloadError, "the connection broke"),
    ("hang", API, DownloadError, "the connection broke"),
    ("hang", GET, DownloadError, "the connection broke"),
    ("cut", GET, DownloadError, "the connection broke"),
    ("break", GET, DownloadError, "the connection broke"),
    ("short", GET, DownloadError, "it ended early"),
    ("corrupt", GET, DownloadError, "with the checksum that the Hub names, got sha256 [0-9a-f]{64} twice"),
    ("page", API, DownloadError, "what answered for some-lab/some-encoder is no Hub"),
    ("page", HEAD, DownloadError, "what answered for some-lab/some-encoder is no Hub"),
    ("gated", API, GatedError, "asks for an agreement or a login: accept its terms on http.*some-lab/some-encoder"),
    ("gated", HEAD, GatedError, "then run 'hf auth login' or set HF_TOKEN"),
    ("401", HEAD, GatedError, "asks for an agreement or a login"),
    ("403", GET, GatedError, "asks for an agreement or a login"),
    ("404", API, MissingOnHubError, "there is no some-lab/some-encoder on the Hub"),
]


@pytest.mark.parametrize(("kind", "pattern", "error", "words"), LASTING)
def test_a_fault_that_lasts_is_named_and_the_next_run_completes(published, fetch, kind, pattern, error, words):
    published.fault(kind, pattern, times=None)
    with pytest.raises(error, match=words):
        fetch()
    assert broken_files() == []
    published.faults.clear()
    assert_whole(fetch())
    assert broken_files() == []


def test_a_download_that_is_cut_each_time_goes_on_where_it_stopped(published, fetch, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1)
    published.fault("cut", GET, times=None)
    assert_whole(fetch())
    assert broken_files() == []


def test_the_probe_for_broken_files_sees_one(fetch):
    folder = fetch()
    (folder / "model.safetensors").resolve().write_bytes(FILES["model.safetensors"][:100])
    assert len(broken_files()) == 1


def test_what_is_missing_is_named(fetch):
    with pytest.raises(MissingOnHubError, match="there is no some-lab/other on the Hub"):
        hub.fetch("some-lab/other", lambda _names: WANTED)
    with pytest.raises(MissingOnHubError, match="has no such revision; check the name, or leave it out"):
        fetch(revision="v9")
    with pytest.raises(MissingOnHubError, match=r"has no file weights\.bin at this revision"):
        hub.fetch(REPO, lambda _names: ["weights.bin"])
    assert trust.entries() == {}


def test_a_repository_that_moved_is_not_followed(published):
    published.moved["some-lab/old-name"] = REPO
    with pytest.raises(MissingOnHubError, match=f"some-lab/old-name has moved to {REPO}; if you trust that one"):
        hub.fetch("some-lab/old-name", lambda _names: WANTED)
    assert trust.entries() == {}


def test_a_moved_branch_changes_nothing_and_a_revision_has_its_own_entry(published, fetch):
    assert_whole(fetch())
    newer = published.publish(REPO, FILES | {"model.safetensors": b"newer" * 1000})
    assert_whole(fetch())
    assert (fetch(revision="main") / "model.safetensors").read_bytes() == b"newer" * 1000
    assert (fetch(revision=newer) / "model.safetensors").read_bytes() == b"newer" * 1000
    first = published.branches[REPO]["main"]
    assert {key: entry.commit == first for key, entry in trust.entries().items()} == {
        REPO: False,
        f"{REPO}@main": True,
        f"{REPO}@{newer}": True,
    }


def test_other_bytes_than_at_first_use_are_refused_until_the_entry_is_deleted(published, fetch):
    folder, commit = fetch(), published.branches[REPO]["main"]
    published.repos[REPO][commit]["model.safetensors"] = b"other" * 1000
    (folder / "model.safetensors").unlink()
    for _run in range(2):
        with pytest.raises(ChangedError, match=r"model\.safetensors with sha256 \w{64}\), found \w{64}") as caught:
            fetch()
        assert f"delete its entry in {trust.path()}" in str(caught.value)
    trust.path().write_text("{}")
    assert (fetch() / "model.safetensors").read_bytes() == b"other" * 1000


@pytest.mark.parametrize("name", WANTED)
def test_a_cached_file_that_was_damaged_is_downloaded_again(fetch, name):
    folder = fetch()
    (folder / name).resolve().write_bytes(FILES[name][:-1] + b"x")
    assert_whole(fetch())


def test_a_cached_file_that_was_damaged_is_refused_offline(fetch, monkeypatch):
    folder = fetch()
    (folder / "model.safetensors").resolve().write_bytes(FILES["model.safetensors"][:-1] + b"x")
    offline(monkeypatch)
    with pytest.raises(IntegrityError, match=hashlib.sha256(FILES["model.safetensors"]).hexdigest()):
        fetch()


def test_offline_what_is_cached_loads_and_what_is_not_names_the_remedy(fetch, monkeypatch):
    offline(monkeypatch)
    with pytest.raises(OfflineError, match="offline mode is on") as caught:
        fetch()
    for remedy in ("Load it once with a connection", "copy its folder here", "load('pictoworld') needs no download"):
        assert remedy in str(caught.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    fetch()
    offline(monkeypatch)
    assert_whole(fetch())


def test_without_a_server_there_is_no_connection(published, fetch):
    published.close()
    with pytest.raises(OfflineError, match="there is no connection"):
        fetch()


def test_a_copied_cache_is_trusted_on_first_use_offline(fetch, monkeypatch):
    first = fetch().name
    trust.path().unlink()
    offline(monkeypatch)
    assert_whole(fetch())
    assert trust.entries()[REPO].commit == first


def test_of_several_cached_commits_the_one_that_the_branch_points_to_is_taken_offline(published, fetch, monkeypatch):
    first = published.branches[REPO]["main"]
    second = published.publish(REPO, FILES | {"README.md": b"other words"})
    fetch(revision=first)
    fetch(revision=second)
    trust.path().unlink()
    offline(monkeypatch)
    with pytest.raises(OfflineError):  # which of the two, nobody says
        fetch()
    reference = Path(constants.HF_HUB_CACHE) / "models--some-lab--some-encoder" / "refs" / "main"
    reference.parent.mkdir()
    reference.write_text(first)
    assert fetch().name == first


def test_a_cached_folder_without_the_weights_is_no_encoder_offline(fetch, monkeypatch):
    (fetch() / "model.safetensors").unlink()
    trust.path().unlink()
    offline(monkeypatch)
    with pytest.raises(OfflineError, match=r"expected model\.safetensors of some-lab/some-encoder in the cache"):
        fetch()


def test_what_a_cache_could_not_tell_is_asked_when_there_is_a_connection(published, fetch, monkeypatch):
    def choose(*wanted):
        def chosen(names):
            if not set(wanted) <= set(names):
                raise BadInputError(f"expected {wanted}")
            return wanted

        return chosen

    (fetch() / "model.safetensors").unlink()
    trust.path().unlink()
    commit = published.branches[REPO]["main"]
    published.publish(REPO, FILES | {"config.json": b"newer"})
    offline(monkeypatch)
    hub.fetch(REPO, choose("config.json"))
    assert trust.recall(REPO).names == ()
    with pytest.raises(OfflineError):
        hub.fetch(REPO, choose(*WANTED))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert_whole(hub.fetch(REPO, choose(*WANTED)))
    assert (trust.recall(REPO).commit, trust.recall(REPO).names) == (commit, tuple(sorted(FILES)))
    with pytest.raises(BadInputError, match=r"weights\.bin"):
        hub.fetch(REPO, choose("weights.bin"))


def test_a_full_disk_is_named_with_the_variable_that_moves_the_cache(fetch, monkeypatch):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("huggingface_hub.hf_hub_download", full)
        with pytest.raises(OutputError, match=r"No space left on device; free some space, .* HF_HUB_CACHE"):
            fetch()
    assert_whole(fetch())


def test_a_fault_of_our_own_is_not_hidden(fetch, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_a, **_o: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fetch()


# --- the lock file ------------------------------------------------------------------------------------------------


def test_a_damaged_lock_file_is_refused_with_the_remedy(fetch):
    trust.folder().mkdir(parents=True)
    trust.path().write_text('{"some-lab/some-encoder": {"commit": 3}}')
    with pytest.raises(BadInputError, match="Delete the file: what it held is then trusted anew"):
        fetch()
    trust.path().write_text('{"some-lab/')
    with pytest.raises(BadInputError, match="is not valid JSON"):
        fetch()


def test_a_lock_file_that_cannot_be_written_names_the_variable(fetch, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SAFEENCODERS_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="choose another folder with SAFEENCODERS_CACHE"):
        fetch()


def test_the_lock_lies_in_the_users_cache_unless_a_variable_says_otherwise(monkeypatch):
    monkeypatch.setenv("SAFEENCODERS_CACHE", "/somewhere")
    assert trust.path() == Path("/somewhere/lock.json")
    monkeypatch.delenv("SAFEENCODERS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert trust.path() == Path("/xdg/safeencoders/lock.json")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert trust.path() == Path.home() / ".cache" / "safeencoders" / "lock.json"


def test_entries_of_many_writers_are_all_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("SAFEENCODERS_CACHE", str(tmp_path))
    entry = trust.Entry("a" * 40, ("x",), {"x": "1"})
    threads = [threading.Thread(target=trust.record, args=(f"lab/{i}", None, entry)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trust.entries() == {f"lab/{i}": entry for i in range(12)}


def test_files_of_one_commit_are_added_and_another_commit_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("SAFEENCODERS_CACHE", str(tmp_path))
    names = ("x", "y")
    trust.record("lab/e", None, trust.Entry("a" * 40, names, {"x": "1"}))
    trust.record("lab/e", None, trust.Entry("a" * 40, names, {"y": "2"}))
    assert trust.recall("lab/e") == trust.Entry("a" * 40, names, {"x": "1", "y": "2"})
    with pytest.raises(ChangedError, match=r"commit a{40}.*found commit b{40}"):
        trust.record("lab/e", None, trust.Entry("b" * 40, names, {"y": "3"}))
    with pytest.raises(ChangedError, match="y with sha256 2"):
        trust.record("lab/e", None, trust.Entry("a" * 40, names, {"y": "3"}))
    assert trust.recall("lab/e").files == {"x": "1", "y": "2"}


# --- whole processes, set up as a user would -----------------------------------------------------------------------

SCRIPT = f"from safeencoders import hub; print(hub.fetch({REPO!r}, lambda names: {WANTED!r}))"


def process(fake_hub, tmp_path):
    settings = {"HF_ENDPOINT": fake_hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0",
                "HF_HUB_DISABLE_XET": "1", "SAFEENCODERS_CACHE": str(tmp_path / "lock")}  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | settings
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, **pipes)


def finish(running):
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert_whole(Path(out.strip()))


def test_two_processes_at_once_both_get_whole_files(published, tmp_path):
    pair = [process(published, tmp_path) for _ in range(2)]
    for running in pair:
        finish(running)


def test_a_process_killed_in_mid_download_leaves_nothing_that_the_next_one_trusts(published, tmp_path):
    published.fault("stall", GET)
    running = process(published, tmp_path)
    assert published.stalled.wait(60), running.communicate(timeout=1)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    assert not list((tmp_path / "hf").rglob("snapshots/*/model.safetensors"))
    finish(process(published, tmp_path))
