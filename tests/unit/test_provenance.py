"""A manifest holds what is needed to repeat a run, and making it can never lose the run."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from safeencoders import __version__, provenance


def make() -> dict[str, Any]:
    return provenance.manifest(
        ["safeencoders", "quickstart"],
        seeds={"run": 3},
        weights={"clip": "a" * 64},
        data={"test": "b" * 64},
        seconds=1.5,
    )


def test_manifest_holds_every_field_and_is_json() -> None:
    manifest = json.loads(json.dumps(make(), allow_nan=False))
    assert set(manifest) == {
        "commit", "versions", "command", "seeds", "weights", "data", "seconds", "machine", "utc",
    }  # fmt: skip
    assert manifest["command"] == "safeencoders quickstart"
    assert (manifest["seeds"], manifest["weights"], manifest["data"]) == (
        {"run": 3},
        {"clip": "a" * 64},
        {"test": "b" * 64},
    )
    packages = {"python", "safeencoders", "torch", "transformers", "diffusers", "numpy", "pillow", "onnxruntime"}
    assert set(manifest["versions"]) == packages
    assert set(manifest["machine"]) == {"platform", "cores", "memory_gb"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest["utc"])


def fake_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "safeencoders").mkdir()
    module = tmp_path / "safeencoders" / "provenance.py"
    module.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(module))
    return tmp_path


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_commit_is_that_of_the_checkout_and_says_when_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fake_checkout(tmp_path, monkeypatch)
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "--no-verify", "-m", "one")
    head = git(root, "rev-parse", "HEAD")
    assert provenance.commit() == head
    (root / "safeencoders" / "provenance.py").write_text("changed")
    assert provenance.commit() == f"{head}-dirty"


def test_commit_of_an_installed_package_is_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q")  # somebody else's repository around the installation
    inner = tmp_path / "site-packages"
    inner.mkdir()
    fake_checkout(inner, monkeypatch)
    assert provenance.commit() == f"safeencoders-{__version__}"


@pytest.mark.parametrize("fault", ["no git", "git fails", "git hangs"])
def test_no_fault_of_git_loses_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    root = fake_checkout(tmp_path, monkeypatch)
    (root / ".git").mkdir()  # looks like a checkout and is none

    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("git", 10)

    if fault == "no git":
        monkeypatch.setattr(shutil, "which", lambda _: None)
    if fault == "git hangs":
        monkeypatch.setattr(subprocess, "run", hang)
    assert make()["commit"] == f"safeencoders-{__version__}"


def test_an_absent_package_is_none_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_PACKAGES", ("no-such-package-here",))
    assert provenance.versions()["no-such-package-here"] is None


def test_a_manifest_loads_no_torch() -> None:
    code = (
        "import sys; from safeencoders.provenance import manifest\n"
        "manifest('x', seeds={}, weights={}, data={}, seconds=0)\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
