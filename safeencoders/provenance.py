"""Where a number comes from: the manifest that travels with every file of results.

Nothing here may fail or be slow: a result must not be lost because git is missing. torch is never imported.
"""

import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("safeencoders", "torch", "transformers", "diffusers", "numpy", "pillow", "onnxruntime")


def manifest(
    command: str | Sequence[str],
    *,
    seeds: Mapping[str, int],
    weights: Mapping[str, str],
    data: Mapping[str, str],
    seconds: float,
) -> dict[str, Any]:
    """Describe a run so that it can be repeated.

    Args:
        command: the command line, as one string or as its words.
        seeds: what was seeded -> the seed.
        weights: name of the weights -> sha256.
        data: name of the data -> sha256 (or another description of which data it was).
        seconds: how long the run took.

    Returns:
        A dictionary ready for JSON: commit, versions, command, seeds, weights, data, seconds, machine, utc.
    """
    return {
        "commit": commit(),
        "versions": versions(),
        "command": command if isinstance(command, str) else shlex.join(command),
        "seeds": dict(seeds),
        "weights": dict(weights),
        "data": dict(data),
        "seconds": round(float(seconds), 3),
        "machine": machine(),
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def commit() -> str:
    """Return the git commit of this checkout (`-dirty` when tracked files differ), or the installed version."""
    root = Path(__file__).resolve().parents[1]
    fallback = f"safeencoders-{_version('safeencoders') or 'unknown'}"
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():  # installed: a repository further up would be somebody else's
        return fallback
    head = _run([git, "-C", str(root), "rev-parse", "HEAD"])
    changes = _run([git, "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    if not head:
        return fallback
    return f"{head}-dirty" if changes else head


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that decide a result; None for one that is absent."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def machine() -> dict[str, str | int | float | None]:
    """Return platform, number of usable cores and memory in GB; no name of the machine or its user."""
    return {"platform": platform.platform(), "cores": _cores(), "memory_gb": _memory_gb()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):  # what this process may use, which a container often limits
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):  # not known on this system
        return None


def _run(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
