"""Redirection of a tiny CLIP: the objective falls, the original does not move, the run is reproducible."""

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from safeencoders.errors import BadInputError
from safeencoders.pictoworld import scenes
from safeencoders.pictoworld import tokenizer as world_tokenizer
from safeencoders.training.data import PictoworldReader
from safeencoders.training.loop import Fit, Schedule
from safeencoders.training.objectives import objectives
from safeencoders.training.objectives.terms import Align, Objective, Source
from safeencoders.training.redirect import BatchEmbeddings, RedirectTask


@pytest.fixture(scope="module")
def tokenizer():
    return world_tokenizer.build(list(scenes.words()))


@pytest.fixture
def clip(tokenizer):
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": world_tokenizer.CONTEXT}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=small | text | ids | {"projection_dim": 8},
        vision_config=small | {"image_size": 64, "patch_size": 32, "projection_dim": 8},
        projection_dim=8,
    )
    return CLIPModel(config).eval()


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def run(clip, tokenizer, path, name="pictoworld", steps=30):
    task = RedirectTask(clip, objectives.get(name)(), PictoworldReader(tokenizer, 4, 0))
    fit = Fit(task, Schedule(steps=steps, batch=4, learning_rate=1e-3, warmup=5), path)
    first = task.loss(0).item()
    fit.run(name, seconds=60)
    return fit, first, task.loss(0).item()


@pytest.mark.parametrize("name", objectives.names())
def test_the_loss_falls_and_the_original_stays_bit_equal(clip, tokenizer, tmp_path, name):
    before = state(clip)
    fit, first, last = run(clip, tokenizer, tmp_path / "run.pt", name)
    assert last < first
    assert equal(before, state(clip))
    assert equal(
        {k: v for k, v in before.items() if k.startswith("text_model.")},
        {f"text_model.{k}": v for k, v in fit.task.edit.reference().state_dict().items()},
    )
    assert not equal(state(clip.text_model), state(fit.task.module))


def test_the_same_seed_gives_the_same_tower(clip, tokenizer, tmp_path):
    one = run(clip, tokenizer, tmp_path / "one.pt")[0]
    two = run(clip, tokenizer, tmp_path / "two.pt")[0]
    assert equal(state(one.task.module), state(two.task.module))


def test_text_only_safe_clip_keeps_the_papers_four_text_terms(clip, tokenizer):
    task = RedirectTask(clip, objectives.get("safe-clip")(), PictoworldReader(tokenizer, 4, 0))
    assert str(task.objective) == (
        "L[safe-clip] = 0.1 Align(T(t), T0(t)) + 0.1 Align(T(t*), T0(t))"
        " + 0.25 NCE(T(t), V0(v)) + 0.25 NCE(T(t*), V0(v))"
    )


def test_an_objective_with_nothing_to_train_is_refused(clip, tokenizer):
    vision_only = Objective("vision", (Align(1.0, Source("v", tuned=True), Source("v")),))
    with pytest.raises(BadInputError, match="the reader gives"):
        RedirectTask(clip, vision_only, PictoworldReader(tokenizer, 4, 0))


def test_the_reference_gets_no_gradient_and_the_tuned_tower_does(clip, tokenizer):
    reader = PictoworldReader(tokenizer, 4, 0)
    task = RedirectTask(clip, objectives.get("pictoworld")(), reader)
    embeddings = BatchEmbeddings(clip, task.edit, reader.batch(0))
    assert not embeddings.get(Source("t"), "projected").requires_grad
    assert not embeddings.get(Source("v"), "projected").requires_grad
    assert embeddings.get(Source("t", tuned=True), "last_hidden").requires_grad
    task.loss(0).backward()
    assert all(p.grad is None for p in clip.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in task.module.parameters())
