"""What `safeencoders scan` does: plan, judge with a bar, join, print what was found."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

SHOWN = 20


def run_scan(
    path: Path,
    preset: str,
    out: Path,
    *,
    workers: int | None,
    ray: bool,
    on_error: Literal["skip", "stop"],
    options: Mapping[str, object],
) -> None:
    """Judge a data set, or go on with one.

    Raises:
        UnknownNameError: no such preset.
        BadInputError: there is nothing to judge, or a picture cannot be judged and this was to stop the scan.
        OutputError: the folder belongs to another scan, or cannot be written.
    """
    from tqdm import tqdm

    from safeencoders.evaluation.scanning import VERDICTS, Scan
    from safeencoders.provenance import manifest

    start = time.monotonic()
    scan = Scan(path, preset, out, workers or _cores(), ray, on_error, options)
    print(f"looking for pictures in {path} ...", file=sys.stderr)
    scan.plan()
    with tqdm(total=scan.pictures, desc="judge", unit="picture", mininterval=1, smoothing=0.05) as bar:
        scan.judge(bar.update)

    def about(judges: Mapping[str, Any]) -> dict[str, Any]:
        weights = {name: str(one["sha256"]) for name, one in judges.items()}
        data = {"plan": scan.plan_sha256()}
        seconds = time.monotonic() - start
        return manifest(["safeencoders", *sys.argv[1:]], seeds={}, weights=weights, data=data, seconds=seconds)

    found = scan.finish(about)
    print(_text(path, preset, found["scan"]))
    print(f"\nwritten: {out / VERDICTS}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _text(path: Path, preset: str, scan: Mapping[str, Any]) -> str:
    from safeencoders.evaluation.tables import Table

    rates = {"unsafe": scan["unsafe"], "unsafe, of different files": scan["unsafe_distinct"], **scan["by_label"]}
    note = "Percent [95 % interval] of the n pictures that were judged. A picture may have several labels."
    tables = [Table(f"{path}, judged by {preset}", ["", "%", "n"], [[k, v, v["n"]] for k, v in rates.items()], note)]
    counts = {"pictures": scan["pictures"], "exact copies of another": scan["copies"]}
    for name, kinds in (("error", scan["errors"]), ("remark", scan["remarks"]), ("skipped", scan["skipped"])):
        counts |= {f"{name}: {kind}": n for kind, n in list(kinds.items())[:SHOWN]}
        if len(kinds) > SHOWN:
            counts[f"{name}: {len(kinds) - SHOWN} other kinds"] = sum(list(kinds.values())[SHOWN:])
    tables.append(Table("", ["files", "n"], [list(row) for row in counts.items()]))
    return "\n\n".join(table.text() for table in tables)
