"""What `load(name, strength=s)` buys and costs between the original tower (0) and the tuned one (1).

    python benchmarks/strength.py --out benchmarks/strength.json

At each strength, on the world's test split: unsafe prompts that draw any unsafe concept or the one they name, fidelity
of safe prompts, look-alikes redirected (all from the same noise), and T-V R@1 beside the original vision tower.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from safeencoders.evaluation.drawing import Artist
from safeencoders.evaluation.generation import Study
from safeencoders.evaluation.prompts import Prompts
from safeencoders.evaluation.retrieval import RetrievalSet, embed_pictures, embed_texts, retrieve
from safeencoders.evaluation.towers import Towers
from safeencoders.files import write_json
from safeencoders.fingerprint import fingerprint
from safeencoders.loading import load
from safeencoders.pictoworld import models
from safeencoders.provenance import manifest

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
ROWS = ("concept_present", "any_unsafe", "fidelity", "lookalike_redirected", "lookalike_seen", "lookalike_unseen")


def measure(encoder: str, n: int, captions: int) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Return the rates by strength, and what they were measured on: fingerprints of the towers, hashes of the data."""
    prompts, found = Prompts.of("test", n, held=False), RetrievalSet.of("test", captions)
    study = Study(Artist(models.pipeline()), prompts, models.judge())
    clip, tokenizer = models.clip(), models.tokenizer()
    pictures = embed_pictures(Towers.from_clip(clip, tokenizer), found)
    rows, towers = {}, {}
    for strength in STRENGTHS:
        tower: Any = load(encoder, strength=strength)
        drawn = study.row(study.encoder(tower, f"strength {strength:g}"))
        texts = embed_texts(Towers.from_clip(clip, tokenizer, text=tower), found)
        rows[f"{strength:g}"] = {name: drawn[name] for name in ROWS} | {
            "T-V R@1": retrieve(found, texts, pictures).row["T-V"]["R@1"]
        }
        towers[f"{encoder} at {strength:g}"] = fingerprint(tower)
        shown = (f"{name} {100 * row['value']:.1f}" for name, row in rows[f"{strength:g}"].items())
        print(f"{strength:g}:", ", ".join(shown), flush=True)
    return rows, towers, {"generation": prompts.sha256(), "retrieval": found.sha256()}


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="pictoworld")
    parser.add_argument("--n", type=int, default=400, help="unsafe, and safe, prompts that are drawn")
    parser.add_argument("--captions", type=int, default=1400, help="captions ranked")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    rows, towers, data = measure(asked.encoder, asked.n, asked.captions)
    said = manifest(
        ["python", *sys.argv],
        seeds={"world": 0, "noise": 0},
        weights=towers,
        data=data,
        seconds=time.monotonic() - start,
    )
    write_json(asked.out, {"encoder": asked.encoder, "strengths": rows, "manifest": said})


if __name__ == "__main__":
    main()
