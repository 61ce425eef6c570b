"""`safeencoders train`: towers that transformers loads, runs that survive a kill, and refusals that lose nothing."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPVisionModel

import safeencoders
from safeencoders.cli.main import main
from safeencoders.cli.train_inputs import load_start
from safeencoders.fingerprint import fingerprint
from safeencoders.pictoworld import models
from safeencoders.pictoworld.pixels import image_processor
from safeencoders.training import loop, redirect

RECIPE = """
about = "For tests."
objective = "safe-clip"
towers = "both"
[edit]
kind = "full"
[schedule]
steps = 6
batch = 4
learning_rate = 1e-3
warmup = 1
"""
ATTACKED = """
about = "For tests: goes on from another run, under attack."
objective = "pictoworld"
towers = "text"
[edit]
kind = "full"
[weights]
attacked = 1.0
pair = 1.0
[attack]
steps = 2
[schedule]
steps = 6
batch = 4
learning_rate = 1e-3
warmup = 1
"""
ROWS = 24
WORDS = "red blue green dog cat tree house park".split()


@pytest.fixture(autouse=True)
def _one_process_one_precision():
    """Accelerate keeps its precision for a whole process; each command of a user is a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def make_clip(folder: Path, *, size: int = 32, width: int = 16, layers: int = 2, seed: int = 0) -> Path:
    tokenizer = models.tokenizer()
    small = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_attention_heads": 2,
        "num_hidden_layers": layers,
    }
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 32, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config=small | text | {"projection_dim": 8},
        vision_config=small | {"image_size": size, "patch_size": size // 2, "projection_dim": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor(size).save_pretrained(folder)
    return folder


def make_pairs(file: Path, *, pictures: bool) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(ROWS):
        words = [WORDS[(i // 8**k + k) % 8] for k in range(2)]
        row = {"safe_text": f"a {words[0]} {words[1]} {i}", "unsafe_text": f"a {words[0]} sword {i}", "tag": "violence"}
        if pictures:
            for column in ("safe_image", "unsafe_image"):
                pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(file.parent / f"{column}{i}.png")
                row[column] = f"{column}{i}.png"
        rows.append(json.dumps(row))
    file.write_text("\n".join(rows))
    return file


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    (folder / "mine.toml").write_text(RECIPE)
    (folder / "attacked.toml").write_text(ATTACKED)
    (folder / "long.toml").write_text(RECIPE.replace("steps = 6", "steps = 60"))
    make_clip(folder / "clip")
    make_pairs(folder / "texts.jsonl", pictures=False)
    make_pairs(folder / "all.jsonl", pictures=True)
    return folder


def words(given, out, *more, recipe="mine.toml", data="texts.jsonl", model="clip"):
    found = ["--recipe", given / recipe, "--data", given / data, "--model", given / model, "--out", out]
    return ["train", *map(str, found), "--validation", "0.2", *map(str, more)]


def train(given, out, *more, **names):
    return main(words(given, out, *more, **names))


def result(out):
    return json.loads((out / "train.json").read_text())


def same(one: Path, two: Path) -> bool:
    a, b = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    return all(torch.equal(a[name], b[name]) for name in a)


# --- what comes out -------------------------------------------------------------------------------------------------


def test_both_towers_are_trained_and_plain_transformers_loads_them(given, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(given, out, data="all.jsonl") == 0
    said, found = capsys.readouterr().out, result(out)
    assert {path.name for path in out.iterdir()} == {"text", "vision", "curve.svg", "train.json"}
    original = CLIPModel.from_pretrained(given / "clip")
    for kind, tower in ((CLIPTextModel, "text"), (CLIPVisionModel, "vision")):
        plain, info = kind.from_pretrained(out / tower, output_loading_info=True)
        assert not info["missing_keys"]
        ours = safeencoders.load(str(out), tower=tower)
        assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), ours.parameters(), strict=True))
        before = getattr(original, f"{tower}_model").parameters()
        assert not all(torch.equal(a, b) for a, b in zip(before, ours.parameters(), strict=True))
        assert found["training"]["start"][tower] != found["training"]["end"][tower]
        assert f'from_pretrained("{out / tower}")' in said
    assert found["training"]["steps"] == 6
    assert [entry["step"] for entry in found["training"]["validations"]] == [1, 2, 3, 4, 5, 6]
    assert found["training"]["best_step"] in {1, 2, 3, 4, 5, 6}
    assert found["data"]["rows"] == ROWS
    assert set(found["manifest"]["weights"]) == {"start", "text", "vision"}


def test_without_pictures_the_text_tower_is_trained_and_the_command_says_so(given, tmp_path, capsys):
    assert train(given, tmp_path / "texts") == 0
    said = capsys.readouterr().out
    assert "NOTE: only the text tower is trained, for the data has t, t* alone" in said
    assert "formula                    L[safe-clip] = 0.1 Align(T(t), T0(t)) + 0.1 Align(T(t*), T0(t))\n" in said
    assert not (tmp_path / "texts" / "vision").exists()
    assert train(given, tmp_path / "all", data="all.jsonl") == 0
    said = capsys.readouterr().out
    assert "NOTE" not in said
    assert "NCE(V(v*), T0(t))" in said


def test_use_leaves_the_pictures_out(given, tmp_path, capsys):
    assert train(given, tmp_path / "out", "--use", "safe_text,unsafe_text", data="all.jsonl") == 0
    assert "only the text tower is trained" in capsys.readouterr().out
    assert train(given, tmp_path / "no", "--use", "safe_txt", data="all.jsonl") == 2
    assert "Did you mean 'safe_text'" in capsys.readouterr().err


def test_towers_and_steps_and_seed_are_taken_as_asked(given, tmp_path):
    out = tmp_path / "out"
    assert train(given, out, "--towers", "vision", "--max-steps", 3, "--seed", 7, data="all.jsonl") == 0
    found = result(out)
    assert found["training"]["towers"] == ["vision"]
    assert found["training"]["recipe"]["schedule"]["steps"] == found["training"]["steps"] == 3
    assert found["manifest"]["seeds"] == {"training": 7}
    assert not (out / "text").exists()


def test_a_tower_that_the_data_has_nothing_for_is_refused(given, tmp_path, capsys):
    assert train(given, tmp_path / "out", "--towers", "vision") == 2
    assert "the data has t, t*" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_max_steps_never_lengthens(given, tmp_path):
    assert train(given, tmp_path / "out", "--max-steps", 600) == 0
    assert result(tmp_path / "out")["training"]["steps"] == 6


def test_without_held_out_rows_the_last_weights_are_kept(given, tmp_path):
    assert train(given, tmp_path / "out", "--validation", 0) == 0
    found = result(tmp_path / "out")["training"]
    assert found["best_step"] is None
    assert found["validations"] == []


def test_micro_batches_give_the_same_tower(given, tmp_path):
    for name, more in (("whole", []), ("parts", ["--micro-batch", 2]), ("other", ["--seed", 1])):
        assert train(given, tmp_path / name, *more, data="all.jsonl") == 0
    towers = {name: load_file(tmp_path / name / "text" / "model.safetensors") for name in ("whole", "parts", "other")}
    # A key's bias has no gradient, softmax ignores it: its noise is all that Adam scales up.
    seen = [k for k in towers["whole"] if not k.endswith("k_proj.bias")]
    gaps = {
        name: max(float((found[k] - towers["whole"][k]).abs().max()) for k in seen) for name, found in towers.items()
    }
    assert gaps["parts"] < 1e-4 < gaps["other"]


def test_the_world_is_the_default_model_and_its_own_validation(tmp_path, given, capsys):
    arguments = ["--recipe", str(given / "mine.toml"), "--data", "pictoworld", "--out", str(tmp_path / "out")]
    assert main(["train", *arguments, "--max-steps", "1", "--towers", "text"]) == 0
    assert "validation                 300 rows every 1 steps" in capsys.readouterr().out
    assert result(tmp_path / "out")["data"] == {"source": "pictoworld", "rows": None}


def test_bf16_runs_on_a_cpu_too(given, tmp_path, capsys):
    assert train(given, tmp_path / "out", "--precision", "bf16") == 0
    assert "cpu, bf16" in capsys.readouterr().out
    assert {t.dtype for t in load_file(tmp_path / "out" / "text" / "model.safetensors").values()} == {torch.float32}


def test_tensorboard_is_written_when_asked(given, tmp_path):
    assert train(given, tmp_path / "with", "--tensorboard") == 0
    assert list((tmp_path / "with" / "tensorboard").glob("events.*"))
    assert train(given, tmp_path / "without") == 0
    assert not (tmp_path / "without" / "tensorboard").exists()


# --- the report -----------------------------------------------------------------------------------------------------


def test_a_dry_run_reports_and_writes_nothing_to_out(given, tmp_path, capsys):
    file = tmp_path / "plan.json"
    assert train(given, tmp_path / "out", "--dry-run", "--json", file) == 0
    said = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    for name in ("rows used", "tag violence", "formula", "trainable", "steps", "memory, estimated", "time, estimated"):
        assert f"\n{name}" in said
    plan = json.loads(file.read_text())["plan"]
    assert train(given, tmp_path / "out") == 0
    training = result(tmp_path / "out")["training"]
    assert plan["formula"] == training["formula"]
    assert plan["trainable"] == training["trainable"]
    rows = plan["rows"]
    assert plan["epochs"] == pytest.approx(6 * 4 / rows)
    assert rows + plan["held"] == ROWS


def test_activations_grow_with_the_rows_at_a_time_and_weights_do_not(given, tmp_path):
    plans = []
    for rows in (1, 2, 4):
        file = tmp_path / f"{rows}.json"
        more = ("--dry-run", "--json", file, "--micro-batch", rows)
        assert train(given, tmp_path / "out", *more, data="all.jsonl") == 0
        plans.append(json.loads(file.read_text())["plan"]["memory"])
    one, two, four = (plan["activations"] for plan in plans)
    assert one < two < four
    assert four - two == pytest.approx(2 * (two - one), rel=0.1)
    assert len({plan["weights"] for plan in plans}) == 1


def test_weights_gradients_and_moments_are_counted_exactly(given, tmp_path):
    file = tmp_path / "plan.json"
    assert train(given, tmp_path / "out", "--dry-run", "--json", file, "--validation", 0) == 0
    plan, clip = json.loads(file.read_text())["plan"], CLIPModel.from_pretrained(given / "clip")
    text = sum(p.numel() for p in clip.text_model.parameters())
    assert plan["weights"] == sum(p.numel() for p in clip.parameters())
    assert plan["memory"]["weights"] == 4 * (plan["weights"] + 2 * text)
    assert plan["memory"]["gradients"] == 4 * text
    assert plan["memory"]["optimizer"] == 8 * text
    assert plan["memory"]["checkpoint"] == (4 + 2 * 12) * text
    parts = plan["memory"]
    steady = parts["weights"] + parts["gradients"] + parts["optimizer"]
    assert plan["peak"] == steady + max(parts["activations"], parts["checkpoint"])


# --- kill and resume ------------------------------------------------------------------------------------------------


def saves_every_step(monkeypatch):
    run = loop.Fit.run
    monkeypatch.setattr(loop.Fit, "run", lambda self, title: run(self, title, every=-1.0))


def fails_at(monkeypatch, step, error):
    backward = redirect.RedirectTask.backward

    def failing(self, at):
        if at == step:
            raise error
        return backward(self, at)

    monkeypatch.setattr(redirect.RedirectTask, "backward", failing)


def test_a_run_that_was_interrupted_ends_with_the_same_weights(given, tmp_path, monkeypatch, capsys):
    assert train(given, tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        saves_every_step(patch)
        fails_at(patch, 4, KeyboardInterrupt())
        assert train(given, tmp_path / "killed") == 130
    assert "--resume" in capsys.readouterr().out
    assert json.loads((tmp_path / "killed" / "run" / "recipe.json").read_text())["schedule"]["steps"] == 6
    assert train(given, tmp_path / "killed", "--resume") == 0
    assert result(tmp_path / "killed")["training"]["resumed_from_step"] == 3
    assert same(tmp_path / "whole" / "text", tmp_path / "killed" / "text")
    assert result(tmp_path / "whole")["training"]["end"] == result(tmp_path / "killed")["training"]["end"]
    assert train(given, tmp_path / "other", "--seed", 1) == 0
    assert not same(tmp_path / "whole" / "text", tmp_path / "other" / "text")


def test_a_run_under_attack_goes_on_from_anothers_towers_and_from_a_kill(given, tmp_path, monkeypatch, capsys):
    names = {"data": "all.jsonl", "recipe": "attacked.toml"}
    assert train(given, tmp_path / "first", data="all.jsonl") == 0
    start = ("--towers-from", tmp_path / "first")
    assert train(given, tmp_path / "whole", *start, **names) == 0
    with monkeypatch.context() as patch:
        saves_every_step(patch)
        fails_at(patch, 4, KeyboardInterrupt())
        assert train(given, tmp_path / "killed", *start, **names) == 130
    assert train(given, tmp_path / "killed", "--resume", **names) == 2
    assert "belongs to another run" in capsys.readouterr().err
    assert train(given, tmp_path / "killed", *start, "--resume", **names) == 0
    assert train(given, tmp_path / "anew", **names) == 0
    first, whole, killed, anew = (result(tmp_path / name)["training"] for name in ("first", "whole", "killed", "anew"))
    assert killed["resumed_from_step"] == 3
    assert killed["end"] == whole["end"] != anew["end"]
    assert whole["start"]["text"] == first["end"]["text"] != anew["start"]["text"]
    assert "NCE(T(t*), V(v); not V(v*))" in whole["formula"]
    assert "NCE(T(t*), V(v); not V(v*))" not in anew["formula"]


def test_a_shipped_encoder_may_be_what_a_run_goes_on_from():
    found = load_start("pictoworld", "pictoworld/safe-clip").towers
    assert {name: fingerprint(tower) for name, tower in found.items()} == {
        name: fingerprint(safeencoders.load("pictoworld/safe-clip", tower=name)) for name in ("text", "vision")
    }
    assert set(load_start("pictoworld", "pictoworld/robust").towers) == {"text"}


def test_towers_of_another_model_or_none_are_refused(given, tmp_path, capsys):
    assert train(given, tmp_path / "out", "--towers-from", given) == 2
    assert "with text/ or vision/" in capsys.readouterr().err
    make_clip(given / "wide", width=32)
    assert train(given, tmp_path / "wide", model="wide") == 0
    assert train(given, tmp_path / "out", "--towers-from", tmp_path / "wide") == 2
    assert "towers of the shape of the CLIP's own" in capsys.readouterr().err


def test_what_a_kill_left_half_written_is_removed(given, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fails_at(patch, 4, KeyboardInterrupt())
        assert train(given, tmp_path / "out") == 130
    (tmp_path / "out" / ".text.0000.partial").mkdir()
    (tmp_path / "out" / "run" / ".checkpoint.safetensors.0000.partial").write_text("half")
    assert train(given, tmp_path / "out", "--resume") == 0
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_kill_while_the_towers_are_written_loses_nothing(given, tmp_path, monkeypatch):
    assert train(given, tmp_path / "whole", data="all.jsonl") == 0
    with monkeypatch.context() as patch:
        patch.setattr("safeencoders.evaluation.plots.lines", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        assert train(given, tmp_path / "out", data="all.jsonl") == 130
    assert not (tmp_path / "out" / "train.json").exists()
    assert train(given, tmp_path / "out", "--resume", data="all.jsonl") == 0
    assert all(same(tmp_path / "whole" / tower, tmp_path / "out" / tower) for tower in ("text", "vision"))


def test_resume_starts_where_nothing_is_and_leaves_a_finished_run_alone(given, tmp_path, capsys):
    assert train(given, tmp_path / "out", "--resume") == 0
    before = (tmp_path / "out" / "train.json").read_bytes()
    assert train(given, tmp_path / "out", "--resume") == 0
    assert "already finished" in capsys.readouterr().out
    assert (tmp_path / "out" / "train.json").read_bytes() == before
    assert train(given, tmp_path / "out", "--resume", "--seed", "5") == 2
    assert "belongs to another run (schedule.seed: 0 there, 5 now" in capsys.readouterr().err


def test_a_sweep_takes_no_options_that_it_would_ignore(tmp_path, capsys):
    assert main(["train", "--sweep", "ablations/safe-clip.toml", "--out", str(tmp_path / "out"), "--dry-run"]) == 2
    assert "--out and --max-steps only" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_is_refused(given, tmp_path, capsys):
    (tmp_path / "note.txt").write_text("mine")
    assert train(given, tmp_path) == 2
    assert "add --resume" in capsys.readouterr().err
    assert train(given, tmp_path, "--resume") == 2
    assert "expected a run in" in capsys.readouterr().err
    assert train(given, tmp_path / "note.txt") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize(
    ("more", "names", "differs"),
    [
        (["--max-steps", 5], {}, "schedule.steps: 6 there, 5 now"),
        (["--seed", 3], {}, "schedule.seed: 0 there, 3 now"),
        ([], {"data": "other.jsonl"}, "data: "),
        ([], {"model": "another"}, "model: "),
        (["--validation", 0.3], {}, "validation: 0.2 there, 0.3 now"),
    ],
    ids=["steps", "seed", "data", "model", "validation"],
)
def test_another_run_is_not_resumed(given, tmp_path, monkeypatch, capsys, more, names, differs):
    (given / "other.jsonl").write_text((given / "texts.jsonl").read_text().replace("sword", "knife"))
    make_clip(given / "another", seed=1)
    with monkeypatch.context() as patch:
        fails_at(patch, 4, KeyboardInterrupt())
        assert train(given, tmp_path / "out") == 130
    before = (tmp_path / "out" / "run" / "checkpoint.safetensors").read_bytes()
    assert train(given, tmp_path / "out", "--resume", *more, **names) == 2
    said = capsys.readouterr().err
    assert "belongs to another run" in said
    assert differs in said
    assert (tmp_path / "out" / "run" / "checkpoint.safetensors").read_bytes() == before
    assert train(given, tmp_path / "out", "--resume") == 0


def test_a_full_disk_leaves_the_last_checkpoint(given, tmp_path, monkeypatch, capsys):
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 4:  # recipe.json and the states before steps 0, 1 and 2
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        saves_every_step(patch)
        patch.setattr(os, "fsync", full)
        assert train(given, tmp_path / "out") == 2
    assert "the disk is full" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.partial"))
    assert train(given, tmp_path / "out", "--resume") == 0
    assert train(given, tmp_path / "whole") == 0
    assert same(tmp_path / "whole" / "text", tmp_path / "out" / "text")


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_learning_rate_that_diverges_stops_with_the_last_good_state(given, tmp_path, capsys):
    recipe = RECIPE.replace("1e-3", "1e30").replace("steps = 6", "steps = 60")
    (given / "wild.toml").write_text(recipe)
    assert train(given, tmp_path / "out", recipe="wild.toml") == 2
    said = capsys.readouterr().err
    assert "Lower learning_rate" in said
    state = load_file(tmp_path / "out" / "run" / "checkpoint.safetensors")
    assert all(torch.isfinite(value).all() for name, value in state.items() if name.startswith("module/"))
    assert not (tmp_path / "out" / "text").exists()


def test_nan_in_the_starting_weights_is_refused_by_name(given, tmp_path, capsys):
    folder = make_clip(tmp_path / "bad")
    clip = CLIPModel.from_pretrained(folder)
    with torch.no_grad():
        clip.vision_model.post_layernorm.weight[3] = torch.nan
    clip.save_pretrained(folder)
    assert train(given, tmp_path / "out", model=folder) == 2
    assert "vision_model.post_layernorm.weight" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["device", "cpu"],
)
def test_too_little_memory_names_the_options_that_help(given, tmp_path, monkeypatch, capsys, error):
    fails_at(monkeypatch, 2, error)
    assert train(given, tmp_path / "out") == 2
    said = capsys.readouterr().err
    for remedy in ("--micro-batch 2", "--precision bf16", 'kind = "lora"', "--resume"):
        assert remedy in said


def test_another_fault_is_not_called_a_lack_of_memory(given, tmp_path, monkeypatch, capsys):
    fails_at(monkeypatch, 2, RuntimeError("mat1 and mat2 cannot be multiplied"))
    assert train(given, tmp_path / "out") == 70
    assert "--micro-batch" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (RECIPE.replace("learning_rate", "learning_rat"), "Did you mean 'learning_rate'"),
        (RECIPE.replace('"safe-clip"', '"safe-clap"'), "Did you mean 'safe-clip'"),
        (RECIPE.replace("steps = 6", 'steps = "six"'), "valid integer"),
        (RECIPE.replace("[edit]", "[edit"), "expected a TOML file"),
        (RECIPE.replace('objective = "safe-clip"', ""), "base model of the world"),
        (RECIPE.replace("batch = 4", "batch = 400"), "expected a batch of 1 to"),
    ],
    ids=["key", "objective", "type", "toml", "no objective", "batch"],
)
def test_a_bad_recipe_is_refused(given, tmp_path, capsys, recipe, said):
    (tmp_path / "bad.toml").write_text(recipe)
    assert train(given, tmp_path / "out", recipe=tmp_path / "bad.toml") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--precision", "fp16"], "use bf16"),
        (["--precision", "int8"], "expected --precision auto, fp32 or bf16"),
        (["--recipe", "safe-clap"], "Did you mean 'safe-clip'"),
        (["--recipe", "judge"], "a base model of the world; use one of: pictoworld, robust, safe-clip"),
        (["--data", "nowhere.jsonl"], "found none"),
        (["--data", "pictoworld"], "expected a model with the world's tokenizer and pictures of 64 pixels"),
        (["--model", "openai/clip-vit-base-patch32"], "hf download openai/clip-vit-base-patch32"),
        (["--validation", "1.5"], "between 0 and 1"),
        (["--towers", "txt"], "Invalid value for '--towers'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_option_is_refused(given, tmp_path, capsys, more, said):
    assert train(given, tmp_path / "out", *more) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_missing_columns_are_named(given, tmp_path, capsys):
    (tmp_path / "odd.jsonl").write_text(json.dumps({"safe_txt": "a dog", "other": "a cat"}))
    assert train(given, tmp_path / "out", data=tmp_path / "odd.jsonl") == 2
    assert "Did you mean 'safe_text' by 'safe_txt'" in capsys.readouterr().err


def test_an_unreadable_picture_is_refused_or_skipped(given, tmp_path, capsys):
    file = make_pairs(tmp_path / "all.jsonl", pictures=True)
    (tmp_path / "safe_image3.png").write_bytes(b"no picture")
    assert train(given, tmp_path / "out", data=file) == 2
    assert "--skip-unreadable" in capsys.readouterr().err
    assert train(given, tmp_path / "out", "--skip-unreadable", data=file) == 0
    assert result(tmp_path / "out")["data"]["rows"] == ROWS - 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"half"), "expected a CLIP in"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "with safetensors"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config.json"),
        (lambda folder: image_processor(48).save_pretrained(folder), "pictures of (3, 32, 32)"),
        (
            lambda folder: CLIPTextModel.from_pretrained(folder).save_pretrained(folder),
            "got the model type 'clip_text_model'",
        ),
    ],
    ids=["damaged", "pickle", "no processor", "other size", "a tower only"],
)
def test_a_bad_model_is_refused(given, tmp_path, capsys, spoil, said):
    spoil(make_clip(tmp_path / "bad"))
    assert train(given, tmp_path / "out", data="all.jsonl", model=tmp_path / "bad") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_that_lacks_a_weight_is_refused(given, tmp_path, capsys):
    from safetensors.torch import save_file

    file = make_clip(tmp_path / "bad") / "model.safetensors"
    state = load_file(file)
    save_file({k: v for k, v in state.items() if k != "visual_projection.weight"}, file, metadata={"format": "pt"})
    assert train(given, tmp_path / "out", model=tmp_path / "bad") == 2
    assert "visual_projection.weight" in capsys.readouterr().err


