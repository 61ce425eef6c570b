"""What `safeencoders train --sweep` does: train each variant with each seed, measure it, and set them side by side."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeencoders.errors import BadInputError
from safeencoders.files import output_folder, read_json, write_atomically, write_json

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

    from safeencoders.evaluation.generation import Study
    from safeencoders.evaluation.retrieval import Pictures, RetrievalSet, Texts
    from safeencoders.evaluation.tables import Table
    from safeencoders.training.sweep import Sweep, Variant

Rows = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""What was measured, by variant, seed and deployment."""
ORIGINAL = "original"
MEASURES: dict[str, dict[str, tuple[str, ...]]] = {
    "text": {
        "T-V R@1": ("T-V", "R@1"),
        "T*-VuV* R@1": ("T*-VuV*", "R@1"),
        "R@10": ("T*-VuV*", "R@10"),
        "top-1 unsafe": ("top1_unsafe", "text"),
        "synonyms, top-1 unsafe": ("by_heldout", "synonym", "top1_unsafe"),
    },
    "drawn": {
        "concept present": ("concept_present",),
        "any unsafe": ("any_unsafe",),
        "fidelity": ("fidelity",),
        "surviving": ("surviving",),
        "look-alikes redirected": ("lookalike_redirected",),
    },
    "vision": {
        "V-T R@1": ("V-T", "R@1"),
        "V*-TuT* R@1": ("V*-TuT*", "R@1"),
        "R@10": ("V*-TuT*", "R@10"),
        "top-1 unsafe": ("top1_unsafe", "vision"),
        "patch drift": ("drift",),
    },
    "both": {
        "T-V R@1": ("T-V", "R@1"),
        "V-T R@1": ("V-T", "R@1"),
        "T*-VuV* R@1": ("T*-VuV*", "R@1"),
        "V*-TuT* R@1": ("V*-TuT*", "R@1"),
        "T* top-1 unsafe": ("top1_unsafe", "text"),
    },
}
TITLES = {
    "text": "Tuned text tower, original vision tower",
    "drawn": "What the pipeline draws with the tuned text tower",
    "vision": "Tuned vision tower, original text tower",
    "both": "Both towers tuned",
}
FRONTS = {
    "Text tower: safety against utility": ("text", "T-V R@1", "T*-VuV* R@1"),
    "Vision tower: safety against utility": ("vision", "V-T R@1", "V*-TuT* R@1"),
}


@dataclass
class Bench:
    """What every variant is measured with: one set of quadruplets, one pipeline, one judge, the originals."""

    sweep: Sweep
    clip: CLIPModel
    tokenizer: CLIPTokenizer
    found: RetrievalSet
    texts: Texts
    pictures: Pictures
    study: Study | None

    @classmethod
    def of(cls, sweep: Sweep) -> Bench:
        """Draw the sets and embed them with the originals."""
        from safeencoders.evaluation.drawing import Artist
        from safeencoders.evaluation.generation import Study
        from safeencoders.evaluation.prompts import Prompts
        from safeencoders.evaluation.retrieval import RetrievalSet, embed_pictures, embed_texts
        from safeencoders.evaluation.towers import Towers
        from safeencoders.pictoworld import models

        clip, tokenizer = models.clip(), models.tokenizer()
        found = RetrievalSet.of(sweep.split, sweep.retrieval, sweep.world_seed)
        towers = Towers.from_clip(clip, tokenizer)
        study = None
        if sweep.generation:
            prompts = Prompts.of(sweep.split, sweep.generation, sweep.world_seed, held=False)
            study = Study(Artist(models.pipeline()), prompts, models.judge())
        return cls(sweep, clip, tokenizer, found, embed_texts(towers, found), embed_pictures(towers, found), study)

    def measure(self, towers: Mapping[str, Any]) -> dict[str, Any]:
        """Return the rows of the deployments that these tuned towers have; both originals for no towers."""
        from safeencoders.evaluation.drift import patch_drift
        from safeencoders.evaluation.retrieval import embed_pictures, embed_texts, retrieve
        from safeencoders.evaluation.towers import Towers

        text, vision = towers.get("text"), towers.get("vision")
        tuned = Towers.from_clip(self.clip, self.tokenizer, text=text, vision=vision)
        texts = embed_texts(tuned, self.found) if text else self.texts
        pictures = embed_pictures(tuned, self.found) if vision else self.pictures
        rows: dict[str, Any] = {}
        if text or not towers:
            rows["text"] = retrieve(self.found, texts, self.pictures).row
            if self.study is not None:
                study = self.study
                rows["drawn"] = study.row(study.encoder(text) if text else study.baseline(ORIGINAL))
        if vision or not towers:
            rows["vision"] = retrieve(self.found, self.texts, pictures).row
            safe = [quad.safe for quad in self.found.plain]
            rows["vision"]["drift"] = patch_drift(tuned.vision, self.clip.vision_model, safe)
        if (text and vision) or not towers:
            rows["both"] = retrieve(self.found, texts, pictures).row
        return rows


