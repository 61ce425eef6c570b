"""`import safeencoders` and `--help` are free of cost; the public names come on first use."""

import json
import subprocess
import sys

import pytest

import safeencoders

HEAVY = ("torch", "transformers", "diffusers", "numpy", "PIL")


def loaded_by(code: str) -> tuple[float, set[str]]:
    """Run code in a new interpreter; return its seconds and the heavy packages it loaded."""
    script = (
        "import contextlib, io, json, sys, time\nstart = time.perf_counter()\n"
        f"with contextlib.redirect_stdout(io.StringIO()):\n    {code}\n"
        f"print(json.dumps([time.perf_counter() - start, [n for n in {HEAVY!r} if n in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, heavy = json.loads(done.stdout)
    return seconds, set(heavy)


def test_import_is_fast_and_loads_nothing_heavy() -> None:
    runs = [loaded_by("import safeencoders") for _ in range(3)]
    assert [heavy for _, heavy in runs] == [set()] * 3
    assert min(seconds for seconds, _ in runs) < 0.1  # the best of three: others may be using this machine


def test_the_probe_sees_a_heavy_package() -> None:
    assert loaded_by("import numpy")[1] == {"numpy"}


@pytest.mark.parametrize("words", ["", "world", "world build", "evaluate retrieval", "quickstart", "audit", "explain"])
def test_help_loads_nothing_heavy(words: str) -> None:
    arguments = [*words.split(), "--help"]
    assert loaded_by(f"from safeencoders.cli.main import main; assert main({arguments!r}) == 0")[1] == set()


def test_public_names_are_listed_and_an_unknown_one_is_an_attribute_error() -> None:
    assert set(safeencoders.__all__) == {"__version__", *safeencoders._LAZY}
    assert set(safeencoders.__all__) <= set(dir(safeencoders))
    with pytest.raises(AttributeError, match=r"module 'safeencoders' has no attribute 'lod'; it has: .*load"):
        _ = safeencoders.lod
