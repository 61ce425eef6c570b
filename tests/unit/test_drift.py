"""Drift: nothing where nothing moved, and exactly what was added where the last state is scaled."""

import copy

import numpy as np
import pytest
import torch

from safeencoders.evaluation.drift import mean_drift, patch_drift
from safeencoders.pictoworld import models, scenes


@pytest.fixture(scope="module")
def tower():
    return models.clip().vision_model


@pytest.fixture(scope="module")
def pictures():
    return [quad.safe for quad in scenes.quads("val", 6, 0)]


def test_a_tower_does_not_drift_from_itself(tower, pictures):
    assert patch_drift(tower, tower, pictures) == {"value": 0.0, "n": 6, "interval": [0.0, 0.0]}


def test_a_moved_tower_drifts_and_the_layer_after_the_one_read_does_not_count(tower, pictures):
    early, late = copy.deepcopy(tower), copy.deepcopy(tower)
    with torch.no_grad():
        early.encoder.layers[0].mlp.fc2.bias.add_(0.1)
        late.encoder.layers[-1].mlp.fc2.bias.add_(0.1)
    found = patch_drift(early, tower, pictures)
    assert found["value"] > 0
    assert found["interval"][0] <= found["value"] <= found["interval"][1]
    assert patch_drift(late, tower, pictures)["value"] == 0


def test_the_mean_is_over_inputs():
    found = mean_drift(np.array([0.0, 0.1]))
    assert found["value"] == pytest.approx(0.05)
    assert found["n"] == 2
