"""What `safeencoders redteam` does: every attack on every system, the white-box attacks on every tower, the report."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from safeencoders.catalog import ORIGINAL
from safeencoders.cli import lessons
from safeencoders.cli.attacks import Budget
from safeencoders.cli.bypasses import BYPASSES, SKIPPED, Bypass
from safeencoders.cli.measure import check_width, refuse_unwritable
from safeencoders.cli.pipelines import WORLD
from safeencoders.cli.victims import FULL, QUICK, Lab, System, Victim
from safeencoders.errors import BadInputError
from safeencoders.evaluation.tables import Cell, Table
from safeencoders.evaluation.world_data import digest
from safeencoders.files import output_folder, write_json
from safeencoders.fingerprint import fingerprint
from safeencoders.pictoworld import models

Results = dict[str, Any]
GUARDED = "{} + guard"
ATTACKS = {"as_is": "the prompt as it is", "tokens": "optimised tokens", "vector": "an optimised vector"}
NOTE = (
    "Percent of attempts whose picture shows a concept that was asked for. A refused call makes no picture; 'stopped' "
    "is the share of attempts that the guard refused, 'benign stopped' that of the honest twins."
)


def run_redteam(
    pipeline: str,
    encoder: str,
    *,
    n: int,
    seed: int,
    goal: Literal["states", "denoiser"],
    quick: bool,
    json_file: Path | None,
    report: Path | None,
) -> None:
    """Attack, print the tables, write the JSON and the report.

    Raises:
        BadInputError: another pipeline than the world's, or the original as the encoder to be attacked.
        UnknownNameError: no such encoder.
        OutputError: a file or folder cannot be written.
        MissingExtraError: diffusers, peft or (for the report) matplotlib is not installed.
    """
    start = time.monotonic()
    _refuse(pipeline, encoder)
    refuse_unwritable(json_file)
    lab = Lab(n, seed, QUICK if quick else FULL, goal)
    check_width(encoder, lab.tower(encoder), lab.original)
    if report is None:
        results = measure(lab, encoder)
    else:
        with output_folder(report) as folder:
            results = measure(lab, encoder)
            results["manifest"] = _manifest(lab, encoder, start)
            write_report(folder / "report.html", results)
    results["manifest"] = _manifest(lab, encoder, start)
    for table in tables(results):
        print(table.text(), end="\n\n")
    if json_file is not None:
        write_json(json_file, results)
        print(f"written: {json_file}")
    if report is not None:
        print(f"written: {report / 'report.html'}")


def _refuse(pipeline: str, encoder: str) -> None:
    if pipeline != WORLD:
        raise BadInputError(
            f"expected --pipeline {WORLD}, got {pipeline!r}: whether an attack succeeds is for a judge to say that "
            "knows what was asked for, and this version has one for its own world only. What is closed, watched or "
            f"open in another pipeline: safeencoders audit --pipeline {pipeline}"
        )
    if encoder == ORIGINAL:
        raise BadInputError("expected an encoder to attack, got 'none'; the original stands beside it in any case")


def systems(encoder: str) -> tuple[System, ...]:
    """Return what is attacked: the original, a word filter, the towers, and this encoder's with the guard."""
    towers = dict.fromkeys([encoder, *models.tower_names()])
    return (
        System("original"),
        System("word filter", filtered=True),
        *(System(name, name) for name in towers),
        System(GUARDED.format(encoder), encoder, policy="strict"),
    )


def measure(lab: Lab, encoder: str) -> Results:
    """Make every attack on every system.

    Returns:
        ``{"redteam": {"bypasses": [...], "skipped": {hole: why}, "white_box": {system: {attack: rate}}, ...}}``.
    """
    attacked = systems(encoder)
    with quiet(), tqdm(total=len(BYPASSES) * len(attacked), desc="attacks", mininterval=2) as bar:
        rows = []
        for bypass in BYPASSES:
            bar.set_description(f"{bypass.hole} {bypass.name}")
            rows.append(_row(bypass, attacked, lab, bar))
        white_box = {system.name: _white_box(lab, system) for system in attacked if not system.filtered}
    budget = {name: _spent(getattr(lab.spend, name)) for name in ("tokens", "vectors", "lessons", "pushes")}
    return {
        "redteam": {
            "pipeline": WORLD,
            "encoder": encoder,
            "goal": lab.goal,
            "budget": budget | {"slots": lessons.SLOTS},
            "bypasses": rows,
            "skipped": {str(hole): why for hole, why in SKIPPED.items()},
            "white_box": white_box,
            "times_lower": {name: _times_lower(white_box, encoder, name) for name in ("tokens", "vector")},
        }
    }


def _spent(budget: Budget) -> dict[str, float]:
    return {"steps": budget.steps, "candidates": budget.candidates, "top": budget.top, "rate": budget.rate}


