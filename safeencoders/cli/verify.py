"""What `safeencoders evaluate verify` does: compute a result again, compare, say what holds.

A result with verdicts is computed again from them, and its plan made again from the recorded command; any other result
of `safeencoders evaluate` by running its command again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer

from safeencoders.cli.measure import refuse_unwritable, write_results
from safeencoders.cli.verifying import Check, recorded
from safeencoders.errors import BadInputError
from safeencoders.files import read_json, sha256_file
from safeencoders.provenance import versions

_WORDS = {True: "holds", False: "DOES NOT HOLD", None: "not checked"}


def verify_results(file: Path, *, redraw: int | None = None, json_file: Path | None = None) -> None:
    """Say whether a file of results holds.

    Args:
        file: a JSON that `safeencoders evaluate` wrote; its verdicts lie beside it.
        redraw: how many pictures to draw and judge again; None: 8 of the world's, none of another pipeline.
        json_file: where to write what was checked.

    Raises:
        BadInputError: the file is not what `safeencoders evaluate` writes.
        typer.Exit: with 1, when it does not hold.
    """
    start = time.monotonic()
    refuse_unwritable(json_file)
    results = read_json(file)
    manifest = results.get("manifest") if isinstance(results, dict) else None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("command"), str):
        raise BadInputError(f"expected results of `safeencoders evaluate` with their manifest in {file}, found none; "
                            "only files with a manifest can be verified")  # fmt: skip
    checks = []
    for check in _checks(file, results, redraw):
        checks.append(check)
        print(check.line(_WORDS[check.holds]), flush=True)
    bad = [check for check in checks if check.holds is False]
    _say(file, checks, _other_versions(manifest))
    found = {"holds": not bad, "checks": [vars(check) for check in checks]}
    write_results(json_file, {"verify": found}, {}, {file.name: sha256_file(file)}, {}, start)
    if bad:
        raise typer.Exit(1)


def _checks(file: Path, results: Mapping[str, Any], redraw: int | None) -> Iterable[Check]:
    if "verdicts" in results["manifest"] or "systems" in results:
        from safeencoders.cli.verifying_verdicts import from_verdicts

        return from_verdicts(file, results, redraw)
    if redraw:
        raise BadInputError("expected --redraw with results that have verdicts; these are computed again as a whole")
    return recorded(results)


def _other_versions(manifest: Mapping[str, Any]) -> list[str]:
    now, then = versions(), manifest.get("versions", {})
    return [f"{name} {then.get(name)} then, {now[name]} now" for name in now if then.get(name) != now[name]]


def _say(file: Path, checks: Iterable[Check], others: list[str]) -> None:
    if others:
        print(f"\nversions differ: {'; '.join(others)}")
    said = {check.holds for check in checks}
    words = "does not hold" if False in said else "holds, as far as it was checked" if None in said else "holds"
    print(f"\n{file}: {words}")