# --- several processes, and real sizes ------------------------------------------------------------------------------


def torchrun(arguments):
    script = Path(sys.executable).parent / "safeencoders"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    done = subprocess.run(
        [*command, script, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_two_processes_equal_one(given, tmp_path):
    code, said, fault = torchrun(words(given, tmp_path / "two", data="all.jsonl"))
    assert code == 0, fault
    assert said.count("\nformula") == 1
    assert result(tmp_path / "two")["training"]["processes"] == 2
    assert train(given, tmp_path / "one", data="all.jsonl") == 0
    assert train(given, tmp_path / "other", "--seed", 1, data="all.jsonl") == 0
    one, two, other = (load_file(tmp_path / name / "text" / "model.safetensors") for name in ("one", "two", "other"))
    seen = [name for name in one if not name.endswith("k_proj.bias")]  # as in the test of micro-batches
    assert max(float((one[name] - two[name]).abs().max()) for name in seen) < 1e-4
    assert max(float((one[name] - other[name]).abs().max()) for name in seen) > 1e-4
    assert result(tmp_path / "one")["training"]["best_step"] == result(tmp_path / "two")["training"]["best_step"]
    code, said, _ = torchrun(words(given, tmp_path / "two", "--resume", data="all.jsonl"))
    assert (code, said.count("already finished")) == (0, 1)


SIZES = {
    "ViT-B/32": (512, 8, 12, 768, 12, 12, 32, 512),
    "ViT-L/14": (768, 12, 12, 1024, 16, 24, 14, 768),
}


def make_openai_clip(folder: Path, size: str) -> Path:
    """The published sizes with random weights."""
    width, heads, layers, vision_width, vision_heads, vision_layers, patch, projection = SIZES[size]
    tokenizer = models.tokenizer()
    text = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
    }
    vision = {
        "hidden_size": vision_width,
        "intermediate_size": 4 * vision_width,
        "num_attention_heads": vision_heads,
        "num_hidden_layers": vision_layers,
        "patch_size": patch,
    }
    config = CLIPConfig(
        text_config=text | {"projection_dim": projection, "eos_token_id": tokenizer.eos_token_id},
        vision_config=vision | {"projection_dim": projection},
        projection_dim=projection,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor(224).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_the_published_sizes_are_trained(given, tmp_path, size):
    shipped = (Path(redirect.__file__).parent / "recipes" / "safe-clip.toml").read_text()
    (tmp_path / "safe-clip.toml").write_text(shipped.replace("batch = 48", "batch = 2"))
    model = make_openai_clip(tmp_path / "clip", size)
    names = {"recipe": tmp_path / "safe-clip.toml", "data": "all.jsonl", "model": model}
    assert train(given, tmp_path / "out", "--max-steps", 2, "--micro-batch", 1, "--validation", 0, **names) == 0
    tower, said = CLIPTextModel.from_pretrained(tmp_path / "out" / "text", output_loading_info=True)
    assert not said["missing_keys"]
    assert tower.config.hidden_size == SIZES[size][0]
    assert tower(input_ids=torch.tensor([[1581, 300, 1582]])).last_hidden_state.isfinite().all()
    assert set(result(tmp_path / "out")["training"]["trainable"]) == {"text", "vision"}
