"""Recipes: complete, and strict about what they say."""

import contextlib
import copy
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeencoders.errors import BadInputError, SafeEncodersError, UnknownNameError
from safeencoders.training import recipe
from safeencoders.training.objectives import objectives

GOOD = {
    "about": "x",
    "objective": "pictoworld",
    "towers": "both",
    "schedule": {"steps": 2, "batch": 4, "learning_rate": 0.1},
    "edit": {"kind": "lora", "rank": 2},
    "weights": {"redirect": 0.5},
    "options": {},
}


@pytest.mark.parametrize("name", recipe.names())
def test_every_shipped_recipe_reads_and_names_a_known_objective(name):
    found = recipe.read(name)
    assert found.about
    assert found.schedule.steps > 0
    if found.objective:
        assert objectives.get(found.objective)(**found.weights).terms


def test_the_recipes_of_the_interface_are_there():
    assert {"pictoworld", "safe-clip"} <= set(recipe.names())


def test_a_name_that_is_not_there_is_refused_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="Did you mean 'pictoworld'"):
        recipe.read("pictowrld")


@pytest.mark.parametrize(
    ("part", "slip", "meant"),
    [
        ("schedule", "lerning_rate", "learning_rate"),
        ("edit", "dropuot", "dropout"),
        ("weights", "redirct", "redirect"),
        (None, "objetcive", "objective"),
        (None, "tower", "towers"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(part, slip, meant):
    values = copy.deepcopy(GOOD)
    (values[part] if part else values)[slip] = 1.0
    with pytest.raises(UnknownNameError, match=f"Did you mean '{meant}'"):
        recipe.from_values(values, "mine")
    assert recipe.from_values(GOOD, "mine").name == "mine"


def test_an_unknown_key_of_a_file_is_refused(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('about = "x"\n[schedule]\nsteps = 1\nbatch = 1\nlearning_rate = 1.0\nlerning_rate = 2.0\n')
    with pytest.raises(UnknownNameError, match=r"\[schedule\] of recipe mine.*learning_rate"):
        recipe.read(str(file))


def test_an_unknown_objective_is_refused_with_the_nearest_one():
    with pytest.raises(UnknownNameError, match="Did you mean 'safe-clip'"):
        recipe.from_values(GOOD | {"objective": "safeclip"}, "mine")


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("schedule", "steps", "many"),
        ("schedule", "steps", 1.5),
        ("schedule", "steps", True),
        ("schedule", "learning_rate", math.nan),
        ("schedule", "learning_rate", -1.0),
        ("schedule", "weight_decay", math.inf),
        ("schedule", "betas", [0.9]),
        ("schedule", "betas", [0.9, 1.0]),
        ("schedule", "patience", -1),
        ("edit", "kind", "half"),
        ("edit", "rank", 0),
        ("edit", "alpha", math.nan),
        ("edit", "targets", "k_proj"),
        ("weights", "redirect", "much"),
        ("weights", "redirect", math.nan),
        ("weights", "redirect", math.inf),
        (None, "towers", "all"),
        (None, "reference", "moving"),
        (None, "schedule", 3),
        (None, "edit", []),
        (None, "weights", 1),
        (None, "about", None),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(part, key, value):
    values = copy.deepcopy(GOOD)
    (values[part] if part else values)[key] = value
    with pytest.raises(BadInputError, match="expected"):
        recipe.from_values(values, "mine")


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["full", "lora", "both"])
)
WORDS = ["steps", "batch", "learning_rate", "betas", "kind", "rank", "redirect", "objective", "towers", "about", "edit",
         "schedule", "weights", "options", "name", "seed"]  # fmt: skip
KEYS = st.one_of(st.text(max_size=8), st.sampled_from(WORDS))
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
)
FUZZ = settings(max_examples=80, deadline=None)


def read_or_refused(values):
    """Return whether a recipe came of it; anything but a recipe or an error of ours fails the test."""
    try:
        found = recipe.from_values(values, "fuzz")
    except SafeEncodersError:
        return False
    assert isinstance(found, recipe.Recipe)
    assert math.isfinite(found.schedule.rate(0))
    if found.objective:
        assert str(found.terms())
    return True


@FUZZ
@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_any_table_is_a_recipe_or_refused(values):
    read_or_refused(values)


@FUZZ
@given(st.sampled_from([None, "schedule", "edit", "weights", "options"]), KEYS, VALUES)
def test_a_recipe_with_any_one_value_is_a_recipe_or_refused(part, key, value):
    values = copy.deepcopy(GOOD)
    (values[part] if part else values)[key] = value
    read_or_refused(values)


@FUZZ
@given(st.text(max_size=60) | st.binary(max_size=60))
def test_any_file_is_a_recipe_or_refused(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("fuzz") / "fuzz.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(SafeEncodersError):
        recipe.read(str(file))


def test_the_recipe_that_is_fuzzed_is_good():
    assert read_or_refused(GOOD)


@pytest.mark.parametrize("text", ["about = ", 'about = "x"\n[schedule]\nsteps = 1\n'])
def test_a_broken_or_incomplete_file_is_refused(tmp_path, text):
    file = tmp_path / "broken.toml"
    file.write_text(text)
    with pytest.raises(BadInputError, match="expected"):
        recipe.read(str(file))
