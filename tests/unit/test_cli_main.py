"""Exit codes and what stands on standard error; the work itself is replaced by a stand-in."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer

from safeencoders import __version__
from safeencoders.cli.main import main
from safeencoders.errors import BadInputError


def quickstart_that(monkeypatch: pytest.MonkeyPatch, error: BaseException | None) -> list[tuple[Path, int]]:
    calls: list[tuple[Path, int]] = []

    def run_quickstart(out: Path, *, seed: int) -> None:
        calls.append((out, seed))
        if error is not None:
            raise error

    story = ModuleType("safeencoders.cli.story")
    story.run_quickstart = run_quickstart  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "safeencoders.cli.story", story)
    return calls


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (None, 0, ""),
        (typer.Exit(1), 1, ""),
        (
            BadInputError("expected n of at most 5, got 7; lower --n."),
            2,
            "error: expected n of at most 5, got 7; lower",
        ),
        (KeyboardInterrupt(), 130, "interrupted; nothing was half-written\n"),
        (RuntimeError("our own fault"), 70, "RuntimeError: our own fault\n\nThis is a fault of safeencoders"),
    ],
    ids=["done", "no", "bad input", "interrupted", "fault"],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException | None,
    code: int,
    message: str,
) -> None:
    calls = quickstart_that(monkeypatch, error)
    assert main(["quickstart", "--out", "there", "--seed", "4"]) == code
    assert calls == [(Path("there"), 4)]
    said = capsys.readouterr().err
    assert message in said
    assert ("Traceback" in said) == (code == 70)


@pytest.mark.parametrize(
    "words",
    [
        ["quickstart"],
        ["no-such-command"],
        ["quickstart", "--out", "x", "--seed", "minus one"],
        ["evaluate", "retrieval", "--towers", "none"],
        ["world", "build", "--minutes", "31"],
    ],
    ids=" ".join,
)
def test_bad_usage_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "Usage:" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"safeencoders {__version__}\n"


def test_help_documents_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "Exit codes: 0 done; 1 it ran and the answer is no; 2 bad usage or input" in words


@pytest.mark.parametrize(
    "command",
    [
        *("quickstart", "world build", "world preview", "world stats", "evaluate retrieval", "evaluate generation"),
        *("protect", "audit", "redteam", "explain", "doctor"),
    ],
)
def test_every_command_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert f"Example: safeencoders {command}" in capsys.readouterr().out
