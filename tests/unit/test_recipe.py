"""Recipes: complete, and strict about what they say."""

import pytest

from safeencoders.errors import BadInputError, UnknownNameError
from safeencoders.training import recipe
from safeencoders.training.objectives import objectives


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


def test_an_unknown_key_is_refused(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('about = "x"\n[schedule]\nsteps = 1\nbatch = 1\nlearning_rate = 1.0\nlerning_rate = 2.0\n')
    with pytest.raises(UnknownNameError, match="learning_rate"):
        recipe.read(str(file))


@pytest.mark.parametrize("text", ["about = ", 'about = "x"\n[schedule]\nsteps = 1\n'])
def test_a_broken_or_incomplete_file_is_refused(tmp_path, text):
    file = tmp_path / "broken.toml"
    file.write_text(text)
    with pytest.raises(BadInputError, match="expected"):
        recipe.read(str(file))
