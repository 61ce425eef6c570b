"""sdist -> wheel -> an environment of its own: everything is in it, and nothing else."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ("safeencoders", "training", "integrations", "demo")
DATA = {".toml", ".safetensors", ".json", ".txt"}
# Put there before building, so that the patterns are tested even while a folder has no data of its own.
PROBES = (
    "training/recipes/probe.toml",
    "safeencoders/pictoworld/weights/probe/config.json",
    "safeencoders/pictoworld/weights/probe/unet/model.safetensors",
    "safeencoders/pictoworld/weights/probe/merges.txt",
)


def name_in_wheel(path: Path) -> str:
    return path.as_posix() if path.parts[0] == "safeencoders" else f"safeencoders/{path.as_posix()}"


def files_of(source: Path, suffixes: set[str]) -> set[str]:
    """Return the names under which the files of the source tree must be in the wheel (links are not followed)."""
    return {
        name_in_wheel(file.relative_to(source))
        for top in CODE
        for file in (source / top).rglob("*")
        if file.suffix in suffixes and not any(parent.is_symlink() for parent in file.parents)
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("source")
    for top in CODE:
        ignored = shutil.ignore_patterns("__pycache__", "*.partial")
        shutil.copytree(ROOT / top, copy / top, symlinks=True, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy / file)
    for probe in PROBES:
        (copy / probe).parent.mkdir(parents=True, exist_ok=True)
        (copy / probe).write_text("probe")
    return copy


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    words = ["-m", "build", "--no-isolation", "--outdir", str(out), str(source)]  # makes the wheel from the sdist
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_only_top_level_name_is_safeencoders(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in names(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"safeencoders"}


def test_every_module_is_in_the_wheel_once(source: Path, wheel: Path) -> None:
    assert {name for name in names(wheel) if name.endswith(".py")} == files_of(source, {".py"})


def test_recipes_and_weights_are_in_the_wheel_and_the_sdist(source: Path, built: Path, wheel: Path) -> None:
    data = files_of(source, DATA)
    assert {name_in_wheel(Path(probe)) for probe in PROBES} <= data
    assert data == {name for name in names(wheel) if Path(name).suffix in DATA and ".dist-info/" not in name}
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert set(PROBES) <= packed


def test_the_licence_and_the_marker_of_types_are_in_the_wheel(wheel: Path) -> None:
    assert "safeencoders/py.typed" in names(wheel)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names(wheel))


def test_every_module_imports_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = str(tmp_path / "env" / "bin" / "python")
    install = ["-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(tmp_path / "env")}))
    # The dependencies are borrowed from here; a path in a .pth file comes last and starts no editable finder.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in names(wheel)
        if name.endswith(".py")
    )
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    file = importlib.import_module(name).__file__\n"
        f"    assert file.startswith({str(site)!r}), (name, file)\n"
        "print(len(sys.argv) - 1)"
    )
    done = subprocess.run([python, "-c", code, *modules], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(modules) > 10
