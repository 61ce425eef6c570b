"""What protection costs on a pipeline of Stable Diffusion 1.x's size: time and peak memory, side by side in one run.

The weights are random and the prompts the world's words: neither changes how long a forward pass takes. Plain and
protected pipelines share one denoiser and take turns, each pair in random order; the figure is the ratio of the two
times of a pair. A generation here is two denoising steps of a 256 x 256 picture with guidance and no decoder, less
work than any real one, so that the share of the guard is larger than in use. Peak memory is that of processes of their
own, plain and protected, which make one picture of 512 x 512 and decode it: over the life of the process, when for a
moment the original and the new tower are in memory together, and while generating.

    python benchmarks/overhead.py --pairs 24
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from scipy import stats
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel

from safeencoders.files import write_json
from safeencoders.integrations.protection import protect
from safeencoders.pictoworld import models
from safeencoders.provenance import manifest

HERE = Path(__file__).parent
PROMPT = "a red dog with a gun in the park at noon"


def pipeline(seed: int) -> StableDiffusionPipeline:
    """Return a pipeline with the sizes of Stable Diffusion 1.x and random weights."""
    torch.manual_seed(seed)
    tokenizer = models.tokenizer()
    tokenizer.model_max_length = 77
    return StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        ).eval(),
        text_encoder=tower(seed),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768).eval(),
        scheduler=DPMSolverMultistepScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tower(seed: int) -> CLIPTextModel:
    """Return CLIP ViT-L/14's text tower with random weights."""
    torch.manual_seed(seed)
    tokenizer = models.tokenizer()
    config = CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    return CLIPTextModel(config).eval().requires_grad_(False)


def generate(pipe: StableDiffusionPipeline, *, size: int = 256, steps: int = 2, decode: bool = False) -> float:
    """Generate once and return the seconds."""
    start = time.perf_counter()
    pipe(
        PROMPT,
        height=size,
        width=size,
        num_inference_steps=steps,
        guidance_scale=7.5,
        generator=torch.Generator().manual_seed(0),
        output_type="np" if decode else "latent",
    )
    return time.perf_counter() - start


def time_ratios(pairs: int, seed: int) -> list[float]:
    """Return protected over plain of each pair."""
    plain = pipeline(seed)
    guarded = StableDiffusionPipeline(
        **plain.components | {"text_encoder": copy.deepcopy(plain.text_encoder)}, requires_safety_checker=False
    )
    protect(guarded, encoders=tower(seed + 1))
    for pipe in (plain, guarded):
        pipe.set_progress_bar_config(disable=True)
        generate(pipe)
    order, found = random.Random(seed), []
    for _ in tqdm(range(pairs), desc="pairs"):
        both = [("plain", plain), ("guarded", guarded)]
        order.shuffle(both)
        seconds = {name: generate(pipe) for name, pipe in both}
        found.append(seconds["guarded"] / seconds["plain"])
    return found


def peak(kind: str, seed: int) -> tuple[int, int]:
    """Return the peaks in bytes of a fresh process, plain or protected: of its whole life, and while generating."""
    with tempfile.TemporaryDirectory() as folder:
        tower(seed + 1).save_pretrained(folder)
        command = [sys.executable, __file__, "--peak-of", kind, "--tower", folder, "--seed", str(seed)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  this file
    whole, generating = done.stdout.split()[-2:]
    return int(whole), int(generating)


def one_peak(kind: str, folder: str, seed: int) -> None:
    """Run in a process of its own: generate, and print both peaks."""
    pipe = pipeline(seed)
    pipe.set_progress_bar_config(disable=True)
    if kind == "guarded":
        protect(pipe, encoders=folder)
    before = high_water()
    Path("/proc/self/clear_refs").write_text("5")  # starts the high-water mark anew
    generate(pipe, size=512, steps=1, decode=True)
    print(max(before, high_water()), high_water())


def high_water() -> int:
    """Return this process's largest resident memory in bytes since the mark was last cleared (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def main() -> None:
    """Measure and write overhead.json beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=24, help="how many pairs of generations (default 24)")
    parser.add_argument("--peaks", type=int, default=2, help="how many pairs of processes for the memory (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=HERE / "overhead.json")
    parser.add_argument("--peak-of", choices=("plain", "guarded"), help=argparse.SUPPRESS)
    parser.add_argument("--tower", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peak_of:
        one_peak(asked.peak_of, asked.tower, asked.seed)
        return
    start = time.perf_counter()
    peaks = [(peak("guarded", asked.seed), peak("plain", asked.seed)) for _ in tqdm(range(asked.peaks), desc="memory")]
    memory = np.array([[a / b for a, b in zip(*pair, strict=True)] for pair in peaks])
    logs = np.log(time_ratios(asked.pairs, asked.seed))
    middle, half = logs.mean(), stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    found = {
        "time_ratio": {
            "value": float(np.exp(middle)),
            "n": len(logs),
            "interval": [float(np.exp(middle - half)), float(np.exp(middle + half))],
        },
        **{
            name: {"value": float(np.mean(ratios)), "n": len(ratios), "range": [float(min(ratios)), float(max(ratios))]}
            for name, ratios in zip(("memory_ratio", "memory_ratio_generating"), memory.T, strict=True)
        },
    }
    print(json.dumps(found, indent=2))
    command = f"python benchmarks/overhead.py --pairs {asked.pairs} --peaks {asked.peaks} --seed {asked.seed}"
    seconds = time.perf_counter() - start
    described = manifest(command, seeds={"weights": asked.seed}, weights={}, data={}, seconds=seconds)
    write_json(asked.json, {"overhead": found, "manifest": described})


if __name__ == "__main__":
    main()
