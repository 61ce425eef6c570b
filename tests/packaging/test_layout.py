"""The written list of packages, the folders and the links agree."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = ("training", "integrations", "demo")


def settings() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return dict(tomllib.load(file)["tool"]["setuptools"])


def packages_on_disk(root: Path) -> set[str]:
    found = set()
    for top in ("safeencoders", *OUTSIDE):
        for init in (root / top).rglob("__init__.py"):
            parts = init.parent.relative_to(root).parts
            if not any((root / Path(*parts[:i])).is_symlink() for i in range(1, len(parts) + 1)):
                found.add(".".join(parts if top == "safeencoders" else ("safeencoders", *parts)))
    return found


def folders_with_code(root: Path) -> set[Path]:
    return {
        file.parent
        for top in ("safeencoders", *OUTSIDE)
        for file in (root / top).rglob("*.py")
        if not any(parent.is_symlink() for parent in file.parents)
    }


def test_the_list_of_packages_equals_the_folders() -> None:
    listed = settings()["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == packages_on_disk(ROOT), "bring [tool.setuptools] packages in pyproject.toml up to date"


def test_a_folder_that_is_not_listed_would_be_found(tmp_path: Path) -> None:
    for folder in ("safeencoders/new", "training/new"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "safeencoders" / "training").symlink_to("../training")
    assert packages_on_disk(tmp_path) == {"safeencoders.new", "safeencoders.training.new"}


def test_every_folder_with_code_is_a_package() -> None:
    missing = [str(path.relative_to(ROOT)) for path in folders_with_code(ROOT) if not (path / "__init__.py").exists()]
    assert missing == [], "a folder without __init__.py is in no wheel"


@pytest.mark.parametrize("name", OUTSIDE)
def test_each_outside_package_is_mapped_linked_and_guarded(name: str) -> None:
    assert settings()["package-dir"][f"safeencoders.{name}"] == name
    link = ROOT / "safeencoders" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert (
        f"ImportError: the top-level folder '{name}' is the package 'safeencoders.{name}': "
        f"write 'import safeencoders.{name}'"
    ) in done.stderr
    subprocess.run([sys.executable, "-c", f"import safeencoders.{name}"], cwd=ROOT, check=True)