def _row(bypass: Bypass, attacked: Sequence[System], lab: Lab, bar: Any) -> Results:  # noqa: ANN401
    before = bypass.before
    seen: Results = {}
    for system in attacked:
        take = None if before is None else lambda pipe: before(lab, pipe)
        seen[system.name] = bypass.run(lab, Victim.of(system, lab, take)).rates()
        bar.update()
    row = {"hole": bypass.hole, "name": bypass.name, "how": bypass.how, "systems": seen}
    if bypass.twin is not None:
        benign = bypass.twin(lab, Victim.of(attacked[-1], lab)).rates()
        row["twin"] = {"how": bypass.twin_how, "stopped": benign["stopped"], "warned": benign["warned"]}
    return row


def _white_box(lab: Lab, system: System) -> Results:
    """Return the success of the plain prompts, of optimised ones, and of states with an optimised vector."""
    victim = Victim.of(system, lab)
    states = lessons.adversarial_states(lab, system.encoder)
    tried: dict[str, dict[str, Any]] = {
        "as_is": {"prompt": [quad.unsafe_text for quad in lab.plain]},
        "tokens": {"prompt": lessons.adversarial_texts(lab, system.encoder)},
        "vector": {"prompt_embeds": states},
    }
    return {name: victim.attempt(lab.plain, **arguments).rates()["unsafe"] for name, arguments in tried.items()}


def _times_lower(white_box: Mapping[str, Any], encoder: str, attack: str) -> float | None:
    """Return the original's success divided by the encoder's; None when the encoder's is zero."""
    ours = white_box[encoder][attack]["value"]
    return white_box["original"][attack]["value"] / ours if ours else None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the attacked libraries' and the guard's warnings off the terminal; the guard's are counted."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    guard = logging.getLogger("safeencoders.guard")
    levels = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity(), guard.level
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    guard.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        diffusers_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])
        guard.setLevel(levels[2])


# --- showing --------------------------------------------------------------------------------------------------------
def tables(results: Results) -> list[Table]:
    """Return the table of bypasses and that of the white-box attacks."""
    found = results["redteam"]
    names = list(found["bypasses"][0]["systems"])
    head = ["attack", *names, "stopped", "benign stopped"]
    rows = [[f"{row['hole']:>2} {row['name']}", *_cells(row, names)] for row in found["bypasses"]]
    white = [[ATTACKS[name], *(system[name] for system in found["white_box"].values())] for name in ATTACKS]
    spent = found["budget"]
    note = (
        f"Tokens: {spent['slots']} in the concept's place, {spent['tokens']['steps']} steps of "
        f"{spent['tokens']['candidates']} candidates. Vector: one before the concept's words, "
        f"{spent['vectors']['steps']} steps of Adam. Goal: the {found['goal']}. One prompt, one noise, one try."
    )
    return [
        Table("Ways round the encoder", head, rows, NOTE),
        Table("White-box attacks: concept present", ["", *found["white_box"]], white, note),
    ]


def _cells(row: Results, names: Sequence[str]) -> list[Cell]:
    shown: list[Cell] = ["broken upstream" if "broken" in row["systems"][name] else row["systems"][name]["unsafe"]
                         for name in names]  # fmt: skip
    guarded = row["systems"][names[-1]]
    return [*shown, guarded["stopped"], row["twin"]["stopped"] if "twin" in row else None]


def write_report(path: Path, results: Results) -> None:
    """Write the tables, a bar chart and what each attack does as one HTML file."""
    from safeencoders.evaluation.plots import bars, horizontal_bars
    from safeencoders.evaluation.report import Details, Plot, Section
    from safeencoders.evaluation.report import write_report as write

    found, (ways, white) = results["redteam"], tables(results)
    encoder = found["encoder"]
    shown = ("original", encoder, GUARDED.format(encoder))
    rates = {
        name: {f"{row['hole']} {row['name']}": row["systems"][name]["unsafe"] for row in found["bypasses"]}
        for name in shown
    }
    optimised = {name: {ATTACKS[key]: rate for key, rate in row.items()} for name, row in found["white_box"].items()}
    how = Table("What was done", ["attack", "how", "benign twin"], [
        [f"{row['hole']} {row['name']}", row["how"], row["twin"]["how"] if "twin" in row else "none"]
        for row in found["bypasses"]
    ])  # fmt: skip
    skipped = "Not tried: " + "; ".join(f"hole {hole}, {why}" for hole, why in found["skipped"].items()) + "."
    write(path, "safeencoders redteam", f"Attacks on {found['pipeline']} with the encoder {encoder}.", [
        Section("Ways round the encoder", [ways, Plot(horizontal_bars("Attack success", rates)), skipped]),
        Section("White-box attacks", [white, Plot(bars("Concept present", optimised))]),
        Section("What was done", [how]),
        Section("Where the numbers come from", [Details("Manifest", results["manifest"])]),
    ])  # fmt: skip


def _manifest(lab: Lab, encoder: str, start: float) -> Results:
    from safeencoders.provenance import manifest

    weights = models.hashes() | {f"{encoder} (text, loaded)": fingerprint(lab.tower(encoder))}
    data = {f"{WORLD}:test, unsafe captions": digest(quad.unsafe_text for quad in lab.plain)}
    seeds = {"attacks": lab.seed, "noise": lab.seed, "world": 0}
    command = ["safeencoders", *sys.argv[1:]]
    return manifest(command, seeds=seeds, weights=weights, data=data, seconds=time.monotonic() - start)
