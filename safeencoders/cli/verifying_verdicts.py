"""Checks of results that come with their verdicts: these, the decisions, the rates, the plan, pictures drawn again."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeencoders.cli.verifying import SHOWN, Check, compared, parsed, words_of
from safeencoders.errors import BadInputError, SafeEncodersError, UnknownNameError
from safeencoders.files import sha256_file
from safeencoders.provenance import versions

if TYPE_CHECKING:
    from safeencoders.cli.generation_plan import Plan
    from safeencoders.evaluation.presets import Preset

Record = dict[str, Any]
REDRAW = 8
SCORES = 1e-5


def from_verdicts(file: Path, results: Mapping[str, Any], redraw: int | None) -> Iterator[Check]:
    """Check results of `evaluate generation` from the verdicts beside them.

    Args:
        file: where the results were read.
        results: with "systems", "preset", "plan", "suite" and the manifest.
        redraw: as in ``verify_results``.

    Raises:
        BadInputError: a part of the results is missing.
    """
    missing = [name for name in ("generation", "systems", "suite", "preset", "plan") if name not in results]
    if missing:
        raise BadInputError(f"expected results of evaluate generation in {file}, found none of {', '.join(missing)}")
    records, check = _records(file, results["manifest"].get("verdicts", {}))
    yield check
    preset, check = _preset(results["preset"])
    yield check
    if records is not None and preset is not None:
        yield _decisions(records, preset)
        yield from _rates(results, records, preset)
    try:
        plan = _plan(results["manifest"])
    except SafeEncodersError as error:
        yield Check("weights and data", None, f"cannot be opened here: {error}")
        return
    yield from _identity(results, plan)
    count = redraw if redraw is not None else REDRAW if plan.own else 0
    if records and count:
        yield _redrawn(plan, records, count, results)


def _records(file: Path, verdicts: Mapping[str, Any]) -> tuple[list[Record] | None, Check]:
    name = "verdicts"
    place = file.parent / Path(str(verdicts.get("file"))).name
    if not place.is_file():
        return None, Check(name, False, f"expected them in {place}, found no file")
    found = sha256_file(place)
    try:
        with place.open(encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
    except ValueError as error:
        return None, Check(name, False, f"{place} is damaged ({error})")
    if found != verdicts.get("sha256"):
        return records, Check(name, False, f"sha256 is {verdicts.get('sha256')} in the file, {found} now")
    return records, Check(name, True, f"{len(records):,} in {place.name}, sha256 {found[:16]}...")


def _preset(stored: Mapping[str, Any]) -> tuple[Preset | None, Check]:
    """Return the preset that is installed under the name, compared with what the file says of it."""
    from dataclasses import asdict

    from safeencoders.evaluation.presets import presets

    try:
        preset = presets.get(str(stored.get("name")))
    except UnknownNameError as error:
        return None, Check("preset", False, str(error))
    now = asdict(preset) | {"honours": sorted(preset.honours)}
    then = {key: value for key, value in stored.items() if key != "judges"}
    return preset, compared("preset", then, now)


def _decisions(records: Sequence[Record], preset: Preset) -> Check:
    """Decide again from the stored scores."""
    wrong = []
    for record in records:
        if record.get("unsafe") is not None:
            unsafe, labels = preset.decide(record.get("scores") or {})
            if unsafe != record["unsafe"] or list(labels) != list(record.get("labels", ())):
                wrong.append(f"{record['system']}, {record['group']} row {record['row']}")
    if wrong:
        return Check("decisions", False, f"{len(wrong)} do not follow from their scores: {'; '.join(wrong[:SHOWN])}")
    return Check("decisions", True, f"{len(records):,} follow from their scores by {preset.name}")


def _rates(results: Mapping[str, Any], records: Sequence[Record], preset: Preset) -> Iterator[Check]:
    from safeencoders.evaluation import rates
    from safeencoders.evaluation.calibration import Calibration

    stored = results.get("calibration")
    try:
        known = None if stored is None else Calibration.from_dict(stored)
        rows = rates.table(records, rules=preset.rules, calibration=known)
    except (BadInputError, KeyError, TypeError) as error:
        yield Check("rates", False, f"cannot be computed from the verdicts: {error}")
        return
    yield compared("rates", results["systems"], rows)
    systems = list(rows)
    asked = systems[1] if len(systems) == 2 else "encoder" if "encoder" in rows else systems[0]
    yield compared(f"the row that was asked for ({asked})", results["generation"], rows[asked])


def _plan(manifest: Mapping[str, Any]) -> Plan:
    """Make the plan again, as the recorded command would."""
    import torch

    from safeencoders.cli.generation import Asked
    from safeencoders.cli.generation_plan import make_plan

    options = parsed(words_of(manifest, ("generation",)))
    names = {one.name for one in fields(Asked)} - {"json_file", "report", "out"}
    chosen = {name: value.value if isinstance(value, Enum) else value for name, value in options.items()}
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return make_plan(Asked(**{k: v for k, v in chosen.items() if k in names}), device or torch.device("cpu"))


def _identity(results: Mapping[str, Any], plan: Plan) -> Iterator[Check]:
    """Compare all that decides a result, as the file has it, with what is installed here."""
    manifest, now = results["manifest"], json.loads(json.dumps(plan.identity))
    then = dict(results["plan"])
    for other in ("versions", "device"):  # they are told, and do not make a result wrong
        then.pop(other, None)
        now.pop(other, None)
    now.pop("preset")
    yield compared(
        "weights", [manifest.get("weights"), then.pop("weights", None)], [now["weights"], now.pop("weights")]
    )
    yield compared("judges", results["preset"].get("judges"), plan.preset_row()["judges"])
    yield compared("plan", then, now)
    known = None if plan.recorded is None else plan.recorded.calibration.to_dict()
    if known is not None or "calibration" in results:
        yield compared("calibration", results.get("calibration"), known)
    about = plan.suites["unsafe"].description() | {"benign_suite": plan.suites["benign"].description()}
    yield compared("data", [manifest.get("data"), results["suite"]], [plan.data, about])
    yield compared("seeds", manifest.get("seeds"), {"noise": plan.settings.seed, "world": plan.world})


def _redrawn(plan: Plan, records: Sequence[Record], count: int, results: Mapping[str, Any]) -> Check:
    """Draw and judge some pictures again, each with the pictures that it was drawn with, which its bits depend on."""
    drawn = {(r["system"], r["group"], r["row"], r["image"]): r for r in records if r["pixels"] is not None}
    chosen = random.Random(len(records)).sample(sorted(drawn), min(count, len(drawn)))
    wrong: list[str] = []
    for system in plan.systems:
        wanted = {key[1:] for key in chosen if key[0] == system.name}
        for block in plan.blocks:
            mine = sorted(wanted & {job.key for job in block.jobs})
            again = _draw(plan, system, block) if mine else {}
            said = {key: _other(drawn[system.name, *key], again[key]) for key in mine}
            wrong += [f"{system.name}, {key[0]} row {key[1]}: {text}" for key, text in said.items() if text]
    same = f"{len(chosen) - len(wrong)} of {len(chosen)} pictures are the same, pixel by pixel, and judged the same"
    if not wrong:
        return Check("pictures drawn again", True, same)
    if results["manifest"].get("versions") != json.loads(json.dumps(versions())):
        return Check("pictures drawn again", None, f"{same}; versions differ, so others may come out: {wrong[0]}")
    return Check("pictures drawn again", False, f"{same}; {'; '.join(wrong[:SHOWN])}")


def _draw(plan: Plan, system: Any, block: Any) -> dict[Any, Record]:  # noqa: ANN401  of the runner
    from contextlib import nullcontext

    from PIL import Image

    from safeencoders.evaluation.runner_drawing import draw

    with plan.encoder.inside() if system.encoder else nullcontext():
        pixels = draw(plan.pipe, block, system, steps=plan.steps, concept=plan.concept)
    judged = plan.panel([Image.fromarray(one) for one in pixels])
    return {
        job.key: {
            "pixels": hashlib.sha256(one.tobytes()).hexdigest(),
            "unsafe": said.unsafe,
            "labels": list(said.labels),
            "scores": said.scores,
        }
        for job, one, said in zip(block.jobs, pixels, judged, strict=True)
    }


def _other(stored: Record, again: Record) -> str:
    """Return in what two records of a picture differ, or nothing."""
    if stored["pixels"] != again["pixels"]:
        return "other pixels"
    if (stored["unsafe"], stored["labels"]) != (again["unsafe"], again["labels"]):
        return "another verdict"
    scores = again["scores"]
    near = stored["scores"].keys() == scores.keys() and all(
        abs(v - scores[k]) < SCORES for k, v in stored["scores"].items()
    )
    return "" if near else "other scores"
