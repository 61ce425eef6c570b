"""`safeencoders cards`: render the model cards from the files of results, or say where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from safeencoders.cards.material import Material

BENCHMARKS = ("redteam", "strength")


def cards(
    folder: Annotated[
        Path, typer.Argument(help="Where the cards lie, with the results of NAME in results/NAME (a '/' is a '-').")
    ] = Path("model_cards"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 when a card is not what its results say.")
    ] = False,
) -> None:
    """Render a card with its plots for each shipped encoder, from measured results only.

    A number without n, interval, seed and command is refused, and so are results of other weights than the shipped.

    Example: safeencoders cards --check
    """
    from safeencoders.catalog import ORIGINAL, SHIPPED
    from safeencoders.errors import BadInputError
    from safeencoders.files import write_atomically

    if not (folder / "results").is_dir():
        raise BadInputError(f"expected a folder 'results' in {folder}, found none; run this in a checkout, or name one")
    said = written()
    rendered: dict[Path, str] = {}
    for encoder in SHIPPED:
        if encoder.name != ORIGINAL:
            found, faults = _render(encoder.name, folder)
            rendered |= found
            said += [f"{slug(encoder.name)}: {fault}" for fault in faults]
    if check:
        said += [f"{path} is not what its results say; run 'safeencoders cards'" for path in _differing(rendered)]
        if not said:
            typer.echo(f"the cards in {folder} are what their results say")
    elif not said:
        for path, text in rendered.items():
            write_atomically(path, text)
            typer.echo(f"written: {path}")
    for line in said:
        typer.echo(line, err=True)
    if said:
        raise typer.Exit(1)


def _differing(rendered: dict[Path, str]) -> list[Path]:
    return [path for path, text in rendered.items()
            if not path.is_file() or path.read_text(encoding="utf-8") != text]  # fmt: skip


def slug(name: str) -> str:
    """Return an encoder's name as a file name."""
    return name.replace("/", "-")


def written() -> list[str]:
    """Say which words of the template hold a number that was typed by hand."""
    from safeencoders.cards.rendering import written_numbers

    return [f"the card's template holds a number written by hand: {line!r}" for line in written_numbers()]


def _render(name: str, folder: Path) -> tuple[dict[Path, str], list[str]]:
    from safeencoders.cards.material import faults
    from safeencoders.cards.rendering import render

    material = shipped_material(name, folder / "results" / slug(name), folder.parent / "benchmarks")
    found = faults(material)
    if found:
        return {}, found
    prefix = f"{slug(name)}-"
    card = render(material, prefix=prefix, results=f"results/{slug(name)}/")
    return {folder / f"{slug(name)}.md": card.text} | {folder / key: svg for key, svg in card.figures.items()}, []


def shipped_material(name: str, results: Path, benchmarks: Path) -> Material:
    """Return what the card of a shipped encoder is made of.

    Args:
        name: of the encoder.
        results: the folder with its files of results.
        benchmarks: the folder with measurements that hold several encoders; one that is not there holds none.
    """
    from safeencoders import catalog
    from safeencoders.cards.material import TRAIN, Material, read_results
    from safeencoders.fingerprint import fingerprint
    from safeencoders.loading import load
    from safeencoders.pictoworld import models
    from safeencoders.training import recipe as recipes

    found = read_results(results)
    start = f"{models.TOWERS}/{name}/"
    others = [f"{models.TOWERS}/{other}/" for other in models.tower_names() if other.startswith(f"{name}/")]
    own = {key for key in models.hashes() if key.startswith(start) and not key.startswith(tuple(others))}
    prints = {tower: fingerprint(load(name, tower=tower)) for tower in catalog.info(name).towers}
    loaded = {f"{name} ({tower}, loaded)": value for tower, value in prints.items()} | {f"{name} at 1": prints["text"]}
    recipe, formula = (
        training(found[TRAIN].content) if TRAIN in found else described(recipes.read(name.rsplit("/", maxsplit=1)[-1]))
    )
    return Material(
        encoder=catalog.info(name),
        results=found,
        weights=models.hashes() | loaded,
        own=frozenset(own | loaded.keys()),
        recipe=recipe,
        formula=formula,
        holes=known_holes(),
        benchmarks={
            key: result
            for key, result in read_results(benchmarks, BENCHMARKS).items()
            if result.content.get("encoder", name) == name  # one of all encoders names none
        },
    )


def described(recipe: Any) -> tuple[dict[str, Any], str]:  # noqa: ANN401  a Recipe
    """Return a recipe as plain values, and its formula without the terms between towers that it leaves alone."""
    import dataclasses

    from safeencoders.training.run import TOWERS

    whole, trained = recipe.terms(), TOWERS[recipe.towers]
    moving = (term for term in whole.terms if any(side.tuned and side.tower in trained for side, _ in term.wants))
    return dataclasses.asdict(recipe), str(dataclasses.replace(whole, terms=tuple(moving)))


def training(content: Any) -> tuple[dict[str, Any], str]:  # noqa: ANN401  of a train.json
    """Return recipe and formula of a training run's own record."""
    from safeencoders.errors import BadInputError

    try:
        return dict(content["training"]["recipe"]), str(content["training"]["formula"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInputError(
            "expected what 'safeencoders train' writes in train.json; run the training again"
        ) from error


def known_holes() -> list[tuple[int, str]]:
    """Return number and title of each known way round a safe text encoder."""
    from safeencoders.integrations.holes import HOLES

    return [(hole.number, hole.title) for hole in HOLES]
