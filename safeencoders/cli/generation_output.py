"""What `evaluate generation` says and writes: the plan with its cost, the table, the JSON, the report."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeencoders.evaluation.runner_drawing import DrawingError, draw
from safeencoders.evaluation.tables import percent
from safeencoders.files import sha256_file, write_atomically, write_json

if TYPE_CHECKING:
    from safeencoders.cli.generation import Asked
    from safeencoders.cli.generation_plan import Plan
    from safeencoders.evaluation.tables import Table


CORRECTED = "Corrected: unsafe, with the judges' errors on the labelled pictures taken out. "
SHOWN = 20  # rows that are left out, in the terminal


def announce(plan: Plan, processes: int) -> None:
    """Print what is going to be done, and what it costs; the time is measured on short calls."""
    unsafe = plan.suites["unsafe"]
    images = plan.images["unsafe"]
    form = f"{type(plan.pipe).__name__}, {plan.pipe.device.type}, {plan.dtype}"
    print(f"pipeline   {plan.name} ({form}), {plan.steps} steps")
    print(f"encoder    {plan.encoder.name}")
    for note in plan.encoder.notes:
        print(f"           {note}")
    print(f"prompts    {unsafe.name}: {len(unsafe.items):,}, {images} picture{'s' * (images > 1)} of each")
    print(f"benign     {plan.suites['benign'].name}: {len(plan.suites['benign'].items):,}, one picture of each")
    for suite in plan.suites.values():
        for problem in suite.problems[:SHOWN]:
            print(f"           {suite.name}, row {problem.row} left out: {problem.reason}")
        if len(suite.problems) > SHOWN:
            print(f"           {suite.name}: {len(suite.problems) - SHOWN:,} more rows left out; --json lists them")
        for note in suite.notes:
            print(f"           {note}")
    if plan.clip is None:
        print("           what they lose is measured by pixels alone: OpenAI's CLIP is not here or reads other tokens")
    print(f"judges     {plan.preset.name}: {plan.preset.about}")
    if plan.recorded is not None:
        known = plan.recorded.calibration
        print(f"           sensitivity {percent(known.sensitivity)} %, specificity {percent(known.specificity)} %")
        if not known.informs:
            print("           which is no better than chance: no rate is corrected")
    print(f"systems    {', '.join(system.name for system in plan.systems)}")
    print(f"to draw    {plan.pictures:,} pictures, {plan.unet_passes:,} passes of the denoiser")
    shared = f", shared by {processes} processes" * (processes > 1)
    try:
        print(f"time       about {_duration(seconds(plan) / processes)} on this machine in {plan.dtype}{shared}")
    except DrawingError as error:
        print(f"time       not known: {error}")


def seconds(plan: Plan) -> float:
    """Estimate how long the run takes on one process like this, from the first block drawn with 2 and with 4 steps."""
    from dataclasses import replace

    from PIL import Image

    from safeencoders.evaluation.baselines import CONSTANT_CAPTION
    from safeencoders.evaluation.systems import ORIGINAL

    first = plan.blocks[0]
    few = plan.pipe.device.type != "cpu" or len(first.jobs) * _latent(plan) <= 64 * 64
    item = replace(first.jobs[0].item, prompt=CONSTANT_CAPTION)
    jobs = tuple(replace(job, item=item) for job in (first.jobs if few else first.jobs[:1]))
    block = replace(first, jobs=jobs)
    took = []
    for steps in (2, 2, 4):  # the first warms up
        start = time.perf_counter()
        pixels = draw(plan.pipe, block, ORIGINAL, steps=steps, concept=plan.concept)
        took.append((time.perf_counter() - start) / len(jobs))
    start = time.perf_counter()
    plan.panel([Image.fromarray(one) for one in pixels])
    judging = (time.perf_counter() - start) / len(jobs)
    one_pass = max(took[2] - took[1], 0.0) / (4 if block.shape.guidance > 1 else 2)
    fixed = max(took[1] - 4 * one_pass, 0.0) + judging
    return plan.pictures * fixed + plan.unet_passes * one_pass


def _latent(plan: Plan) -> int:
    size = getattr(getattr(plan.pipe, "unet", None), "config", {}).get("sample_size", 64)
    return int(size) ** 2 if isinstance(size, int) else 64**2


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} s"
    return f"{seconds / 3600:,.1f} hours"


def write_plan(asked: Asked, plan: Plan, begin: float) -> None:
    """Write the plan of a dry run."""
    if asked.json_file is not None:
        cost = {"pictures": plan.pictures, "passes": plan.unet_passes}
        content = {"plan": plan.identity, "cost": cost, "suite": _suite(plan), "manifest": _manifest(plan, begin)}
        write_json(asked.json_file, content)


def write(asked: Asked, plan: Plan, records: Sequence[Mapping[str, Any]], folder: Path, begin: float) -> None:
    """Print the table, write the JSON with the verdicts beside it, and the report."""
    from safeencoders.evaluation import rates
    from safeencoders.evaluation.runner_verdicts import COMPLETE

    known = None if plan.recorded is None else plan.recorded.calibration
    rows = rates.table(records, rules=plan.preset.rules, calibration=known)
    named = plan.systems[1].name if len(plan.systems) > 1 and not asked.matrix else "encoder"
    results: dict[str, Any] = {
        "generation": rows.get(named, rows["original"]),
        "systems": rows,
        "suite": _suite(plan),
        "preset": plan.preset_row(),
        **({} if known is None else {"calibration": known.to_dict()}),
        "plan": {key: value for key, value in plan.identity.items() if key != "preset"},
        "manifest": _manifest(plan, begin),
    }
    print(f"\n{table(plan, rows).text()}")
    failed = sum(row["errors"] for row in rows.values())
    if failed:
        print(f"{failed:,} pictures could not be drawn or judged; they are in no rate")
    verdicts = folder / COMPLETE
    if asked.json_file is not None:
        beside = asked.json_file.with_suffix(".verdicts.jsonl")
        write_atomically(beside, verdicts.read_bytes())
        results["manifest"]["verdicts"] = {"file": beside.name, "sha256": sha256_file(beside)}
        write_json(asked.json_file, results)
        print(f"\nwritten: {asked.json_file}, {beside}")
    if asked.report is not None:
        from safeencoders.evaluation.generation_report import write_report

        thumbs = folder / "thumbs"
        write_report(results, records, thumbs if thumbs.is_dir() else None, asked.report)
        print(f"written: {asked.report}")


def table(plan: Plan, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the table for the terminal: the rates beside the judges' floor, and what the encoder adds to each."""
    from safeencoders.evaluation.tables import Table

    lines = []
    known = plan.recorded is not None
    for name, row in rows.items():
        without = "original" if name == "encoder" else name.removesuffix("+encoder")
        p = row["paired"].get(without, {}).get("p") if without != name else None
        change = row["utility"].get("pixel_distance", {}).get("mean")
        cells = [row["unsafe"], *([row["corrected"]] if known else []), row["floor"], row["over_refusal"].get("lost")]
        moved = None if change is None else f"{100 * change:.1f}"
        lines.append([name, *cells, moved, None if p is None else f"{p:.1e}"])
    return Table(
        f"Unsafe pictures: {plan.suites['unsafe'].name}, judged by {plan.preset.name}",
        ("", "unsafe", *(["corrected"] if known else []), "floor", "lost", "change", "p"),
        lines,
        f"Percent [95 % interval]. {CORRECTED if known else ''}"
        "Of benign prompts, floor: judged unsafe; lost: something asked for is not drawn; change: of the pixels. "
        "p: against the same without the encoder, on the same prompts and noise.",
    )


def _suite(plan: Plan) -> dict[str, Any]:
    return plan.suites["unsafe"].description() | {"benign_suite": plan.suites["benign"].description()}


def _manifest(plan: Plan, begin: float) -> dict[str, Any]:
    from safeencoders.provenance import manifest

    return manifest(
        ["safeencoders", *sys.argv[1:]],
        seeds={"noise": plan.settings.seed, "world": plan.world},
        weights=plan.weights,
        data=plan.data,
        seconds=time.monotonic() - begin,
    )
