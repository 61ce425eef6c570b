"""Why look-alikes of unseen types are redirected: which states decide, and what the original tower could tell.

    python benchmarks/lookalikes.py --out benchmarks/lookalikes.json

1. Pictures of the test split's look-alikes where some tokens' states are the original tower's and the others the tuned
   one's, from the same noise: a look-alike is redirected when the original draws it and the mixture does not.
2. A small network (64 hidden units) learns to tell unsafe captions from safe ones and look-alikes of the seen types,
   from one state of the ORIGINAL tower: that of a phrase's last token, or of the end token, after each layer. What it
   then calls unsafe on test: look-alikes of unseen types, and the wordings and concepts that redirection never sees.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from safeencoders.evaluation.drawing import draw, text_tower
from safeencoders.evaluation.world_data import digest
from safeencoders.files import write_json
from safeencoders.fingerprint import fingerprint
from safeencoders.loading import load
from safeencoders.metrics import mean_rate
from safeencoders.pictoworld import lexicon, models, tokenizer
from safeencoders.pictoworld.lexicon import LOOKALIKES
from safeencoders.pictoworld.scenes import Benign, Quad, benigns, lookalike_types, make_benign, quads, scenes
from safeencoders.provenance import manifest

SEEDS = (0, 1, 2)
LEARNT_QUADS, LEARNT_EACH, ASKED = 6000, 400, 400
Phrases = list[tuple[str, str]]
"""A caption, and what its unsafe or look-alike phrase is, or an attribute of a safe one."""


def mixing(original: nn.Module, keep: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """Return a forward hook: the original's states where ``keep`` says so, of token ids (n, L), bool (n, L)."""

    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Any) -> Any:  # noqa: ANN401  a model's output
        states = original(args[0]).last_hidden_state
        output.last_hidden_state = torch.where(keep(args[0])[..., None], states, output.last_hidden_state)
        return output

    return hook


def mixtures() -> dict[str, Callable[[Tensor], Tensor]]:
    """Return, by name, which tokens take the original's states."""
    words = models.tokenizer()
    end = words.eos_token_id
    listed = torch.tensor(words(sorted(lexicon.word_list()), add_special_tokens=False).input_ids).flatten()

    def from_end(ids: Tensor) -> Tensor:
        return (ids == end).cumsum(1) > 0

    def behind_listed(ids: Tensor) -> Tensor:
        return torch.isin(ids, listed).flip(1).cumsum(1).flip(1) == 0

    return {
        "tuned": lambda ids: torch.zeros_like(ids, dtype=torch.bool),
        "original: end and padding": from_end,
        "original: words": lambda ids: ~from_end(ids),
        "original: all behind the last listed word": behind_listed,
    }


def states_that_decide(tuned: Any, original: Any, asked: Sequence[Benign]) -> dict[str, Any]:  # noqa: ANN401  towers
    """Return the shares redirected, by mixture and kind of look-alike."""
    pipe, judge = models.pipeline(), models.judge()
    types = np.array([str(benign.picture.lookalike) for benign in asked])
    seen = np.isin(types, lookalike_types("train"))
    overlay = np.array([LOOKALIKES[name].overlay for name in types])

    def drawn(tower: nn.Module) -> np.ndarray:
        with text_tower(pipe, tower):
            found = judge.look(draw(pipe, [benign.text for benign in asked], 0))
        return np.array([finding.lookalike for finding in found]) == types

    before, rows = drawn(original), {}
    for name, keep in mixtures().items():
        handle = tuned.register_forward_hook(mixing(original, keep))
        redirected = before & ~drawn(tuned)
        handle.remove()
        rows[name] = {
            f"{'seen' if known else 'unseen'}, {'overlay' if apart else 'held'}": mean_rate(
                redirected[(seen == known) & (overlay == apart)]
            )
            for known in (True, False)
            for apart in (False, True)
        } | {"seen": mean_rate(redirected[seen]), "unseen": mean_rate(redirected[~seen])}
        print(f"{name}:", ", ".join(f"{key} {100 * rate['value']:.0f}" for key, rate in rows[name].items()), flush=True)
    return rows


def _unsafe(asked: Sequence[Quad]) -> Phrases:
    def phrase(quad: Quad) -> str:
        banks = (*quad.concept.phrases.values(), *quad.concept.implicit.values())
        return max((words for bank in banks for words in bank if words in quad.unsafe_text), key=len)

    return [(quad.unsafe_text, phrase(quad)) for quad in asked]


def _safe(asked: Sequence[Quad]) -> Phrases:
    return [(q.safe_text, q.safe.scene.object if i % 2 else q.safe.scene.place) for i, q in enumerate(asked)]


