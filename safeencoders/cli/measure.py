"""What `safeencoders evaluate` does: measure, print a table with the baselines, write the JSON with its manifest."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safeencoders.errors import BadInputError, OutputError
from safeencoders.files import write_json
from safeencoders.fingerprint import fingerprint

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPVisionModel

    from safeencoders.evaluation.retrieval import Measured

DEFAULT_WORLD_SEED = 0

GENERATION_ROWS = {
    "concept_present": "prompted concept present",
    "any_unsafe": "any unsafe concept",
    "floor": "safe prompts flagged (floor)",
    "fidelity": "fidelity of safe prompts",
    "surviving": "surviving on unsafe prompts",
    "surviving_reference": "the original's on safe prompts",
    "lookalike_redirected": "look-alikes redirected",
    "lookalike_seen": "  of types seen in redirection",
    "lookalike_unseen": "  of types never seen",
    "diversity": "diversity against the original",
}
HELD_ROWS = ("seen_triple", "held_triple", "synonym", "concept", "implicit", "two", "long")


def measure_retrieval(
    encoder: str, *, towers: str, data: str, world_seed: int | None, n: int, seed: int, json_file: Path | None
) -> None:
    """Measure retrieval with a text, a vision or both towers tuned, the original and the word filter beside it.

    Nothing here is random but the world's scenes and captions; `seed` is recorded only.

    Raises:
        UnknownNameError: no such encoder or data.
        BadInputError: n is larger than the split, or the encoder lacks a tower that was asked for.
        OutputError: the JSON file cannot be written.
    """
    from safeencoders.evaluation.retrieval import RetrievalSet, paired, tied_oracle
    from safeencoders.evaluation.world_data import parse_data

    start = time.monotonic()
    refuse_unwritable(json_file)
    world = DEFAULT_WORLD_SEED if world_seed is None else world_seed
    split = parse_data(data)
    chosen = _towers(encoder, towers)
    found = RetrievalSet.of(split, n, world)
    measured, baselines = _retrieve(found, chosen)
    row = measured.row
    if towers == "both":
        row["oracle_tied"] = {task: tied_oracle(found.plain, found.plain) for task in ("T*-VuV*", "V*-TuT*")}
    if chosen["vision"] is not None:
        row["patch_drift"] = _patch_drift(found, chosen["vision"])
    results = {
        "retrieval": row,
        "towers": towers,
        "baselines": {name: other.row for name, other in baselines.items()},
        "paired": paired(measured, baselines),
    }
    print(_retrieval_text(encoder, towers, data, results))
    weights = (
        shipped("clip")
        | tower_weights(encoder, "text", chosen["text"])
        | tower_weights(encoder, "vision", chosen["vision"])
    )
    write_results(json_file, results, {"world": world, "seed": seed}, {data: found.sha256()}, weights, start)


def measure_generation(
    encoder: str, *, data: str, world_seed: int | None, n: int, seed: int, json_file: Path | None
) -> None:
    """Draw with the encoder and with the baselines, and say what the judge saw.

    Args:
        seed: of the noise the pictures are drawn from.

    Raises:
        UnknownNameError: no such encoder or data.
        BadInputError: n is larger than the split.
        OutputError: the JSON file cannot be written.
    """
    from safeencoders.evaluation.drawing import Artist
    from safeencoders.evaluation.generation import Study, generation
    from safeencoders.evaluation.prompts import Prompts
    from safeencoders.evaluation.world_data import parse_data
    from safeencoders.loading import load
    from safeencoders.pictoworld import models

    start = time.monotonic()
    refuse_unwritable(json_file)
    world = DEFAULT_WORLD_SEED if world_seed is None else world_seed
    prompts = Prompts.of(parse_data(data), n, world)
    tower = cast("CLIPTextModel", load(encoder))
    artist = Artist(models.pipeline(), seed)
    check_width(encoder, tower, artist.pipe.text_encoder)
    results = generation(Study(artist, prompts, models.judge()), tower)
    results["sampler"] = {"steps": artist.steps, "guidance": artist.guidance}
    print(_generation_text(encoder, data, results))
    weights = shipped("generator", "judge") | tower_weights(encoder, "text", tower)
    write_results(json_file, results, {"world": world, "noise": seed}, {data: prompts.sha256()}, weights, start)


def refuse_unwritable(path: Path | None, option: str = "--json") -> None:
    """Raise OutputError now, not after minutes of work, when a file could not be written there."""
    if path is None or (path.exists() and not path.is_file() and not path.is_dir()):  # none asked for, or a device
        return
    if path.is_dir():
        raise OutputError(f"expected a file name, but {path} is a folder; choose another {option}")
    folder = next(parent for parent in path.resolve().parents if os.path.lexists(parent))
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror} in {folder}; choose another {option}") from error


def check_width(encoder: str, tower: Any, original: Any) -> None:  # noqa: ANN401  text or vision towers
    """Raise BadInputError when a tower is of another size than the one whose place it takes."""
    expected, found = original.config.hidden_size, tower.config.hidden_size
    if expected != found:
        raise BadInputError(
            f"expected a tower of width {expected}, as pictoworld reads it, got width {found} from {encoder!r}; "
            "it was made for another host"
        )


def _towers(encoder: str, which: str) -> dict[str, Any]:
    """Load the tuned towers that were asked for: "text" and "vision", None where the original stays."""
    from safeencoders.catalog import ORIGINAL
    from safeencoders.loading import encoder_folder, load

    encoder_folder(encoder)  # an unknown name is refused as such, whatever towers were asked for
    if encoder == ORIGINAL:
        return {"text": None, "vision": None}
    vision = load(encoder, tower="vision") if which in {"vision", "both"} else None
    return {"text": load(encoder) if which in {"text", "both"} else None, "vision": vision}


def _retrieve(found: Any, chosen: Mapping[str, Any]) -> tuple[Measured, dict[str, Measured]]:  # noqa: ANN401
    from safeencoders.evaluation.baselines import filter_words
    from safeencoders.evaluation.retrieval import embed_pictures, embed_texts, retrieve
    from safeencoders.evaluation.towers import Towers
    from safeencoders.pictoworld import models

    clip, tokenizer = models.clip(), models.tokenizer()
    original = Towers.from_clip(clip, tokenizer)
    for name, tower in chosen.items():
        if tower is not None:
            check_width("the encoder", tower, getattr(original, name))
    tuned = Towers.from_clip(clip, tokenizer, **chosen)
    pictures, texts = embed_pictures(original, found), embed_texts(original, found)
    filtered = embed_texts(original, found, filter_words)
    measured = retrieve(
        found,
        texts if tuned.text is original.text else embed_texts(tuned, found),
        pictures if tuned.vision is original.vision else embed_pictures(tuned, found),
    )
    return measured, {
        "original": retrieve(found, texts, pictures),
        "word_filter": retrieve(found, filtered, pictures),
    }


def _patch_drift(found: Any, vision: Any) -> Any:  # noqa: ANN401
    """Return how far the tuned vision tower moved the patch tokens of safe pictures."""
    from safeencoders.evaluation.drift import patch_drift
    from safeencoders.pictoworld import models

    return patch_drift(vision, models.clip().vision_model, [quad.safe for quad in found.plain])


def _retrieval_text(encoder: str, towers: str, data: str, results: Mapping[str, Any]) -> str:
    from safeencoders.evaluation.tables import results_table

    row = results["retrieval"]
    tasks = ("T-V", "V-T", "T*-VuV*", "V*-TuT*", "T*-V*", "V*-T*")
    names = {f"{task} R@{k}": f"{task} R@{k}" for task in tasks for k in (1, 10, 20)}
    names |= {"top1_unsafe text": "T* top-1 unsafe", "top1_unsafe vision": "V* top-1 unsafe"}
    names |= {"attribute_match": "replace: safe with all that survives"}
    ceiling = row["oracle"] | {"attribute_match": None}
    systems = {encoder: row, **results["baselines"], "oracle": ceiling}
    if "oracle_tied" in row:
        systems["oracle, twins tied"] = row["oracle_tied"]
    if "patch_drift" in row:
        names["patch_drift"] = "patch tokens of safe pictures: drift"
    head = results_table(f"Retrieval, {data}, towers: {towers}", systems, names=names)
    task = "T*-VuV*" if towers == "text" else "V*-TuT*"
    parts = {name: _flat_parts(system, towers) for name, system in {encoder: row, **results["baselines"]}.items()}
    return f"{head.text()}\n\n{results_table(f'{task} by part of the set', parts).text()}"


def _flat_parts(row: Mapping[str, Any], towers: str) -> dict[str, Any]:
    """Return the breakdown's rates in the deployed direction: asked by text, or by picture."""
    tables = {**row["by_mode"], **{name: row["by_heldout"][name] for name in HELD_ROWS if name in row["by_heldout"]}}
    directed = {name: part if towers == "text" else part["vision"] for name, part in tables.items()}
    return {name: {key: part[key] for key in ("R@1", "R@10", "top1_unsafe")} for name, part in directed.items()}


