"""One table, three forms: the same cells, everything escaped."""

from typing import Any

import pytest

from safeencoders.evaluation.tables import Table, cell_text, flatten, percent, results_table
from safeencoders.metrics import rate

BEFORE = {"T-V": {"R@1": rate(45, 50), "R@10": rate(50, 50)}, "top1_unsafe": {"text": rate(40, 50)}}
AFTER = {"T-V": {"R@1": rate(44, 50)}, "T*-VuV*": {"R@1": rate(541, 1000)}, "loss": 0.123456}


def test_percent() -> None:
    assert percent({"value": 0.541, "n": 1400, "interval": [0.515, 0.567]}) == "54.1 [51.5, 56.7]"
    assert percent({"value": 0.541, "n": 1400, "interval": [0.515, 0.567]}, digits=0) == "54 [52, 57]"
    assert percent(rate(0, 0, allow_empty=True)) == "no cases"


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, "-"),
        (12345, "12345"),
        (0.123456, "0.123"),
        (float("nan"), "nan"),
        (True, "yes"),
        ("a\n b\x1b[31m", "a b?[31m"),
    ],
)
def test_cells(cell: Any, text: str) -> None:
    assert cell_text(cell) == text


def test_a_mapping_that_is_no_rate_is_refused() -> None:
    with pytest.raises(TypeError, match="may hold a rate"):
        cell_text({"value": 1})


def test_rows_must_fill_the_columns() -> None:
    with pytest.raises(ValueError, match="Row 1 has 1 cells, expected 2"):
        Table("t", ["a", "b"], [["x", 1], ["y"]])
    with pytest.raises(ValueError, match="at least one column"):
        Table("t", [], [])


def test_text_is_aligned() -> None:
    table = Table("Title", ["", "before"], [["short", rate(1, 2)], ["a longer name", None]], note="Note.")
    assert table.text().splitlines() == [
        "Title",
        "",
        "                         before",
        "-------------  ----------------",
        "short          50.0 [9.5, 90.5]",
        "a longer name                 -",
        "",
        "Note.",
    ]


def test_markdown() -> None:
    table = Table("", ["a|b", "c"], [["x*y_z_", rate(1, 2)], ["<b>", "_q_"]], note="See [x](y).")
    assert table.markdown().splitlines() == [
        r"| a\|b | c |",
        "| --- | ---: |",
        r"| x\*y_z\_ | 50.0 [9.5, 90.5] |",
        r"| \<b\> | \_q\_ |",
        "",
        r"See \[x\](y).",
    ]


def test_html_escapes_everything_and_marks_headers() -> None:
    page = Table("<t>", ["<c>", "d"], [["<r>", "<v>"]], note="<n>").html()
    for name in "tcrvn":
        assert f"&lt;{name}&gt;" in page
        assert f"<{name}>" not in page
    assert '<th scope="col">' in page
    assert '<th scope="row">' in page


def test_the_three_forms_hold_the_same_cells() -> None:
    table = results_table("Retrieval", {"before": BEFORE, "after": AFTER})
    for form in (table.text(), table.html(), table.markdown().replace("\\", "")):
        for cell in ("T-V R@1", "T*-VuV* R@1", "54.1 [51.0, 57.2]", "before", "1000", "0.123"):
            assert cell in form


def test_flatten() -> None:
    assert list(flatten(BEFORE)) == ["T-V R@1", "T-V R@10", "top1_unsafe text"]
    assert flatten({"a": {"b": {"c": 1, "d": [2]}}}) == {"a b c": 1}


def test_results_side_by_side() -> None:
    table = results_table("t", {"before": BEFORE, "after": AFTER}, note="Test split.")
    assert list(table.columns) == ["", "before", "after", "n"]
    rows = {row[0]: [cell_text(cell) for cell in row[1:]] for row in table.rows}
    assert rows["T-V R@1"] == ["90.0 [78.6, 95.7]", "88.0 [76.2, 94.4]", "50"]
    assert rows["T*-VuV* R@1"][0] == "-"
    assert rows["loss"] == ["-", "0.123", "-"]
    assert table.note.startswith("Test split. Percent")


def test_unequal_numbers_of_cases_are_shown() -> None:
    table = results_table("t", {"a": {"x": rate(1, 2)}, "b": {"x": rate(1, 3)}})
    assert table.rows[0][-1] == "2/3"


def test_chosen_rows_are_named_and_ordered_and_a_wrong_one_is_refused() -> None:
    table = results_table("t", {"before": BEFORE}, names={"top1_unsafe text": "top-1 unsafe", "T-V R@1": "T-V, R@1"})
    assert [row[0] for row in table.rows] == ["top-1 unsafe", "T-V, R@1"]
    with pytest.raises(ValueError, match="No system has a result named 'T-V R@5'"):
        results_table("t", {"before": BEFORE}, names={"T-V R@5": "x"})
