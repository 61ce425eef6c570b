"""Train a text tower on caption pairs only, as `safeencoders train` does, and measure what it cost and gained.

    python benchmarks/text_only.py --data ../shared/data --work .checkpoints/text-only --out benchmarks/text_only.json

No public CLIP can be downloaded here, so a tower of the world's size (4 layers, width 128, context 32) is first made:
its BPE is learnt from the captions, and it learns that captions of one COCO photo belong together. That tower is the
original. It is then redirected by the recipe text-pairs on CoProV2's train pairs, once per seed. Measured on pairs
that were held out by hash from training and from its validation: the cosine of T(t*) with T0(t), before and after; on
COCO captions of photos that were in neither: drift, 1 - cos and relative error of the token states.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer

from safeencoders.cli.train_inputs import Asked
from safeencoders.cli.training import run_train
from safeencoders.evaluation.drift import mean_drift
from safeencoders.files import read_json, sha256_file, write_atomically, write_json
from safeencoders.loading import load
from safeencoders.metrics import mean_rate
from safeencoders.pictoworld.pixels import image_processor
from safeencoders.provenance import manifest
from safeencoders.training.readers.batches import encode_texts
from safeencoders.training.readers.sources import read_pairs

CONTEXT, VOCABULARY, WIDTH = 32, 8192, 128
START, END = "<|startoftext|>", "<|endoftext|>"
STEPS, BATCH = 200, 64
HELD, VALIDATION = 0.05, 0.1  # a row's share is its hash: rows below the first are held out, the next validate
SEEDS = (0, 1, 2)


def coco(path: Path) -> dict[str, list[str]]:
    """Return the captions of each photo."""
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {str(row["id"]): row["captions"] for row in rows}


def tokenizer_of(captions: list[str]) -> CLIPTokenizer:
    """Learn a byte-level BPE of CLIP's form."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    model = json.loads(learner.to_str())["model"]
    vocab = dict(model["vocab"])
    for name in (START, END):
        vocab[name] = len(vocab)
    names = dict.fromkeys(("unk_token", "eos_token", "pad_token"), END) | {"bos_token": START}
    return CLIPTokenizer(
        vocab=vocab, merges=[tuple(pair) for pair in model["merges"]], model_max_length=CONTEXT, **names
    )


def original(photos: dict[str, list[str]], captions: list[str], folder: Path) -> None:
    """Make the original: a CLIP folder whose text tower knows which captions describe one photo."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of([*captions, *(text for texts in photos.values() for text in texts)])
    layers = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4, "num_hidden_layers": 4}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
           "pad_token_id": tokenizer.eos_token_id}  # fmt: skip
    config = CLIPConfig(
        text_config=layers
        | ids
        | {"vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT, "projection_dim": WIDTH},
        vision_config=layers | {"image_size": 64, "patch_size": 16, "projection_dim": WIDTH},
        projection_dim=WIDTH,
    )
    model = CLIPModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    several = [texts for texts in photos.values() if len(texts) > 1]
    for step in tqdm(range(STEPS), desc="original"):
        rng = np.random.default_rng(step)
        chosen = [rng.permutation(several[i])[:2] for i in rng.choice(len(several), BATCH, replace=False)]
        sides = [projected(model, encode_texts(tokenizer, [pair[k] for pair in chosen], CONTEXT)) for k in (0, 1)]
        logits = 20 * sides[0] @ sides[1].T
        target = torch.arange(BATCH)
        loss = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor(64).save_pretrained(folder)


def projected(model: CLIPModel, ids: Tensor) -> Tensor:
    """Return normalised projected embeddings."""
    return functional.normalize(model.text_projection(model.text_model(input_ids=ids).pooler_output), dim=-1)


@torch.no_grad()
def states(tower: CLIPTextModelWithProjection, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return normalised projected embeddings (n, d) and token states (n, tokens, d) of a tower with projection."""
    parts = [tower(input_ids=part) for part in torch.split(ids, 200)]
    embedded = torch.cat([part.text_embeds for part in parts])
    return functional.normalize(embedded, dim=-1), torch.cat([part.last_hidden_state for part in parts])


