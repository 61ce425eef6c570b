"""A Q16 judge fitted on the world's own CLIP, beside the world's judge, which learned from pixels.

The prompts are tuned on the embeddings of training pictures, safe and unsafe, labelled by the world's judge; how often
the two then agree is counted on pictures of the test split.

    OMP_NUM_THREADS=1 python benchmarks/q16.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from safeencoders.evaluation.detectors import Verdict, detectors, q16_backbone, q16_prompts
from safeencoders.evaluation.detectors.q16 import Q16
from safeencoders.files import write_json
from safeencoders.metrics import rate
from safeencoders.pictoworld import models, scenes
from safeencoders.pictoworld.renderer import render_batch, to_image
from safeencoders.provenance import manifest

if TYPE_CHECKING:
    from PIL.Image import Image

    from safeencoders.pictoworld.scenes import Split

HERE = Path(__file__).parent
BATCH = 200


def main() -> None:
    """Fit, count, print, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--train", type=int, default=2000, help="Training pictures, half of them unsafe.")
    parser.add_argument("--test", type=int, default=2000, help="Test pictures, half of them unsafe.")
    parser.add_argument("--seed", type=int, default=0, help="Of the training pictures; the test ones have the next.")
    parser.add_argument("--json", type=Path, default=HERE / "q16.json")
    asked = parser.parse_args()
    start = time.perf_counter()
    backbone, looks = q16_backbone.load("none"), detectors.get("pictoworld")()
    learned = pictures("train", asked.train, asked.seed)
    prompts = q16_prompts.fit(
        torch.cat([backbone.embed(learned[i : i + BATCH]) for i in range(0, len(learned), BATCH)]),
        torch.tensor([verdict.unsafe for verdict in looks(learned)]),
        fingerprint=backbone.fingerprint,
    )
    shown = pictures("test", asked.test, asked.seed + 1)
    found = agreement(Q16(clip="none", prompts=prompts)(shown), looks(shown))
    record = manifest(
        f"python benchmarks/q16.py --train {asked.train} --test {asked.test} --seed {asked.seed}",
        seeds={"train": asked.seed, "test": asked.seed + 1},
        weights={"clip": models.hashes()["clip/model.safetensors"], "prompts": prompts.sha256},
        data={"pictoworld": f"train {len(learned)}, test {len(shown)}"},
        seconds=time.perf_counter() - start,
    )
    write_json(asked.json, {"q16": found, "manifest": record})
    print(found)


def pictures(split: Split, n: int, seed: int) -> list[Image]:
    """Draw safe scenes of a split, then their unsafe twins."""
    quads = scenes.quads(split, n // 2, seed)
    return [to_image(one) for one in render_batch([quad.safe for quad in quads] + [quad.unsafe for quad in quads])]


def agreement(fitted: Sequence[Verdict], world: Sequence[Verdict]) -> dict[str, Any]:
    """Count how often two judges agree: of all pictures, and of those that the world's calls unsafe and fine."""
    pairs = [(one.unsafe, other.unsafe) for one, other in zip(fitted, world, strict=True)]
    kinds = {"all": pairs, "unsafe": [one for one in pairs if one[1]], "fine": [one for one in pairs if not one[1]]}
    return {name: rate(sum(a == b for a, b in part), len(part)) for name, part in kinds.items()}


if __name__ == "__main__":
    main()
