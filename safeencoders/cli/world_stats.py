"""The work of `safeencoders world stats`: the world in numbers, and what each split holds out."""

import time
from pathlib import Path
from typing import Any

from safeencoders.evaluation.tables import Cell, Table
from safeencoders.files import write_json
from safeencoders.pictoworld import census
from safeencoders.pictoworld.lexicon import CATEGORIES, CONCEPTS, LONG_TEMPLATES, LOOKALIKES, SPLITS, TEMPLATES
from safeencoders.pictoworld.scenes import PALETTES, VARIANTS, scenes, words
from safeencoders.provenance import manifest


def show_stats(*, world_seed: int | None, json_file: Path | None) -> None:
    """Print the world's tables; also write them as JSON, with a manifest, when asked.

    Args:
        world_seed: chooses the captions that are measured and hashed; None is 0, the shipped ones.

    Raises:
        OutputError: the file cannot be written.
    """
    started, seed = time.perf_counter(), 0 if world_seed is None else world_seed
    world = world_numbers(seed)
    print("\n\n".join(table.text() for table in tables(world)))
    if json_file is None:
        return
    command = ["safeencoders", "world", "stats", "--world-seed", str(seed), "--json", str(json_file)]
    data = {f"pictoworld:test {kind} captions": digest for kind, digest in world["captions_sha256"].items()}
    seconds = time.perf_counter() - started
    made = manifest(command, seeds={"world": seed}, weights={}, data=data, seconds=seconds)
    write_json(json_file, {"world": world, "manifest": made})


def world_numbers(seed: int) -> dict[str, Any]:
    """Count the world; ready for JSON."""
    return {
        "world_seed": seed,
        "splits": {
            split: {
                "scenes": len(scenes(split)),
                "templates": len(TEMPLATES[split]),
                "long_templates": len(LONG_TEMPLATES[split]),
                "palettes": list(PALETTES[split]),
                "variants": list(VARIANTS[split]),
                "synonyms": sum(len(concept.phrases[split]) for concept in CONCEPTS.values()),
                "implicit": sum(len(concept.implicit[split]) for concept in CONCEPTS.values()),
            }
            for split in SPLITS
        },
        "words": len(list(words())),
        "caption_tokens": census.caption_tokens("test", census.N_TEST, seed),
        "concepts": {
            name: {"category": concept.category, "mode": concept.mode, "held_out": not concept.redirected}
            for name, concept in CONCEPTS.items()
        },
        "lookalikes": {
            name: {"concept": entry.concept, "first_split": entry.first_split} for name, entry in LOOKALIKES.items()
        },
        "held_out_triples": census.held_out_triples(),
        "overlaps": census.overlaps(seed),
        "captions_sha256": census.hashes(seed),
    }


def tables(world: dict[str, Any]) -> list[Table]:
    """Lay the numbers of `world_numbers` out for a terminal."""
    return [
        _splits(world),
        _concepts(world),
        _lookalikes(),
        Table(
            f"Caption lengths in tokens (test, world seed {world['world_seed']})",
            ["kind", "longest", "mean"],
            [[kind, int(row["max"]), row["mean"]] for kind, row in world["caption_tokens"].items()],
            note=f"{world['words']} words, each one token; start and end tokens are counted.",
        ),
        Table("Shared between splits", ["", "count"], [[name, count] for name, count in world["overlaps"].items()]),
        Table(
            f"sha256 of {census.N_TEST} test captions and their twins (world seed {world['world_seed']})",
            ["kind", "sha256"],
            [[kind, digest] for kind, digest in world["captions_sha256"].items()],
        ),
    ]


def _splits(world: dict[str, Any]) -> Table:
    rows: list[list[Cell]] = []
    for name in next(iter(world["splits"].values())):
        cells = (world["splits"][split][name] for split in SPLITS)
        label = name.replace("_", " ")
        rows.append([label, *(",".join(map(str, cell)) if isinstance(cell, list) else cell for cell in cells)])
    triples = world["held_out_triples"]
    rows.append(["triples held out", None, triples["val"], triples["test"]])
    note = f"Triples are (subject, concept, place), {triples['all']} in all; palettes and variants by number."
    return Table("Splits", ["", *SPLITS], rows, note=note)


def _concepts(world: dict[str, Any]) -> Table:
    rows = []
    for category in CATEGORIES:
        group = {name: entry for name, entry in world["concepts"].items() if entry["category"] == category}
        seen = [f"{name} ({entry['mode']})" for name, entry in group.items() if not entry["held_out"]]
        held = [f"{name} ({entry['mode']})" for name, entry in group.items() if entry["held_out"]]
        rows.append([category, ", ".join(seen), ", ".join(held)])
    title = f"Unsafe concepts: {len(world['concepts'])}"
    return Table(title, ["category", "seen in redirection", "held out of redirection"], rows)


def _lookalikes() -> Table:
    seen = {"train": "seen in redirection", "val": "first used to choose", "test": "only in the final report"}
    rows = [[split, seen[split], ", ".join(names)] for split, names in census.lookalikes_by_split().items()]
    return Table(f"Benign look-alikes: {len(LOOKALIKES)}", ["first split", "", "types"], rows)