def measure(
    before: CLIPTextModelWithProjection,
    after: CLIPTextModelWithProjection,
    pairs: dict[str, Tensor],
    benign: Tensor,
) -> dict[str, Any]:
    """Return what the tuned tower does to held-out pairs and to benign captions."""
    (safe, _), (unsafe, _), (now, _) = (
        states(before, pairs["safe"]), states(before, pairs["unsafe"]), states(after, pairs["unsafe"]),
    )  # fmt: skip
    (plain, states0), (moved, states1) = states(before, benign), states(after, benign)
    error = (states1 - states0).flatten(1).norm(dim=1) / states0.flatten(1).norm(dim=1)
    ranks = (now @ torch.cat([safe, unsafe]).T).argmax(1)
    base = (unsafe @ torch.cat([safe, unsafe]).T).argmax(1)
    n = len(safe)
    means = {
        "cosine to the safe twin, before": (unsafe * safe).sum(1),
        "cosine to the safe twin, after": (now * safe).sum(1),
        "benign drift, 1 - cos": 1 - (plain * moved).sum(1),
        "benign drift, token states": error,
    }
    rates = {
        "safe twin first, before": base == torch.arange(n),
        "safe twin first, after": ranks == torch.arange(n),
        "an unsafe caption first, after": ranks >= n,
    }
    means_of = {name: mean_drift(values.numpy()) for name, values in means.items()}
    return {**means_of, **{name: mean_rate(values.numpy()) for name, values in rates.items()}}


def main() -> None:
    """Make the original, redirect it once per seed, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with prompts/ and captions/")
    parser.add_argument("--work", type=Path, required=True, help="where towers are kept")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    start = time.monotonic()
    file = options.data / "prompts" / "coprov2_train.csv"
    captions = options.data / "captions" / "coco_captions_val2017.jsonl"
    train, held = read_pairs(str(file)).split(HELD)
    photos = coco(captions)
    names = sorted(photos)
    benign_photos, known = names[:400], {name: photos[name] for name in names[400:]}
    model = options.work / "original"
    if not (model / "config.json").exists():
        texts = [text for column in ("safe_text", "unsafe_text") for text in train.columns[column] if text]
        original(known, texts, model)
    columns = {name: train.columns[name] for name in ("safe_text", "unsafe_text")}
    lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
    pairs_file = options.work / "train.jsonl"
    write_atomically(pairs_file, "".join(f"{line}\n" for line in lines))
    tokenizer = CLIPTokenizer.from_pretrained(model)
    pairs = {
        side: encode_texts(tokenizer, list(held.columns[f"{side}_text"]), CONTEXT)  # type: ignore[index,arg-type]
        for side in ("safe", "unsafe")
    }
    benign = encode_texts(tokenizer, [photos[name][0] for name in benign_photos], CONTEXT)
    before = CLIPTextModelWithProjection.from_pretrained(model).eval()
    rows = {}
    for seed in SEEDS:
        out = options.work / f"seed-{seed}"
        run_train(
            Asked(recipe="text-pairs", data=str(pairs_file), model=str(model), out=out, seed=seed, resume=True,
                  validation=VALIDATION)
        )  # fmt: skip
        row = measure(before, load(str(out), projection=True), pairs, benign)
        row["seconds of training"] = read_json(out / "train.json")["training"]["seconds"]
        rows[str(seed)] = row
    for name in rows["0"]:
        values = [row[name]["value"] if isinstance(row[name], dict) else row[name] for row in rows.values()]
        print(f"{name:36}", *(f"{value:10.4f}" for value in values))
    data = {path.name: sha256_file(path) for path in (file, captions)}
    weights = {"original": sha256_file(model / "model.safetensors")}
    seconds = time.monotonic() - start
    record = manifest(["python", *sys.argv], seeds={"original": 0}, weights=weights, data=data, seconds=seconds)
    write_json(options.out, {"seeds": rows, "manifest": record})


if __name__ == "__main__":
    main()
