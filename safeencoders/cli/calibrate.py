"""`safeencoders evaluate calibrate`: how often judges err on pictures with known labels; and what it wrote, read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from safeencoders.errors import BadInputError

if TYPE_CHECKING:
    from safeencoders.evaluation.calibration import Calibration
    from safeencoders.evaluation.labelled import Found
    from safeencoders.evaluation.presets import Panel

SHOWN = 20
_ELSEWHERE = ("providers", "onnxruntime", "source")
"""Of a judge's identity: on which machine and from which folder it ran, which is not who it is."""


@dataclass(frozen=True)
class Recorded:
    """A calibration as a file has it.

    Attributes:
        calibration: its counts.
        name: of the file.
        sha256: of the file.
    """

    calibration: Calibration
    name: str
    sha256: str


def calibrate_judges(
    labelled: Path,
    judges: str,
    options: Mapping[str, object],
    *,
    on_error: Literal["skip", "stop"],
    json_file: Path | None,
) -> None:
    """Judge labelled pictures, print how often the judges are right, and write it with its manifest.

    Raises:
        BadInputError: the table or its pictures cannot be used; the message says why.
        UnknownNameError: there is no such preset.
        MissingExtraError, HubError: a judge cannot be loaded here.
        OutputError: the JSON file cannot be written.
    """
    from tqdm import tqdm

    from safeencoders.cli.measure import refuse_unwritable, write_results
    from safeencoders.evaluation.labelled import calibrate, read_labelled
    from safeencoders.evaluation.presets import Panel
    from safeencoders.files import sha256_file

    start = time.monotonic()
    refuse_unwritable(json_file)
    table = read_labelled(labelled)
    panel = Panel.of(judges, **options)
    with tqdm(total=len(table.rows), desc="judge", unit="picture", mininterval=1) as bar:
        found = calibrate(table, panel, on_error=on_error, progress=bar.update)
    print(_text(labelled, judges, found))
    problems = [{"row": problem.row, "reason": problem.reason} for problem in found.problems]
    results = {
        "calibration": found.calibration.to_dict() | {"left_out": problems},
        "preset": panel.preset.to_dict() | {"judges": panel.identity()},
    }
    weights = {f"judge {name}": one["sha256"] for name, one in panel.identity().items() if one.get("sha256")}
    data = {labelled.name: sha256_file(labelled), "pictures": found.sha256}
    write_results(json_file, results, {}, data, weights, start)


def _text(labelled: Path, judges: str, found: Found) -> str:
    from safeencoders.evaluation.tables import Cell, Table

    calibration = found.calibration
    right, clear = calibration.sensitivity, calibration.specificity
    rows: list[list[Cell]] = [
        ["unsafe pictures that are called unsafe (sensitivity)", right, right["n"]],
        ["safe pictures that are not (specificity)", clear, clear["n"]],
    ]
    lines = [Table(f"{judges} on the labels of {labelled}", ["", "%", "n"], rows, "Percent [95 % interval].").text()]
    lines += [f"row {problem.row} left out: {problem.reason}" for problem in found.problems[:SHOWN]]
    if len(found.problems) > SHOWN:
        lines.append(f"{len(found.problems) - SHOWN:,} more rows left out; --json lists them")
    if not calibration.informs:
        lines.append("no better than chance on these pictures: no rate can be corrected with this")
    return "\n".join(lines)


def read_calibration(file: Path, panel: Panel) -> Recorded:
    """Read what the command wrote, and make sure that it is of these judges.

    Raises:
        BadInputError: the file is no such result, or it is of other judges.
    """
    from safeencoders.evaluation.calibration import Calibration
    from safeencoders.files import read_json, sha256_file

    found = read_json(file)
    if not isinstance(found, dict) or not {"calibration", "preset"} <= found.keys():
        raise BadInputError(f"expected what `safeencoders evaluate calibrate --json` writes in {file}, found something "
                            "else; check --calibration")  # fmt: skip
    own = panel.preset.to_dict() | {"judges": panel.identity()}
    theirs = found["preset"]
    if _same(theirs) != _same(own):
        name = theirs.get("name") if isinstance(theirs, dict) else None
        other = f"of {name}" if name != panel.preset.name else "of other weights, labels or thresholds of that name"
        raise BadInputError(f"expected a calibration of the judges {panel.preset.name} in {file}, found one {other}; "
                            "judges are calibrated one by one: make it again for these")  # fmt: skip
    return Recorded(Calibration.from_dict(found["calibration"]), file.name, sha256_file(file))


def _same(value: object) -> object:
    """Return what makes a preset and its judges the same wherever they run."""
    if isinstance(value, dict):
        return {key: _same(inner) for key, inner in value.items() if key not in _ELSEWHERE}
    return [_same(one) for one in value] if isinstance(value, list | tuple) else value
