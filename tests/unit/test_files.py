"""Nothing is ever half-written, and every refusal says why."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safeencoders.errors import BadInputError, IntegrityError, OutputError
from safeencoders.files import (
    check_sha256,
    output_file,
    output_folder,
    read_json,
    sha256_file,
    write_atomically,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_sha256_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "f").write_bytes(content)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_check_accepts_the_right_file_and_refuses_one_flipped_bit(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    expected = sha256_file(file)
    check_sha256(file, expected)
    check_sha256(file, expected.upper())
    file.write_bytes(b"weightr")
    with pytest.raises(IntegrityError, match=rf"model\.safetensors is truncated or was changed.*{expected}"):
        check_sha256(file, expected)
    file.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        check_sha256(file, expected)


def test_write_atomically_writes_text_and_bytes_and_makes_the_parent(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b" / "text", "grün\n")
    write_atomically(tmp_path / "a" / "b" / "bytes", b"\x00\x01")
    assert (tmp_path / "a" / "b" / "text").read_bytes() == "grün\n".encode()
    assert names(tmp_path / "a" / "b") == ["bytes", "text"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EACCES, "permission is denied"),
        (errno.EROFS, "the file system is read-only"),
    ],
)
def test_a_failed_write_keeps_the_old_file_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    file = tmp_path / "result.json"
    file.write_text("old")

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=rf"cannot write .*result\.json: {words}"):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_really_full_device_is_reported_and_left_alone() -> None:
    with pytest.raises(OutputError, match="the disk is full"):
        write_atomically("/dev/full", "text")
    assert Path("/dev/full").is_char_device()


def test_ctrl_c_in_a_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "f", "text")
    assert names(tmp_path) == []


def test_a_folder_or_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="a folder of this name exists"):
        write_atomically(tmp_path / "folder", "text")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"something else is there|a part of the path is a file"):
        write_atomically(tmp_path / "file" / "below", "text")
    assert names(tmp_path) == ["file", "folder"]


def test_a_link_is_followed_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_output_folder_appears_only_when_complete(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with output_folder(out) as folder:
        (folder / "a.txt").write_text("a")
        assert folder.parent == out.parent  # the same file system, so that the rename is one step
        assert not out.exists()
    assert names(out) == ["a.txt"]
    assert names(out.parent) == ["out"]


def test_output_folder_takes_the_place_of_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with output_folder(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("a")
    assert names(tmp_path / "out") == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_output_folder_vanishes_on_any_error(tmp_path: Path, error: type[BaseException]) -> None:
    def work() -> None:
        with output_folder(tmp_path / "out") as folder:
            (folder / "half.txt").write_text("half")
            raise error

    with pytest.raises(error):
        work()
    assert names(tmp_path) == []


def test_output_folder_refuses_what_exists_before_any_work(tmp_path: Path) -> None:
    started = []

    def work(path: Path) -> None:
        with output_folder(path):
            started.append(path)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("kept")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match="exists and is not empty; choose another --out, or delete it first"):
        work(tmp_path / "full")
    with pytest.raises(OutputError, match="is a file; choose another --out"):
        work(tmp_path / "file")
    with pytest.raises(OutputError):
        work(Path("/"))
    assert started == []
    assert names(tmp_path) == ["file", "full"]
    assert names(tmp_path / "full") == ["kept.txt"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc, which takes no file")
@pytest.mark.parametrize("output", [output_folder, output_file])
def test_a_place_that_takes_no_file_is_refused_before_any_work(output: Callable[..., Any]) -> None:
    started = []
    with pytest.raises(OutputError, match=r"cannot write /proc/out: .*choose another place"), output("/proc/out"):
        started.append(1)
    assert started == []


@pytest.mark.parametrize("output", [output_folder, output_file])
def test_a_file_that_the_block_misses_is_not_called_unwritable(output: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"), output(tmp_path / "out"):
        (tmp_path / "missing").read_bytes()
    assert names(tmp_path) == []


def test_output_folder_explains_a_full_disk_in_any_writer(tmp_path: Path) -> None:
    def work(error: Exception) -> None:
        with output_folder(tmp_path / "out"):
            raise error

    compiled = RuntimeError("I/O error: No space left on device (os error 28)")  # what compiled writers say
    for error in (OSError(errno.ENOSPC, "No space left on device"), compiled):
        with pytest.raises(OutputError, match="the disk is full; free some space"):
            work(error)
    assert names(tmp_path) == []


def test_output_folder_leaves_the_errors_of_other_files_alone(tmp_path: Path) -> None:
    def work(file: Path | str) -> None:
        with output_folder(tmp_path / "out"):
            raise PermissionError(errno.EACCES, "denied", str(file))

    with pytest.raises(PermissionError) as caught:
        work(tmp_path / "input.png")  # not a fault of the output: must not be reported as one
    assert not isinstance(caught.value, OutputError)

    def work_inside() -> None:
        with output_folder(tmp_path / "out") as folder:
            raise PermissionError(errno.EACCES, "denied", str(folder / "a"))

    with pytest.raises(OutputError, match="permission is denied"):
        work_inside()


def test_json_makes_the_round_trip_and_ends_in_a_newline(tmp_path: Path) -> None:
    content = {"b": [1, 2.5, None], "a": {"value": 0.5}}
    write_json(tmp_path / "r.json", content)
    assert read_json(tmp_path / "r.json") == content
    assert list(read_json(tmp_path / "r.json")) == ["b", "a"]
    assert (tmp_path / "r.json").read_text().endswith("}\n")


def test_json_refuses_what_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "r.json", {"value": float("nan")})
    assert names(tmp_path) == []


def test_reading_names_a_missing_and_a_truncated_file(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"expected a JSON file at .*r\.json, found none"):
        read_json(tmp_path / "r.json")
    (tmp_path / "r.json").write_text('{"a": 1')
    with pytest.raises(BadInputError, match=r"r\.json is not valid JSON \(.*line 1 column 8.*\); it may be truncated"):
        read_json(tmp_path / "r.json")
