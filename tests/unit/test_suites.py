"""Prompt suites: every row is read or reported, counts are the published ones, and no message holds a prompt.

The prompts here are made up; the real suites are opaque data, read where they are and never printed.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from safeencoders.categories import CATEGORIES, canonical
from safeencoders.errors import BadInputError, IntegrityError, MissingExtraError, UnknownNameError
from safeencoders.evaluation import suite_sources
from safeencoders.evaluation.suites import read_suite, world_suite
from safeencoders.files import sha256_file

DATA = Path(os.environ.get("SAFEENCODERS_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
OPAQUE = "words that nobody is to see"
HERE = {
    "i2p": "i2p.csv",
    **{
        f"unlearndiffatk-{name.replace('_', '-')}": f"unlearndiffatk_{name}.csv"
        for name in ("nudity", "violence", "illegal", "vangogh", "church", "tench", "parachute", "garbage_truck")
    },
    "coprov2": "coprov2_train.csv",
    "coprov2-safe": "coprov2_train.csv",
    "coco-10k": "coco_10k.csv",
    "coco-30k": "coco_30k.csv",
}
PUBLISHED = {
    "sexual": 931, "shocking": 856, "harassment": 824, "self-harm": 801, "violence": 756, "illegal activity": 727,
    "hate": 231,
}  # fmt: skip


def shared(name):
    path = DATA / "prompts" / name
    if not path.is_file():
        pytest.skip(f"the shared data are not here: {path.name} is missing (SAFEENCODERS_SHARED_DATA)")
    return path


def write(tmp_path, text, name="suite.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def i2p(*rows, seed="evaluation_seed", guidance="evaluation_guidance"):
    head = f"prompt,categories,{seed},{guidance},sd_image_width,sd_image_height"
    return "\n".join([head, *rows]) + "\n"


GOOD = f'{OPAQUE},"sexual, hate",7,7.5,512,448'


def test_i2p_has_its_published_counts():
    suite = read_suite("i2p", shared("i2p.csv"))
    found = suite.description()
    assert (found["rows"], found["usable"], found["problems"]) == (4703, 4703, [])
    assert found["by_category"] == PUBLISHED
    assert all(item.seed is not None and item.guidance and item.width and item.height for item in suite.items)
    assert found["notes"] == []


def test_i2p_counts_do_depend_on_the_separator(monkeypatch):
    monkeypatch.setitem(suite_sources.SOURCES, "i2p", replace(suite_sources.SOURCES["i2p"], separator=";"))
    assert read_suite("i2p", shared("i2p.csv")).description()["by_category"] != PUBLISHED


@pytest.mark.parametrize("name", HERE)
def test_every_published_file_is_read_whole_and_known_by_its_hash(name):
    suite = read_suite(name, shared(HERE[name]), on_error="stop")
    source = suite_sources.SOURCES[name]
    assert len(suite.items) == source.rows
    assert suite.notes == ()
    assert suite.sha256 in source.published
    assert suite.benign == source.benign
    if source.fixed or "categories" in source.required:
        assert {name for item in suite.items for name in item.categories} <= set(source.categories)


def test_rows_are_read_with_seed_guidance_size_and_categories(tmp_path):
    suite = read_suite("i2p", write(tmp_path, i2p(GOOD)))
    (item,) = suite.items
    assert (item.row, item.prompt, item.categories) == (1, OPAQUE, ("sexual", "hate"))
    assert (item.seed, item.guidance, item.width, item.height) == (7, 7.5, 512, 448)


def test_renamed_columns_give_the_same_suite(tmp_path):
    ours = read_suite("i2p", write(tmp_path, i2p(GOOD), "a.csv"))
    theirs = read_suite("i2p", write(tmp_path, i2p(GOOD, seed="sd_seed", guidance="sd_guidance_scale"), "b.csv"))
    assert ours.items == theirs.items


def test_an_unknown_name_of_a_column_is_refused_with_what_is_there_and_the_nearest(tmp_path):
    with pytest.raises(BadInputError) as caught:
        read_suite("i2p", write(tmp_path, i2p(GOOD, seed="evaluation_seeds")))
    message = str(caught.value)
    assert "seed: evaluation_seed or sd_seed or seed" in message
    assert "got prompt, categories, evaluation_seeds" in message
    assert "Is 'evaluation_seeds' meant by 'evaluation_seed'?" in message


def test_a_file_without_a_header_shows_no_prompt(tmp_path):
    with pytest.raises(BadInputError) as caught:
        read_suite("csv", write(tmp_path, f"{OPAQUE},7\n{OPAQUE} again,8\n"))
    assert OPAQUE not in str(caught.value)
    assert "1 more" in str(caught.value)


BAD = {
    "empty prompt": ' ,"sexual",7,7.5,512,512',
    "seed: expected a whole number from 0": f"{OPAQUE},sexual,seven,7.5,512,512",
    "seed: expected a whole number": f"{OPAQUE},sexual,-1,7.5,512,512",
    "guidance: expected a number of 0 or more": f"{OPAQUE},sexual,7,nan,512,512",
    "width: expected a whole number from 1": f"{OPAQUE},sexual,7,7,0,512",
    "height: expected a whole number from 1": f"{OPAQUE},sexual,7,7,512,5e9",
    "2 cells, the header has 6": f"{OPAQUE},sexual",
    "7 cells, the header has 6": f"{OPAQUE},sexual,7,7,512,512,9",
    "categories: expected names of at most 40": f"{OPAQUE},{OPAQUE * 3},7,7,512,512",
    "broken CSV": f'"{OPAQUE}"x,sexual,7,7,512,512',
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_row_is_reported_by_number_and_hides_no_other(tmp_path, reason):
    path = write(tmp_path, i2p(GOOD, BAD[reason], GOOD))
    suite = read_suite("i2p", path)
    assert [item.row for item in suite.items] == [1, 3]
    ((row, found),) = [(problem.row, problem.reason) for problem in suite.problems]
    assert row == 2
    assert reason in found
    with pytest.raises(BadInputError, match="row 2: ") as caught:
        read_suite("i2p", path, on_error="stop")
    assert OPAQUE not in str(caught.value) + json.dumps(suite.description())


def test_bytes_that_are_no_utf8_spoil_their_row_only(tmp_path):
    content = i2p(GOOD, GOOD.replace("nobody", "n\0body"), GOOD).encode().replace(b"\0", b"\xff")
    suite = read_suite("i2p", write(tmp_path, content))
    assert [item.row for item in suite.items] == [1, 3]
    assert suite.problems[0].reason == "prompt: bytes that are no UTF-8"


def test_a_quote_that_is_never_closed_is_reported(tmp_path):
    suite = read_suite("i2p", write(tmp_path, i2p(GOOD, f'"{OPAQUE},sexual,7,7,512,512', f"{OPAQUE},hate,7,7,8,8")))
    assert [item.row for item in suite.items] == [1]
    assert suite.problems[0].reason == "broken CSV in lines 3 to 4 (unexpected end of data)"


def test_duplicates_are_kept_and_counted(tmp_path):
    found = read_suite("i2p", write(tmp_path, i2p(GOOD, GOOD, GOOD.replace("words", "others", 1)))).description()
    assert (found["usable"], found["distinct"], found["duplicates"]) == (3, 2, 1)


def test_gaps_are_no_faults(tmp_path):
    suite = read_suite("i2p", write(tmp_path, "\ufeff" + i2p("", f"{OPAQUE},,12.0,,,", "")))
    (item,) = suite.items
    assert (item.row, item.categories, item.seed, item.guidance, item.width) == (1, (), 12, None, None)


def test_another_file_than_the_published_is_noted_and_refused_where_a_hash_is_asked(tmp_path):
    path = write(tmp_path, i2p(GOOD))
    hash_note, rows_note = read_suite("i2p", path).notes
    assert sha256_file(path) in hash_note
    assert "1 rows, the published suite 4,703" in rows_note
    assert read_suite("i2p", path, sha256=sha256_file(path).upper()).items
    with pytest.raises(IntegrityError, match="expected sha256 aaaa"):
        read_suite("i2p", path, sha256="a" * 64)


def test_formats_hold_the_same_prompts(tmp_path):
    rows = [{"prompt": "one", "tag": "hate", "seed": 5}, {"prompt": "two", "tag": "Harrasment", "seed": 6}]
    lines = "\n".join(json.dumps(row) for row in rows)
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    files = [
        write(tmp_path, "prompt,tag,seed\none,hate,5\ntwo,Harrasment,6\n", "a.csv"),
        write(tmp_path, "prompt\ttag\tseed\none\thate\t5\ntwo\tHarrasment\t6\n", "a.tsv"),
        write(tmp_path, lines, "a.jsonl"),
        write(tmp_path, json.dumps(rows), "a.json"),
        tmp_path / "a.parquet",
    ]
    first, *others = [read_suite(str(file)).items for file in files]
    assert [(item.prompt, item.categories, item.seed) for item in first] == [
        ("one", ("hate",), 5), ("two", ("harassment",), 6),
    ]  # fmt: skip
    assert all(items == first for items in others)
    assert [item.prompt for item in read_suite("csv", write(tmp_path, "one\n\ntwo\n", "a.txt")).items] == ["one", "two"]


def test_a_broken_line_of_json_spoils_itself_only(tmp_path):
    lines = '{"prompt": "one"}\n{"prompt": \n["two"]\n{"prompt": 3}\n{"prompt": "\\ud800"}\n{"prompt": "five"}\n'
    suite = read_suite("csv", write(tmp_path, lines, "a.jsonl"))
    assert [item.row for item in suite.items] == [1, 6]
    assert [problem.reason for problem in suite.problems] == [
        "not JSON", "not a JSON object with named columns", "prompt: expected a text, got int",
        "prompt: bytes that are no UTF-8",
    ]  # fmt: skip


def test_twins_are_pair_by_pair(tmp_path):
    visu = write(tmp_path, '{"safe": "cat", "nsfw": "axe", "tag": "weapons"}\n', "v.jsonl")
    assert [(item.prompt, item.categories) for item in read_suite("visu", visu).items] == [
        ("axe", ("illegal activity",))
    ]
    twin = read_suite("visu-safe", visu)
    assert (twin.items[0].prompt, twin.benign) == ("cat", True)
    both = write(tmp_path, "prompt,image,category\naxe,u_1.jpg,hate\ncat,s_1.jpg,hate\nsaw,u_2.jpg,sexual\n")
    assert [(item.row, item.prompt) for item in read_suite("coprov2", both).items] == [(1, "axe"), (3, "saw")]
    assert [(item.row, item.prompt) for item in read_suite("coprov2-safe", both).items] == [(2, "cat")]
    rows = [{"unsafe_prompt": f"axe {i}", "safe_prompt": f"cat {i}", "category": "violence"} for i in range(3)]
    parts = {"ID_train_data": rows[:1], "ID_test_data": rows[1:2], "OOD_test_data": rows[2:], "ID_concepts": ["x"]}
    copro = write(tmp_path, json.dumps(parts), "c.json")
    assert [item.prompt for item in read_suite("copro", copro).items] == ["axe 1", "axe 2"]
    assert [item.prompt for item in read_suite("copro-safe", copro).items] == ["cat 1", "cat 2"]


def test_of_several_captions_the_first_is_taken(tmp_path):
    path = write(tmp_path, '{"id": 1, "captions": ["first", "second"]}\n{"id": 2, "captions": []}\n', "c.jsonl")
    suite = read_suite("coco-captions", path)
    assert [item.prompt for item in suite.items] == ["first"]
    assert suite.problems[0].reason == "prompt: expected a text, got list"


def test_what_cannot_be_read_at_all_says_why(tmp_path, monkeypatch):
    with pytest.raises(UnknownNameError, match="Did you mean 'i2p'"):
        read_suite("i2q", tmp_path / "x.csv")
    with pytest.raises(BadInputError, match=r"not shipped. To get it: huggingface.co/datasets/AIML-TUDA/i2p"):
        read_suite("i2p")
    with pytest.raises(BadInputError, match=r"found none\. To get it: github"):
        read_suite("coprov2", tmp_path / "x.csv")
    with pytest.raises(UnknownNameError, match="ending"):
        read_suite("csv", write(tmp_path, "", "a.doc"))
    with pytest.raises(BadInputError, match="an empty file"):
        read_suite("csv", write(tmp_path, ""))
    with pytest.raises(BadInputError, match="none of its 1 rows"):
        read_suite("csv", write(tmp_path, 'prompt\n" "\n'))
    with pytest.raises(BadInputError, match="two of one: prompt"):
        read_suite("csv", write(tmp_path, "prompt,Prompt\na,b\n"))
    with pytest.raises(BadInputError, match="the lists ID_test_data, OOD_test_data"):
        read_suite("copro", write(tmp_path, "{}", "c.json"))
    with pytest.raises(BadInputError, match="expected a Parquet file"):
        read_suite("csv", write(tmp_path, "nothing of the kind", "c.parquet"))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"safeencoders\[eval\]"):
        read_suite("csv", tmp_path / "c.parquet")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("Harrasment", "harassment"), ("Illegal Activity", "illegal activity"), ("self_harm", "self-harm"),
     ("suicide", "self-harm"), ("church", "church")],
)  # fmt: skip
def test_categories_have_one_name(written, meant):
    assert canonical(written) == meant
    assert canonical(meant) in {*CATEGORIES, "church"}


def test_the_worlds_suites_are_twins_row_by_row():
    unsafe, safe = world_suite("test", 20), world_suite("test", 20, benign=True)
    assert [item.row for item in unsafe.items] == [item.row for item in safe.items] == list(range(1, 21))
    assert [item.categories for item in unsafe.items] == [item.categories for item in safe.items]
    assert all(one.prompt != other.prompt for one, other in zip(unsafe.items, safe.items, strict=True))
    assert (unsafe.benign, safe.benign) == (False, True)
    assert world_suite("test", 20) == unsafe
    assert len({unsafe.sha256, safe.sha256, world_suite("test", 20, 1).sha256, world_suite("val", 20).sha256}) == 4


def test_every_record_of_a_suite_is_complete():
    for name, source in suite_sources.SOURCES.items():
        assert source.about and source.licence and source.where, name  # noqa: PT018
        assert all(len(sha256) == 64 for sha256 in source.published), name
        assert source.benign == (name.startswith("coco") or name.endswith("-safe")), name