def _generation_text(encoder: str, data: str, results: Mapping[str, Any]) -> str:
    from safeencoders.evaluation.tables import results_table

    systems = {encoder: results["generation"], **results["baselines"]}
    head = results_table(f"Generation, {data}", systems, names=GENERATION_ROWS)
    parts = {
        name: {**row["by_mode"], **{k: row["by_heldout"][k] for k in HELD_ROWS if k in row["by_heldout"]}}
        for name, row in systems.items()
    }
    short = {
        name: {k: {key: v[key] for key in ("concept_present", "surviving")} for k, v in row.items()}
        for name, row in parts.items()
    }
    return f"{head.text()}\n\n{results_table('By part of the set', short).text()}"


def shipped(*parts: str) -> dict[str, str]:
    """Return the recorded hashes of the world's own models."""
    from safeencoders.pictoworld import models

    return {name: value for name, value in models.hashes().items() if name.split("/")[0] in parts}


def tower_weights(encoder: str, which: str, tower: CLIPTextModel | CLIPVisionModel | None) -> dict[str, str]:
    """Return the hashes of the tuned tower: the recorded ones of a shipped encoder, else that of what was loaded."""
    from safeencoders.catalog import ORIGINAL
    from safeencoders.pictoworld import models

    if tower is None or encoder == ORIGINAL:
        return {}
    start = f"{models.TOWERS}/{encoder}/{which}/"
    recorded = {name: value for name, value in models.hashes().items() if name.startswith(start)}
    return recorded or {f"{encoder} ({which}, loaded)": fingerprint(tower)}


def write_results(
    json_file: Path | None,
    results: Mapping[str, Any],
    seeds: Mapping[str, int],
    data: Mapping[str, str],
    weights: Mapping[str, str],
    start: float,
) -> None:
    """Write results with their manifest, where a file was asked for."""
    from safeencoders.provenance import manifest

    if json_file is None:
        return
    seconds = time.monotonic() - start
    command = ["safeencoders", *sys.argv[1:]]
    record = manifest(command, seeds=seeds, weights=weights, data=data, seconds=seconds)
    write_json(json_file, {**results, "manifest": record})
    print(f"\nwritten: {json_file}")
