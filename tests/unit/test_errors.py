"""Errors say what was expected, what came and the remedy; they are also the builtin a caller expects."""

import pickle

import pytest

from safeencoders.errors import (
    BadInputError,
    IntegrityError,
    MissingExtraError,
    OutputError,
    SafeEncodersError,
    UnknownNameError,
)

ERRORS = [
    (UnknownNameError("encoder", "pictowrld", ["pictoworld", "other"]), LookupError),
    (BadInputError("expected n of at most 5, got 7; lower --n."), ValueError),
    (IntegrityError("model.safetensors", "a" * 64, "b" * 64), OSError),
    (OutputError("cannot write here: the disk is full."), OSError),
    (MissingExtraError("gradio", "demo"), ImportError),
]


@pytest.mark.parametrize(("error", "builtin"), ERRORS, ids=lambda value: getattr(type(value), "__name__", ""))
def test_each_is_ours_and_the_builtin(error: SafeEncodersError, builtin: type[Exception]) -> None:
    assert isinstance(error, SafeEncodersError)
    assert isinstance(error, builtin)


@pytest.mark.parametrize("error", [error for error, _ in ERRORS], ids=lambda error: type(error).__name__)
def test_each_survives_the_way_from_a_worker_process(error: SafeEncodersError) -> None:
    back = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_unknown_name_suggests_the_nearest_and_lists_all() -> None:
    error = UnknownNameError("encoder", "Pictowrld", ["pictoworld", "other"])
    assert str(error) == "unknown encoder 'Pictowrld'. Did you mean 'pictoworld'? Known: other, pictoworld."
    assert (error.kind, error.name, error.known) == ("encoder", "Pictowrld", ("other", "pictoworld"))


def test_unknown_name_suggests_nothing_when_nothing_is_near() -> None:
    assert str(UnknownNameError("encoder", "zzz", ["pictoworld"])) == "unknown encoder 'zzz'. Known: pictoworld."
    assert str(UnknownNameError("encoder", "zzz", [])) == "unknown encoder 'zzz'. Known: none is registered."


def test_integrity_error_names_the_file_and_both_hashes() -> None:
    changed = IntegrityError("clip/model.safetensors", "a" * 64, "b" * 64)
    assert str(changed) == (
        f"clip/model.safetensors is truncated or was changed: expected sha256 {'a' * 64}, found {'b' * 64}. "
        "Do not use these weights; install the package or download the files again."
    )
    missing = IntegrityError("clip/model.safetensors", "a" * 64, None)
    assert "clip/model.safetensors is missing" in str(missing)
    assert "found no file" in str(missing)
    assert missing.found is None


def test_missing_extra_names_the_command_that_installs_it() -> None:
    assert str(MissingExtraError("gradio", "demo")) == (
        "this needs the package 'gradio', which is not installed. Install it with: pip install \"safeencoders[demo]\""
    )