def run_sweep(name_or_file: str, out: Path, *, steps: int | None = None) -> None:
    """Write sweep.json, sweep.md and front-*.svg to a folder; what is there of an earlier, killed sweep is kept.

    Raises:
        BadInputError: the sweep's file does not say what it should, or the folder holds another sweep.
    """
    from safeencoders.training.sweep import read

    start, sweep = time.monotonic(), read(name_or_file)
    sweep = dataclasses.replace(sweep, steps=steps or sweep.steps)
    _same_sweep(out, sweep)
    bench = Bench.of(sweep)
    rows: dict[str, dict[str, dict[str, Any]]] = {ORIGINAL: {"0": _measures(bench.measure({}))}}
    for variant in sweep.run:
        for seed in sweep.seeds:
            rows.setdefault(variant.name, {})[str(seed)] = _measures(_one(bench, variant, seed, out))
    tables = [_table(sweep, part, rows) for part in MEASURES if part != "drawn" or bench.study is not None]
    write_json(out / "sweep.json", {"rows": rows, "manifest": _manifest(bench, start)})
    text = "\n".join(f"{table.markdown()}\n" for table in tables)
    write_atomically(
        out / "sweep.md", f"{text}\nMean, and lowest to highest of {len(sweep.seeds)} seeds, in percent.\n"
    )
    for number, (title, front) in enumerate(FRONTS.items(), 1):
        write_atomically(out / f"front-{number}.svg", _front(title, rows, *front))
    for table in tables:
        print(table.text(), end="\n\n")
    print(f"written: {out / 'sweep.md'}, sweep.json, front-1.svg, front-2.svg")


def _same_sweep(out: Path, sweep: Sweep) -> None:
    """Refuse a folder of another sweep; note this one's content in a new folder."""
    recipes = {variant.name: variant.made(sweep.steps, 0) for variant in sweep.run}
    said = dataclasses.asdict(sweep) | {"recipes": {name: dataclasses.asdict(made) for name, made in recipes.items()}}
    file, said = out / "sweep-settings.json", json.loads(json.dumps(said))
    if not file.exists():
        write_json(file, said)
    if read_json(file) != said:
        raise BadInputError(f"{out} holds another sweep (see {file.name}); choose another --out")


def _one(bench: Bench, variant: Variant, seed: int, out: Path) -> dict[str, Any]:
    """Train and measure one variant with one seed, or read what was measured before."""
    from safeencoders.loading import load

    folder = out / "runs" / f"{variant.folder}-{seed}"
    if not (folder / "measured.json").exists():
        towers = _train(bench, variant, seed, folder)
        row = bench.measure({tower: load(str(folder), tower=tower) for tower in towers})
        write_json(folder / "measured.json", row)
    measured: dict[str, Any] = read_json(folder / "measured.json")
    return measured


def _train(bench: Bench, variant: Variant, seed: int, folder: Path) -> tuple[Any, ...]:
    """Train one variant, resuming where it was killed; return the names of its towers."""
    from safeencoders.training.export import save_tower
    from safeencoders.training.readers.pictoworld import PictoworldReader
    from safeencoders.training.run import TOWERS, prepare

    recipe = variant.made(bench.sweep.steps, seed)
    towers = TOWERS[recipe.towers]
    if not all((folder / tower).exists() for tower in towers):
        reader = PictoworldReader(bench.tokenizer, recipe.schedule.batch, seed)
        fit = prepare(bench.clip, recipe, reader, folder / "checkpoint.safetensors")
        fit.run(f"{variant.name}, seed {seed}")
        fit.finish()
        provenance = {"recipe": variant.recipe, "variant": variant.name, "seed": seed, "steps": fit.step}
        for tower, edit in fit.task.edits.items():
            if not (folder / tower).exists():
                with output_folder(folder / tower) as partial:
                    save_tower(bench.clip, tower, edit, partial, provenance)
    return towers


def _measures(row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rates of the tables; all that was measured stays in the run's own measured.json."""

    def dig(found: Any, path: tuple[str, ...]) -> Any:  # noqa: ANN401  nested results with a rate at the end
        return dig(found[path[0]], path[1:]) if path else found

    return {part: {name: dig(row[part], path) for name, path in MEASURES[part].items()} for part in row}


def _spread(rows: Mapping[str, Any], part: str, name: str) -> str:
    from safeencoders.evaluation.statistics import mean_and_range

    found = mean_and_range([100 * row[part][name]["value"] for row in rows.values()])
    return f"{found['mean']:.1f}" + (f" ({found['min']:.1f}..{found['max']:.1f})" if found["n"] > 1 else "")


def _table(sweep: Sweep, part: str, rows: Rows) -> Table:
    from safeencoders.evaluation.tables import Table

    measures = MEASURES[part]
    shown = {name: seeds for name, seeds in rows.items() if all(part in row for row in seeds.values())}
    body = [[name, *(_spread(seeds, part, measure) for measure in measures)] for name, seeds in shown.items()]
    n = sweep.generation if part == "drawn" else sweep.retrieval
    steps = f"{sweep.steps} steps each" if sweep.steps else "each recipe's steps"
    return Table(f"{TITLES[part]} (pictoworld:{sweep.split}, n = {n}, {steps})", ["", *measures], body)


def _front(title: str, rows: Rows, part: str, utility: str, safety: str) -> str:
    from safeencoders.evaluation.plots import front

    points = {
        name: [(100 * row[part][utility]["value"], 100 * row[part][safety]["value"]) for row in seeds.values()]
        for name, seeds in rows.items()
        if all(part in row for row in seeds.values())
    }
    return front(title, points, x_label=f"{utility}, percent", y_label=f"{safety}, percent")


def _manifest(bench: Bench, start: float) -> dict[str, Any]:
    from safeencoders.pictoworld import models
    from safeencoders.provenance import manifest

    data = {"retrieval": bench.found.sha256()}
    if bench.study is not None:
        data["generation"] = bench.study.prompts.sha256()
    return manifest(
        ["safeencoders", *sys.argv[1:]],
        seeds={"world": bench.sweep.world_seed, "noise": 0},
        weights=models.hashes(),
        data=data,
        seconds=time.monotonic() - start,
    )
