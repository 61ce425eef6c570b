"""What pages take from the package itself, as Markdown: `<!-- generated: NAME ARGUMENTS -->` in a page is replaced.

Nothing here is written by hand twice: formulas are printed by the objectives, recipes are read from their files, the
catalog, the holes and the commands say themselves what they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from os.path import commonprefix
from pathlib import Path
from typing import TYPE_CHECKING

import figure
import hosts

if TYPE_CHECKING:
    from safeencoders.catalog import Encoder

ROOT = Path(__file__).resolve().parents[2]
MARKER = re.compile(r"^<!-- generated: ([a-z-]+)((?: [^\s]+)*) -->$", flags=re.MULTILINE)


def fill(markdown: str) -> str:
    """Return a page with every marker replaced; a name that is not in ``PARTS`` is a KeyError."""
    return MARKER.sub(lambda found: PARTS[found[1]](*found[2].split()), markdown)


def formula(name: str) -> str:
    """Return the formula of a recipe as its objective prints itself, a line for each term."""
    from safeencoders.training import recipe

    whole, _, terms = str(recipe.read(name).terms()).partition(" = ")
    return f"```text\n{whole} =\n    {terms.replace(' + ', chr(10) + '  + ')}\n```"


def picture(name: str) -> str:
    """Return the figure of a recipe's objective with the recipe's weights."""
    from safeencoders.training import recipe

    return figure.draw(recipe.read(name).terms())


def recipe_file(name: str) -> str:
    """Return a shipped recipe, its file as it is."""
    text = (ROOT / "training" / "recipes" / f"{name}.toml").read_text(encoding="utf-8").strip()
    return f'```toml title="training/recipes/{name}.toml"\n{text}\n```'


def encoders_by_model() -> str:
    """Return which encoders of the catalog fit which model, and whether they were trained on what it reads."""
    lines = [
        "| model | component | it reads | trained on that | fits, trained on something else |",
        "|---|---|---|---|---|",
    ]
    for model in hosts.MODELS:
        for place in model.places:
            known = {encoder: hosts.untrained(encoder, place) for encoder in hosts.fitting(place)}
            good, other = ([encoder for encoder in known if bool(known[encoder] == ()) is ok] for ok in (True, False))
            row = (model.name, f"`{place.slot}`", " and ".join(place.reads), _names(good), _names(other))
            lines.append(f"| {' | '.join(row)} |")
        if model.others:
            lines.append(f"| {model.name} | {model.others} | | **none** | no CLIP tower: nothing fits |")
    return "\n".join(lines)


def _names(encoders: list[Encoder]) -> str:
    """Return names for a cell; several of one repository as their common beginning."""
    by_repo: dict[str | None, list[str]] = {}
    for encoder in encoders:
        by_repo.setdefault(encoder.repo, []).append(encoder.name)
    found = [names[0] if len(names) == 1 else f"{commonprefix(names)}*" for names in by_repo.values()]  # noqa: RUF071  names, no paths
    return ", ".join(f"`{name}`" for name in found) or "**none**"


def catalog() -> str:
    """Return every encoder that can be loaded by name."""
    import safeencoders

    lines = ["| name | towers | licence | its makers used it in | removes |", "|---|---|---|---|---|"]
    for name in safeencoders.list_encoders():
        one = safeencoders.info(name)
        linked = f"[`{name}`](https://huggingface.co/{one.repo})" if one.repo else f"`{name}`, shipped"
        licence = one.licence + (" (no commercial use)" if one.noncommercial else "")
        removes = ", ".join(one.removes) or "nothing: the originals"
        used = ", ".join(one.hosts) or "not said"
        lines.append(f"| {linked} | {', '.join(one.towers)} | {licence} | {used} | {removes} |")
    return "\n".join(lines)


def holes() -> str:
    """Return the 17 ways round a tower as they stand in the world's pipeline, without and with a guard."""
    import safeencoders
    from safeencoders.integrations.holes import facts, report
    from safeencoders.pictoworld import models

    pipe = models.pipeline()
    covered = safeencoders.protect(pipe, encoders="pictoworld", policy="off")
    found = {
        policy: replace(covered, holes=tuple(report(facts(pipe, policy), covered.slots)))
        for policy in ("off", "warn", "strict")
    }
    titles = {hole.number: (hole.title, hole.reason) for hole in found["strict"].holes}
    lines = ["| # | way round | swap alone | warn | strict | why |", "|---:|---|---|---|---|---|"]
    for number, (title, reason) in titles.items():
        statuses = " | ".join(one.status(number) for one in found.values())
        lines.append(f"| {number} | {title} | {statuses} | {reason} |")
    return "\n".join(lines)


def judges() -> str:
    """Return the presets of judges, each with what it says of itself."""
    from safeencoders.evaluation.presets import overview

    rows = [f"| `{name}` | {about.replace('|', chr(92) + '|')} |" for name, about in overview().items()]
    return "\n".join(["| preset | what it is |", "|---|---|", *rows])


def commands() -> str:
    """Return the help of every command, as it prints itself."""
    import typer
    from typer.cli import get_docs_for_click

    from safeencoders.cli.main import app

    click = typer.main.get_command(app)
    text = get_docs_for_click(obj=click, ctx=typer.Context(click), name="safeencoders")
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", text)  # the page's own contents say it, not cut short
    return re.sub(r"\n{3,}", "\n\n", text.partition("\n")[2])  # the page has a title of its own


PARTS: dict[str, Callable[..., str]] = {
    "formula": formula,
    "figure": picture,
    "recipe": recipe_file,
    "encoders-by-model": encoders_by_model,
    "catalog": catalog,
    "holes": holes,
    "judges": judges,
    "commands": commands,
}
