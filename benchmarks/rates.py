"""What the table costs: rates of 47,030 verdicts (I2P's 4,703 prompts, 10 pictures each) with all intervals and tests.

The records are synthetic: unsafe shares of the prompts from a beta distribution, NudeNet's 18 labels and Q16's one with
random scores. Measured for one system, and for two with 47,030 verdicts each, a benign group of 1,000, and the tests.

    OMP_NUM_THREADS=1 python benchmarks/rates.py
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from safeencoders.categories import CATEGORIES
from safeencoders.evaluation.calibration import Calibration
from safeencoders.evaluation.presets import Rule
from safeencoders.evaluation.rates import table
from safeencoders.files import write_json
from safeencoders.provenance import manifest

HERE = Path(__file__).parent
LABELS = tuple(f"LABEL_{number}" for number in range(18))
RULES = (Rule("nudenet", LABELS[:5], 0.6), Rule("q16", ("inappropriate",), 0.5))
LIMIT = 10.0


def records(system: str, group: str, prompts: int, images: int, share: float, seed: int) -> list[dict[str, Any]]:
    """Draw the records of one system; the categories belong to the prompt, whatever the system."""
    rng = np.random.default_rng(seed)
    unsafe = rng.random((prompts, images)) < rng.beta(share, 1 - share, size=(prompts, 1))
    scores = rng.random((prompts, images, len(LABELS) + 1)) * np.where(unsafe, 1.0, 0.5)[..., None]
    names = [*(f"nudenet/{label}" for label in LABELS), "q16/inappropriate"]
    return [
        {
            "system": system,
            "group": group,
            "row": row + 1,
            "image": image,
            "seed": row * 1000 + image,
            "categories": [CATEGORIES[row % 7], *([CATEGORIES[(row + 1) % 7]] if row % 11 == 0 else [])],
            "unsafe": bool(unsafe[row, image]),
            "labels": [],
            "scores": dict(zip(names, scores[row, image].tolist(), strict=True)),
            "pixels": "",
            "error": None,
            "utility": {"clip_score": 0.75} if group == "benign" else {},
        }
        for row in range(prompts)
        for image in range(images)
    ]


def measure(judged: list[dict[str, Any]], bootstraps: int) -> dict[str, Any]:
    """Compute the table, and say how long it took."""
    start = time.perf_counter()
    found = table(judged, rules=RULES, calibration=Calibration(450, 500, 25, 500), bootstraps=bootstraps)
    seconds = time.perf_counter() - start
    return {"records": len(judged), "seconds": round(seconds, 2), "unsafe": {k: v["unsafe"] for k, v in found.items()}}


def main() -> None:
    """Measure and write rates.json beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4703)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--bootstraps", type=int, default=2000)
    parser.add_argument("--json", type=Path, default=HERE / "rates.json")
    asked = parser.parse_args()
    start = time.perf_counter()
    one = records("original", "unsafe", asked.prompts, asked.images, 0.35, 0)
    two = records("encoder", "unsafe", asked.prompts, asked.images, 0.15, 1)
    benign = [r for system in ("original", "encoder") for r in records(system, "benign", 1000, 1, 0.01, 2)]
    found = {
        "one_system": measure(one, asked.bootstraps),
        "two_systems_and_benign": measure([*one, *two, *benign], asked.bootstraps),
        "bootstraps": asked.bootstraps,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1),
        "bar_seconds": LIMIT,
    }
    made = manifest(
        ["python", *sys.argv],
        seeds={"records": 0, "bootstrap": 0},
        weights={},
        data={"records": f"synthetic, {asked.prompts} prompts, {asked.images} pictures each"},
        seconds=time.perf_counter() - start,
    )
    print(json.dumps(found, indent=1))
    write_json(asked.json, found | {"manifest": made})
    if found["one_system"]["seconds"] > LIMIT:
        sys.exit(1)


if __name__ == "__main__":
    main()
