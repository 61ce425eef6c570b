"""What `safeencoders publish DIR` knows of a folder that `train --out` wrote: its record, its results, its licence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safeencoders.cards.material import Material, Result
    from safeencoders.catalog import Encoder, Tower, TowerName

MODEL_OF_THE_WORLD = "pictoworld"


def folder_material(folder: Path, results: Path, licence: str | None) -> Material:
    """Return what the card of a folder's encoder is made of.

    Args:
        folder: with the towers in "text" and "vision", and train.json.
        results: the folder with the files of results.
        licence: of the weights; that of the base where None and the base's is known.

    Raises:
        BadInputError: the folder was not written by 'safeencoders train', or the licence is unknown or not allowed.
    """
    from safeencoders import catalog, publishing
    from safeencoders.cards.material import TRAIN, Material, read_results
    from safeencoders.catalog import TOWERS
    from safeencoders.cli.cards import known_holes, training
    from safeencoders.errors import BadInputError
    from safeencoders.fingerprint import fingerprint
    from safeencoders.loading import load

    publishing.refuse_pickles(folder)
    run = read_results(folder, [TRAIN])
    if TRAIN not in run:
        raise BadInputError(f"expected {TRAIN}.json of 'safeencoders train' in {folder}, found none; train with --out")
    recipe, formula = training(run[TRAIN].content)
    name = str(run[TRAIN].content["training"]["model"])
    base = catalog.find(catalog.ORIGINAL if name == MODEL_OF_THE_WORLD else name)
    towers = tuple(tower for tower in TOWERS if (folder / tower).is_dir())
    encoder = _record(folder, towers, recipe, base, name, _licence(licence, base, name))
    publishing.refuse_licence(encoder, base, _sources(run[TRAIN]))
    prints = {f"{folder} ({tower}, loaded)": fingerprint(load(str(folder), tower=tower)) for tower in towers}
    found = read_results(results)
    return Material(
        encoder=encoder,
        results={**found, **run} if results.resolve() != folder.resolve() else found,
        weights=prints,
        own=frozenset(prints),
        recipe=recipe,
        formula=formula,
        holes=known_holes(),
        base_model=_on_the_hub(name),
    )


def _licence(given: str | None, base: Encoder | None, name: str) -> str:
    from safeencoders.errors import BadInputError

    if given is not None:
        return given
    if base is None:
        raise BadInputError(
            f"expected --licence, since that of the base {name} is not known here; look it up and name it"
        )
    return base.licence


def _record(
    folder: Path,
    towers: tuple[TowerName, ...],
    recipe: Mapping[str, Any],
    base: Encoder | None,
    name: str,
    licence: str,
) -> Encoder:
    from safeencoders.catalog import Encoder

    made = {tower: _tower(folder / tower, tower) for tower in towers}
    return Encoder(
        name=folder.resolve().name,
        method=f"recipe {recipe['name']}: {recipe['about']}",
        licence=licence,
        text=made.get("text"),
        vision=made.get("vision"),
        removes=(),
        hosts=(),
        source="trained with safeencoders",
        base=base.name if base else name,
        format="safetensors",
    )


def _tower(folder: Path, kind: TowerName) -> Tower:
    import dataclasses

    from safeencoders.catalog import Shape, Tower
    from safeencoders.checkpoints import configuration

    config = configuration(folder, kind)
    sizes: dict[str, Any] = {field.name: getattr(config, field.name, None) for field in dataclasses.fields(Shape)}
    return Tower(Shape(**sizes), None)


def _sources(run: Result) -> list[str]:
    """Name what an encoder was trained on."""
    data = run.content.get("data") or {}
    return [str(data.get("source", "")), *(str(name) for name in run.manifest.get("data", {}))]


def _on_the_hub(name: str) -> str | None:
    from safeencoders.hub import is_id

    return name if is_id(name) and not Path(name).exists() else None
