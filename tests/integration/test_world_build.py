"""`world build` in small: every stage from nothing, in slices, to models that load."""

import dataclasses
import json

import pytest
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel, CLIPTextModelWithProjection, LlavaForConditionalGeneration

from safeencoders.cli.build import build_world
from safeencoders.errors import BadInputError
from safeencoders.files import sha256_file
from safeencoders.training import recipe
from safeencoders.training.world import build, generator

STAGES = ["clip", "vae", "generator", "judge", "vlm", "encoders"]


@pytest.fixture
def tiny(monkeypatch):
    """Every recipe with two steps of two quadruplets."""

    def shortened(name):
        found = recipe.read(name)
        schedule = dataclasses.replace(found.schedule, steps=2, batch=4, warmup=1)
        return dataclasses.replace(found, schedule=schedule, options=dict.fromkeys(found.options, 1))

    monkeypatch.setattr(build, "read", shortened)
    monkeypatch.setattr(generator, "CHUNK", 8)
    monkeypatch.setattr(generator, "SCALING_PICTURES", 8)


@pytest.mark.usefixtures("tiny")
def test_every_stage_makes_a_model_that_loads(tmp_path, capsys):
    build_world(tmp_path, stages=STAGES, minutes=5, seed=0, json_file=tmp_path / "build.json")
    assert json.loads((tmp_path / "build.json").read_text())["finished"] == STAGES
    weights = tmp_path / "weights"
    assert type(CLIPModel.from_pretrained(weights / "clip")) is CLIPModel
    assert type(CLIPTextModelWithProjection.from_pretrained(weights / "towers/pictoworld/text"))
    assert type(StableDiffusionPipeline.from_pretrained(weights / "generator")) is StableDiffusionPipeline
    assert type(LlavaForConditionalGeneration.from_pretrained(weights / "vlm")) is LlavaForConditionalGeneration
    hashes = json.loads((weights / "sha256.json").read_text())
    assert {name.split("/")[0] for name in hashes} >= {"clip", "generator", "judge", "vlm", "towers"}
    assert all(sha256_file(weights / name) == value for name, value in hashes.items())
    assert "all finished" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny")
def test_a_slice_that_ends_says_how_to_go_on_and_the_next_call_does(tmp_path, capsys):
    build_world(tmp_path, stages=["clip"], minutes=0, seed=0, json_file=None)
    assert "goes on with: clip" in capsys.readouterr().out
    build_world(tmp_path, stages=["clip"], minutes=5, seed=0, json_file=None)
    assert "finished: clip" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny")
def test_a_stage_whose_parts_are_missing_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="world build"):
        build_world(tmp_path, stages=["generator"], minutes=5, seed=0, json_file=None)
