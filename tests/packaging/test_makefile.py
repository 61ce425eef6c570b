"""The two commands of a newcomer fail clearly; nothing is installed by these tests."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def make(*words: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # we may run under make
    return subprocess.run(["make", "-C", str(ROOT), *words], capture_output=True, text=True, check=False, env=clean)


def test_help_is_the_default_and_names_every_target() -> None:
    done = make()
    assert done.returncode == 0
    for target in ("quickstart", "test", "test-all", "check", "docs", "format", "clean"):
        assert f"make {target} " in done.stdout


def test_an_old_python_is_named_with_the_remedy(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\nif [ "$1" = --version ]; then echo Python 3.9.1; exit 0; fi\nexit 1\n')
    old.chmod(0o755)
    done = make("test", f"VENV={tmp_path / 'env'}", f"PYTHON={old}")
    assert done.returncode == 2
    assert "safeencoders needs Python 3.11 or newer" in done.stderr
    assert "is Python 3.9.1" in done.stderr
    assert not (tmp_path / "env").exists()


def test_an_existing_result_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".installed").touch()
    (tmp_path / "out").mkdir()
    done = make("quickstart", f"VENV={tmp_path}", f"OUT={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "exists already: open" in done.stderr
    assert "make quickstart OUT=another-folder" in done.stderr
