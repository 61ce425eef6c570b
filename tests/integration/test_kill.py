"""Killed with SIGKILL at random moments and started again, a training ends in the bits of one that was left alone.

Run as a script, this file trains: ``test_kill.py FOLDER VARIANT KILLS SEED``. Every attempt is a process of its own;
the report says what became of it.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

STEPS = 24
VARIANTS = {
    "plain": {"edit": {"kind": "full"}, "towers": "text", "schedule": {}},
    "everything": {
        "edit": {"kind": "lora", "rank": 4, "alpha": 8.0, "dropout": 0.1},
        "towers": "both",
        "schedule": {"ema": 0.9, "validate_every": 4, "patience": 3},
    },
}


# --- the script -----------------------------------------------------------------------------------------------------


def tiny_clip(tokenizer):
    import torch
    from transformers import CLIPConfig, CLIPModel

    from safeencoders.training.world import clip

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    whole = clip.config(tokenizer).to_dict()
    parts = {name: whole[name] | small | {"projection_dim": 8} for name in ("text_config", "vision_config")}
    return CLIPModel(CLIPConfig(**parts, projection_dim=8)).eval()


def train(clip, tokenizer, folder, variant):
    """Train until the end, with a checkpoint at every step; say where it began and what came out."""
    from safeencoders.files import write_json
    from safeencoders.fingerprint import fingerprint
    from safeencoders.training import recipe
    from safeencoders.training.readers.pictoworld import PictoworldReader
    from safeencoders.training.run import prepare

    chosen = VARIANTS[variant]
    schedule = {"steps": STEPS, "batch": 4, "learning_rate": 1e-3, "warmup": 4, "seed": 3} | chosen["schedule"]
    values = {"about": "x", "objective": "pictoworld", "edit": chosen["edit"], "towers": chosen["towers"]}
    made = recipe.from_values(values | {"schedule": schedule}, variant)
    reader = PictoworldReader(tokenizer, 4, 3)
    rows = reader.batch(1_000_000) if schedule.get("validate_every") else None
    fit = prepare(
        clip,
        made,
        reader,
        folder / "run.safetensors",
        rows=rows,
        micro_batch=2 if rows else 0,
        identity={"run": variant},
    )
    (folder / "began").write_text(str(fit.resumed_from_step))
    fit.run(variant, every=0.0)
    last = fingerprint(fit.task.module)
    fit.finish()
    result = {"last": last, "best": fingerprint(fit.task.module), "steps": fit.step, "curve": fit.curve}
    write_json(folder / "result.json", result | {"validations": fit.validations, "best_step": fit.best_step})


def attempt(start, folder, wait):
    """Train in a process that is killed some seconds after it began to; return where it began, if it did not end."""
    began = folder / "began"
    began.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        try:
            train(*start, folder, sys.argv[2])
        except BaseException as error:  # noqa: BLE001  a child must not go on as its parent
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    while not began.exists() and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.002)
    end = time.monotonic() + wait
    while time.monotonic() < end and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.001)
    if wait < float("inf"):
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("the training failed")
    return int(began.read_text() or 0) if os.WIFSIGNALED(status) else None


def main():
    """Train once in peace to know how long it takes, then as often as it takes to be killed so many times."""
    import torch

    from safeencoders.pictoworld import scenes
    from safeencoders.pictoworld import tokenizer as world_tokenizer

    torch.set_num_threads(1)
    folder, kills, draw = Path(sys.argv[1]), int(sys.argv[3]), random.Random(int(sys.argv[4]))
    tokenizer = world_tokenizer.build(list(scenes.words()))
    start = tiny_clip(tokenizer), tokenizer
    peace = folder / "peace"
    peace.mkdir()
    begin = time.monotonic()
    attempt(start, peace, float("inf"))
    length, begun, results, left = time.monotonic() - begin, [], [json.loads((peace / "result.json").read_text())], []
    while len(begun) < kills:
        place = folder / f"killed{len(results)}"
        place.mkdir()
        while not (place / "result.json").exists():
            wait = draw.uniform(0, length / 5) if len(begun) < kills else float("inf")
            found = attempt(start, place, wait)
            begun += [found] if found is not None else []
        results.append(json.loads((place / "result.json").read_text()))
        left += sorted(path.name for path in place.iterdir())
    (folder / "report.json").write_text(json.dumps({"results": results, "begun": begun, "left": left}))


# --- the tests ------------------------------------------------------------------------------------------------------


def report(folder, variant, kills, seed):
    folder.mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": str(seed)}
    done = subprocess.run(
        [sys.executable, __file__, str(folder), variant, str(kills), str(seed)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_that_is_killed_and_goes_on_ends_in_the_bits_of_one_that_is_not(tmp_path, variant, kills):
    alone = report(tmp_path / "alone", variant, 0, 0)["results"][0]
    found = report(tmp_path / "killed", variant, kills, 1)  # another order of sets, as in every new process
    assert len(found["begun"]) >= kills
    assert max(found["begun"]) > 0
    assert len(found["results"]) >= 2
    for result in found["results"]:
        assert result == alone
    assert set(found["left"]) == {"run.safetensors", "began", "result.json"}
    if variant == "everything":
        assert len(alone["validations"]) >= 3
        assert alone["best_step"] in [step for step, _ in alone["validations"]]


def test_another_seed_would_be_seen(tmp_path, monkeypatch):
    """The twin: fingerprints of trainings that differ differ."""
    from safeencoders.pictoworld import scenes
    from safeencoders.pictoworld import tokenizer as world_tokenizer
    from safeencoders.training import recipe

    tokenizer, found, whole = world_tokenizer.build(list(scenes.words())), [], recipe.from_values
    for seed in (3, 4):

        def reseeded(values, name, seed=seed):
            made = whole(values, name)
            return replace(made, schedule=replace(made.schedule, seed=seed, steps=2))

        monkeypatch.setattr(recipe, "from_values", reseeded)
        (tmp_path / str(seed)).mkdir()
        train(tiny_clip(tokenizer), tokenizer, tmp_path / str(seed), "everything")
        found.append(json.loads((tmp_path / str(seed) / "result.json").read_text())["last"])
    assert found[0] != found[1]


if __name__ == "__main__":
    main()
