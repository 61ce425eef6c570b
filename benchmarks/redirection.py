"""Redirect the world's text tower by several variants and seeds at the same budget, and measure each.

The ablation on the validation split, and the three seeds of the final recipe on the test split:

    python benchmarks/redirection.py --split val --variants all --steps 300 --n 100 --out benchmarks/ablation
    python benchmarks/redirection.py --split test --seeds 0 1 2 --n 500 --out benchmarks/seeds

Towers are trained once and kept in --work (resumable); OUT.json holds every number with its manifest, OUT.md the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any, cast

from safeencoders.evaluation.drawing import Artist
from safeencoders.evaluation.generation import Study
from safeencoders.evaluation.prompts import Prompts
from safeencoders.evaluation.retrieval import Pictures, RetrievalSet, embed_pictures, embed_texts, retrieve
from safeencoders.evaluation.statistics import mean_and_range
from safeencoders.evaluation.tables import Table
from safeencoders.evaluation.towers import Towers
from safeencoders.files import write_atomically, write_json
from safeencoders.loading import load
from safeencoders.pictoworld import models
from safeencoders.provenance import manifest
from safeencoders.training.recipe import Recipe, read
from safeencoders.training.world import export, redirected

MEASURES = {
    "T-V R@1": ("retrieval", "T-V", "R@1"),
    "T*-VuV* R@1": ("retrieval", "T*-VuV*", "R@1"),
    "R@10": ("retrieval", "T*-VuV*", "R@10"),
    "top-1 unsafe": ("retrieval", "top1_unsafe", "text"),
    "synonyms, top-1 unsafe": ("retrieval", "by_heldout", "synonym", "top1_unsafe"),
    "implicit, top-1 unsafe": ("retrieval", "by_heldout", "implicit", "top1_unsafe"),
    "concept present": ("generation", "concept_present"),
    "any unsafe": ("generation", "any_unsafe"),
    "floor": ("generation", "floor"),
    "fidelity": ("generation", "fidelity"),
    "surviving": ("generation", "surviving"),
    "look-alikes redirected": ("generation", "lookalike_redirected"),
    "unseen types": ("generation", "lookalike_unseen"),
    "diversity": ("generation", "diversity"),
}


def variants() -> dict[str, Recipe]:
    """Return the recipes that are compared: ours, ours without one part each, and the paper's, at one budget."""
    ours, paper = read("pictoworld"), read("safe-clip")

    def but(**numbers: float) -> Recipe:
        return dataclasses.replace(ours, weights={**ours.weights, **numbers})

    return {
        "pictoworld": ours,
        "without twin negatives": but(twins=False),
        "without hidden states": but(hidden=0.0),
        "without extra preservation": but(preserve=1.0, benign=1.0),
        "embeddings free": dataclasses.replace(ours, frozen=()),
        "safe-clip": dataclasses.replace(paper, schedule=ours.schedule),
    }


def train(name: str, recipe: Recipe, seed: int, steps: int, work: Path) -> Path:
    """Return the folder of the trained tower, training it if it is not there."""
    folder = work / f"{name.replace(' ', '-')}-{steps}-{seed}"
    if not (folder / "text" / "model.safetensors").exists():
        clip, tokenizer = models.clip(), models.tokenizer()
        fit = redirected.fit(clip, tokenizer, recipe, folder / "checkpoint.pt", seed=seed, steps=steps)
        fit.run(f"{name}, seed {seed}", seconds=float("inf"))
        export.save_text_tower(clip, fit.task.module, folder / "text")
    return folder


def measure(folder: Path, study: Study, found: RetrievalSet, pictures: Pictures) -> dict[str, Any]:
    """Return the retrieval and generation rows of a tower."""
    tower = cast("Any", load(str(folder)))
    tuned = Towers.from_clip(models.clip(), models.tokenizer(), text=tower)
    return {
        "retrieval": retrieve(found, embed_texts(tuned, found), pictures).row,
        "generation": study.row(study.encoder(tower)),
    }


def dig(row: dict[str, Any], path: tuple[str, ...]) -> float:
    """Return the value of a rate inside nested results."""
    for key in path:
        row = row[key]
    return float(row["value"])


def table(title: str, rows: dict[str, dict[str, Any]]) -> Table:
    """Return means over seeds in percent, with the range where there are several."""
    body = []
    for name, by_seed in rows.items():
        cells: list[str] = []
        for path in MEASURES.values():
            spread = mean_and_range([dig(row, path) for row in by_seed.values()])
            text = f"{100 * spread['mean']:.1f}"
            if spread["n"] > 1:
                text += f" ({100 * spread['min']:.1f}..{100 * spread['max']:.1f})"
            cells.append(text)
        body.append([name, *cells])
    return Table(title, ["", *MEASURES], body)


def main() -> None:
    """Read the options, train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--variants", nargs="+", default=["pictoworld"], help="names, or 'all'")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, help="of every variant; default: the recipe's")
    parser.add_argument("--world-seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=200, help="unsafe, and safe, prompts drawn")
    parser.add_argument("--work", type=Path, default=Path(".checkpoints/redirection"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    start, known = time.monotonic(), variants()
    names = list(known) if options.variants == ["all"] else options.variants
    found = RetrievalSet.of(options.split, 1400, options.world_seed)
    prompts = Prompts.of(options.split, options.n, options.world_seed, held=False)
    study = Study(Artist(models.pipeline()), prompts, models.judge())
    pictures = embed_pictures(Towers.from_clip(models.clip(), models.tokenizer()), found)
    original = {"0": measure(models.WEIGHTS / models.GENERATOR / "text_encoder", study, found, pictures)}
    rows: dict[str, dict[str, Any]] = {"original": original}
    for name in names:
        for seed in options.seeds:
            steps = options.steps or known[name].schedule.steps
            folder = train(name, known[name], seed, steps, options.work)
            rows.setdefault(name, {})[str(seed)] = measure(folder, study, found, pictures)
    shown = table(f"pictoworld:{options.split}, world seed {options.world_seed}, n = {options.n}", rows)
    record = manifest(
        ["python", *sys.argv],
        seeds={"world": options.world_seed},
        weights=models.hashes(),
        data={"retrieval": found.sha256(), "generation": prompts.sha256()},
        seconds=time.monotonic() - start,
    )
    write_json(options.out.with_suffix(".json"), {"rows": rows, "manifest": record})
    write_atomically(options.out.with_suffix(".md"), shown.markdown() + "\n")
    print(shown.text())


if __name__ == "__main__":
    main()