def _benign(asked: Sequence[Benign]) -> Phrases:
    def phrase(benign: Benign) -> str:
        return next(words for words in LOOKALIKES[str(benign.picture.lookalike)].phrases if words in benign.text)

    return [(benign.text, phrase(benign)) for benign in asked]


@torch.no_grad()
def states(tower: Any, asked: Phrases) -> dict[str, Tensor]:  # noqa: ANN401  a text tower
    """Return, by place and layer, the states (n, width) of the phrase's last token and of the end token."""
    words = models.tokenizer()
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(asked), 500):
        part = asked[start : start + 500]
        ids = tokenizer.encode(words, [text for text, _ in part])
        output, rows = tower(ids, output_hidden_states=True), torch.arange(len(part))
        last = torch.tensor([len(words(text[: text.index(said) + len(said)]).input_ids) - 2 for text, said in part])
        ends = (ids == words.eos_token_id).int().argmax(1)
        for layer, hidden in enumerate((*output.hidden_states[1:-1], output.last_hidden_state), start=1):
            parts.setdefault(f"phrase, layer {layer}", []).append(hidden[rows, last])
            parts.setdefault(f"end, layer {layer}", []).append(hidden[rows, ends])
    return {name: torch.cat(found) for name, found in parts.items()}


def probe(unsafe: Tensor, safe: Tensor, benign: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    """Learn from states (n, width) each, unsafe against the others with equal weight; return logits of unsafe."""
    torch.manual_seed(seed)
    rows = torch.cat([unsafe, safe, benign])
    target = torch.cat([torch.ones(len(unsafe)), torch.zeros(len(safe) + len(benign))])
    shares = zip((unsafe, safe, benign), (0.5, 0.25, 0.25), strict=True)
    weight = torch.cat([torch.full((len(part),), share * len(rows) / len(part)) for part, share in shares])
    mean, deviation = rows.mean(0), rows.std(0)
    net = nn.Sequential(nn.Linear(rows.shape[1], 64), nn.GELU(), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.01)
    for _ in range(400):
        batch = torch.randint(len(rows), (512,))
        logits = net((rows[batch] - mean) / deviation).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, target[batch], weight[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return lambda found: net((found - mean) / deviation).squeeze(1).detach()


def what_the_original_tells(original: Any) -> dict[str, Any]:  # noqa: ANN401  a text tower
    """Return, by place and layer, the mean over seeds of the shares that a probe calls unsafe."""
    rng, pool = Random("probe"), scenes("train")
    train = quads("train", LEARNT_QUADS, 1)
    seen = [
        make_benign(rng.choice(pool), "train", name, rng)
        for name in lookalike_types("train")
        for _ in range(LEARNT_EACH)
    ]
    unseen = [b for b in benigns("test", ASKED, 0) if b.picture.lookalike not in lookalike_types("train")]
    held = {kind: quads("test", ASKED, 0, kind) for kind in ("plain", "synonym", "implicit", "concept")}
    learnt = [states(original, part) for part in (_unsafe(train), _safe(train), _benign(seen))]
    overlay = torch.tensor([LOOKALIKES[str(b.picture.lookalike)].overlay for b in unseen])
    asked = {"unseen look-alikes": states(original, _benign(unseen))}
    asked |= {kind: states(original, _unsafe(part)) for kind, part in held.items()}
    rows: dict[str, Any] = {}
    for place in learnt[0]:
        runs = []
        for seed in SEEDS:
            tell = probe(*(part[place] for part in learnt), seed)
            called = {name: tell(found[place]) > 0 for name, found in asked.items()}
            benign = called["unseen look-alikes"]
            shares = {name: float(found.float().mean()) for name, found in called.items()}
            split = {"held": benign[~overlay], "overlay": benign[overlay]}
            runs.append(shares | {f"unseen, {name}": float(part.float().mean()) for name, part in split.items()})
        rows[place] = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
        print(f"{place}:", ", ".join(f"{name} {100 * share:.0f}" for name, share in rows[place].items()), flush=True)
    return rows


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="pictoworld")
    parser.add_argument("--n", type=int, default=250, help="look-alikes that are drawn")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    tuned, original = load(asked.encoder), load("none")
    drawn = benigns("test", asked.n, 0)
    with torch.no_grad():
        decide = states_that_decide(tuned, original, drawn)
    tell = what_the_original_tells(original)
    said = manifest(
        ["python", *sys.argv],
        seeds={"world": 0, "noise": 0, "probes": list(SEEDS)},
        weights={asked.encoder: fingerprint(tuned), "none": fingerprint(original)},
        data={"look-alikes": digest([benign.text for benign in drawn])},
        seconds=time.monotonic() - start,
    )
    write_json(asked.out, {"encoder": asked.encoder, "states": decide, "probes": tell, "manifest": said})


if __name__ == "__main__":
    main()
