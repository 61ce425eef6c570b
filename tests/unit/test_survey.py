"""The survey: its numbers by hand, each warning where it belongs and not elsewhere, and no text in it."""

from __future__ import annotations

import json

import pytest

from safeencoders.training.readers.pairs import Dropped, Pairs, usable
from safeencoders.training.readers.survey import Lengths, Survey, survey


def words(texts: list[str]) -> list[int]:
    return [len(text.split()) + 2 for text in texts]


def look(safe: list[str], unsafe: list[str | None] | None = None, tags: list[str | None] | None = None) -> Survey:
    columns = {"safe_text": tuple(safe)} | ({"unsafe_text": tuple(unsafe)} if unsafe else {})
    made = Pairs("made up", columns, tuple(tags or [None] * len(safe)), notes=("columns not used: score",))
    return survey(*usable(made), words, context=5)


def test_the_numbers_are_those_counted_by_hand():
    found = look(
        ["a dog", "a dog", "one two three four", "a cup", "x"],
        ["b", "b", "b", "a cup", None],
        ["hate", "hate", None, "sexual", "hate"],
    )
    assert found.rows == 4
    assert found.left_out == {"a part missing": 1, "unreadable": 0}
    assert found.missing == {"safe_text": 0, "unsafe_text": 1}
    assert found.duplicates == {"safe_text": 1, "unsafe_text": 2}
    assert found.identical == 1
    assert found.lengths["safe_text"] == Lengths(median=4.0, p95=pytest.approx(5.7), longest=6, cut=1)
    assert found.tags == {"hate": 2, "(none)": 1, "sexual": 1}


# Each: a fault, and the same without it.
CASES = {
    "one category": (look(["a", "b"], tags=["hate"] * 2), look(["a", "b"], tags=["hate", "sexual"])),
    "will be cut": (look(["a b c d", *map(str, range(98))]), look(["a b c d", *map(str, range(99))])),
    "repeat an earlier": (look([*map(str, range(8)), "1", "2"]), look([*map(str, range(9)), "1"])),
    "equal safe and unsafe": (look(["a", "b"], ["a", "c"]), look(["a", "b"], ["b", "a"])),
}


@pytest.mark.parametrize("words_of_it", CASES)
def test_a_warning_comes_with_its_fault_and_not_without(words_of_it):
    faulty, sound = CASES[words_of_it]
    assert [words_of_it in warning for warning in faulty.warnings] == [True]
    assert sound.warnings == ()


def test_rows_without_tags_are_no_single_category():
    assert look(["a", "b"], tags=[None, None]).warnings == ()
    assert look(["a", "b"], tags=["hate", None]).warnings == ()
    assert look(["a"], tags=["hate"]).warnings == ()


def test_the_table_and_the_json_say_it_without_quoting():
    found = look(["SECRET dog", "SECRET cup"], ["SECRET dog", "b"], ["hate", "SECRET " * 10])
    for text in (found.text(), json.dumps(found.row())):
        assert "secret" not in text.lower()
        assert "columns not used: score" in text
        assert "equal safe and unsafe" in text
    assert "tag (other)                1" in found.text()
    assert "rows used                  2\n" in found.text()
    assert found.row()["lengths"]["unsafe_text"]["longest"] == 4
    assert found.row()["tags"] == {"hate": 1, "(other)": 1}


def test_many_tags_are_summed_up():
    found = look([str(i) for i in range(30)], tags=[f"tag {i}" for i in range(30)])
    assert len(found.tags) == 21
    assert found.tags["(other)"] == 10
    assert sum(found.tags.values()) == 30


def test_unreadable_pictures_are_all_in_the_json_and_ten_in_the_table():
    made = Pairs("made up", {"safe_image": ("a.png",)}, (None,))
    paths = tuple(f"bad{i}.png" for i in range(12))
    found = survey(made, Dropped({"safe_image": 0}, 0, paths, 12), words, 5)
    assert found.row()["unreadable"] == paths
    assert found.text().count("bad") == 10
    assert "and 2 more" in found.text()
    assert found.lengths == {}
