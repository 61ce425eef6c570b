"""Ownership: what counts as an embedding that a host's own towers made, after all that is done to it on its way."""

import pytest
import torch

from safeencoders import loading
from safeencoders.integrations.ownership import KEPT, Ledger
from safeencoders.pictoworld import models, scenes
from safeencoders.pictoworld import tokenizer as world_tokenizer

PROMPTS = ("a red dog in the park", "a blue cat at the beach with a gun", "", "a green horse in the city at noon")


@pytest.fixture(scope="module")
def states():
    """Give the states of four prompts under the safe tower and under the original, each (4, 32, 128)."""
    ids = world_tokenizer.encode(models.tokenizer(), PROMPTS)
    return [loading.load(name)(input_ids=ids).last_hidden_state for name in ("pictoworld", "none")]


@pytest.fixture
def ledger(states):
    ledger = Ledger()
    ledger.record(states[0])
    return ledger


WEIGHTS = torch.ones(32, 1).index_fill(0, torch.tensor([3, 4]), 1.6)
KEPT_OWN = {
    "as it is": lambda own: own[:1],
    "float16": lambda own: own[:2].half(),
    "bfloat16": lambda own: own[:2].bfloat16(),
    "repeated": lambda own: own[:1].repeat(3, 1, 1),
    "negative and positive in one batch": lambda own: torch.cat([own[2:3], own[:1]]),
    "two chunks one after the other": lambda own: torch.cat([own[:1], own[1:2]], dim=1),
    "a token's weight": lambda own: own[:1] * WEIGHTS,
    "a token's weight against the empty prompt": lambda own: own[2:3] + (own[:1] - own[2:3]) * WEIGHTS,
    "weights, and the mean put back": lambda own: own[:1] * WEIGHTS * 0.93,
    "a blend of two prompts": lambda own: 0.7 * own[:1] + 0.3 * own[3:],
    "zeros, as padding is": lambda own: torch.zeros_like(own[:1]),
}


@pytest.mark.parametrize("done", KEPT_OWN.values(), ids=KEPT_OWN.keys())
def test_own_embeddings_stay_own(ledger, states, done):
    assert ledger.find(done(states[0])).verdict == "own"


@pytest.mark.parametrize("done", [*KEPT_OWN.values()][:-1], ids=[*KEPT_OWN.keys()][:-1])
def test_the_same_of_the_original_tower_is_foreign(ledger, states, done):
    assert ledger.find(done(states[1])).verdict == "foreign"


def test_amplification_is_told_apart(ledger, states):
    own = states[0]
    assert ledger.find(own[2:3] + (own[:1] - own[2:3]) * 2).verdict == "own"
    assert ledger.find(own[2:3] + (own[:1] - own[2:3]) * 3).verdict == "amplified"


def test_one_changed_row_makes_it_foreign(ledger, states):
    changed = states[0][:1].clone()
    changed[0, 7] += 0.05 * torch.randn(128, generator=torch.Generator().manual_seed(0)) * changed[0, 7].norm()
    assert ledger.find(changed).verdict == "foreign"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_foreign(ledger, states, value):
    assert ledger.find(torch.full_like(states[0][:1], value)).verdict == "foreign"


def test_other_shapes_are_foreign_and_vectors_are_known_too(ledger, states):
    assert ledger.find(states[0][:1, :31]).verdict == "foreign"
    assert ledger.find(states[0][:1, :, :64]).verdict == "foreign"
    assert ledger.find(states[0][:1, -1]).verdict == "foreign"
    ledger.record(states[0][:, -1])
    assert ledger.find(states[0][:1, -1]).verdict == "own"
    assert ledger.find(states[0][:1, -1][None]).verdict == "own"  # as image embeddings come


def test_many_recordings_do_not_explain_what_is_foreign(states):
    ledger = Ledger()
    draw = torch.Generator().manual_seed(1)
    for _ in range(KEPT // 4):
        ledger.record(states[0] + 0.3 * torch.randn(states[0].shape, generator=draw))
    assert ledger.find(states[1]).verdict == "foreign"


def test_what_was_recorded_long_ago_is_forgotten(states):
    ledger = Ledger()
    ledger.record(states[0][:1])
    draw = torch.Generator().manual_seed(1)
    ledger.record(torch.randn(KEPT, 32, 128, generator=draw))
    assert ledger.find(states[0][:1]).verdict == "foreign"


def test_two_ledgers_have_secrets_of_their_own(states):
    one, other = Ledger(), Ledger()
    assert not torch.equal(one._sketch(states[0]), other._sketch(states[0]))


def test_weights_are_understood_among_many_captions_that_resemble_one_another():
    quads = scenes.quads("val", 60, 0)
    texts = ["", "nude", "a knife", *(q.unsafe_text for q in quads), *(q.safe_text for q in quads)]
    ids, ledger = world_tokenizer.encode(models.tokenizer(), texts), Ledger()
    own, foreign = (loading.load(name)(input_ids=ids).last_hidden_state for name in ("pictoworld", "none"))
    ledger.record(own)
    for i in (1, 2, 3, 20, 70, 100):
        for weight in (0.7, 1.6):
            assert ledger.find(own[:1] + weight * (own[i : i + 1] - own[:1])).verdict == "own"
            assert ledger.find(foreign[:1] + weight * (foreign[i : i + 1] - foreign[:1])).verdict == "foreign"
