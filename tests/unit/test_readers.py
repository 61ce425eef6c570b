"""Readers: every format gives the same pairs, bad input is refused in words that quote no text, batches lose no row."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from safeencoders.categories import CATEGORIES, canonical
from safeencoders.errors import BadInputError, SafeEncodersError, UnknownNameError
from safeencoders.pictoworld import tokenizer as world_tokenizer
from safeencoders.pictoworld.pixels import image_processor
from safeencoders.training.readers.batches import PairsReader, count_tokens, encode_texts, load_pixels
from safeencoders.training.readers.pairs import COLUMNS, Pairs, picture, usable
from safeencoders.training.readers.sources import read_pairs

ROWS = [
    {"safe_text": "a red dog", "unsafe_text": 'a, "blue"\ndog', "tag": "Violence"},
    {"safe_text": "a cup", "unsafe_text": "a jug", "tag": "Harrasment"},
    {"safe_text": "a tree", "unsafe_text": "", "tag": "gardening"},
]
DATA = Path(os.environ.get("SAFEENCODERS_DATA", Path(__file__).parents[3] / "shared" / "data"))
COPROV2 = DATA / "prompts" / "coprov2_train.csv"
FUZZ = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


def write(folder: Path, ending: str, rows: list[dict[str, object]]) -> Path:
    file = folder / f"data{ending}"
    if ending in (".jsonl", ".ndjson"):
        file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    elif ending == ".json":
        file.write_text(json.dumps(rows), encoding="utf-8")
    elif ending == ".csv":
        lines = [list(rows[0]), *(list(row.values()) for row in rows)]
        file.write_text("\n".join(",".join(quoted(str(v)) for v in line) for line in lines), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def pairs(n: int, **columns: tuple[str | None, ...]) -> Pairs:
    given_columns = columns or {"safe_text": tuple(f"safe {i}" for i in range(n))}
    return Pairs("made up", given_columns, (None,) * n)


def save_picture(path: Path, shade: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(path)
    return str(path)


# --- formats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".jsonl", ".ndjson", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_same_pairs(tmp_path, ending):
    found = read_pairs(str(write(tmp_path, ending, ROWS)))
    assert found.columns == {
        "safe_text": ("a red dog", "a cup", "a tree"),
        "unsafe_text": ('a, "blue"\ndog', "a jug", None),
    }
    assert found.tags == ("violence", "harassment", "gardening")
    assert found.notes == ()
    assert found.sha256() == read_pairs(str(write(tmp_path, ".jsonl", ROWS))).sha256()


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_one_column_is_enough_and_others_are_noted(tmp_path, ending, column):
    found = read_pairs(str(write(tmp_path, ending, [{column: "x.png", "score": "1"}])))
    assert list(found.columns) == [column]
    assert found.notes == ("columns not used: score",)


def test_paths_of_pictures_are_relative_to_the_file_or_to_the_folder_given(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    file = str(write(tmp_path, ".jsonl", [{"safe_image": "a/b.png"}, {"safe_image": None}]))
    here, there = read_pairs(file), read_pairs(file, images=tmp_path / "elsewhere")
    assert here.columns["safe_image"] == (str(tmp_path / "a/b.png"), None)
    assert there.columns["safe_image"] == (str(tmp_path / "elsewhere/a/b.png"), None)
    assert here.sha256() == there.sha256()


def test_a_column_of_numbers_in_a_csv_file_never_stops_the_reading(tmp_path):
    file = tmp_path / "data.csv"
    file.write_text("safe_text,score\na dog,1\na cup,none\n123,2\n", encoding="utf-8")
    assert read_pairs(str(file)).columns["safe_text"] == ("a dog", "a cup", "123")


def test_save_to_disk_is_read_with_and_without_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(ROWS)
    made.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=made, test=made.select([1])).save_to_disk(tmp_path / "many")
    whole = read_pairs(f"datasets:{tmp_path / 'one'}")
    assert whole.sha256() == read_pairs(f"datasets:{tmp_path / 'many'}").sha256()
    assert read_pairs(f"datasets:{tmp_path / 'many'}@test").columns["safe_text"] == ("a cup",)
    with pytest.raises(BadInputError, match=r"expected the split 'val' in .* got train, test"):
        read_pairs(f"datasets:{tmp_path / 'many'}@val")
    made.rename_columns({name: f"my {name}" for name in made.column_names}).save_to_disk(tmp_path / "none")
    with pytest.raises(BadInputError, match="expected at least one of the columns"):
        read_pairs(f"datasets:{tmp_path / 'none'}")
    with pytest.raises(BadInputError, match="expected a folder that save_to_disk made"):
        read_pairs(f"datasets:{tmp_path}")


def test_pictures_inside_a_data_set_are_refused_with_the_remedy(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = save_picture(tmp_path / "a.png")
    features = datasets.Features({"safe_image": datasets.Image()})
    datasets.Dataset.from_dict({"safe_image": [path]}, features=features).save_to_disk(tmp_path / "made")
    with pytest.raises(BadInputError, match=r"expected texts in the column safe_image .* go into a folder"):
        read_pairs(f"datasets:{tmp_path / 'made'}")


def test_a_data_set_that_cannot_be_reached_says_what_to_do():
    pytest.importorskip("datasets")
    with pytest.raises(BadInputError, match=r"cannot load the data set 'nobody/none' .* gated one needs its terms"):
        read_pairs("datasets:nobody/none")


# --- layouts --------------------------------------------------------------------------------------------------------

VISU = [
    {"safe": "a dog", "nsfw": "a wet dog", "coco_id": 7, "tag": "voilence", "prompt_id": 3},
    {"safe": "a cup", "nsfw": "a wet cup", "coco_id": 8, "tag": "nudity", "prompt_id": 4},
]


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".parquet", ".csv"])
def test_visu_is_known_by_its_columns(tmp_path, ending):
    found = read_pairs(str(write(tmp_path, ending, VISU)))
    assert found.columns == {"safe_text": ("a dog", "a cup"), "unsafe_text": ("a wet dog", "a wet cup")}
    assert found.tags == ("violence", "sexual")
    assert found.notes == ()


def test_pictures_of_visu_are_found_by_their_numbers(tmp_path):
    safe = save_picture(tmp_path / "safe" / "000000000007.jpg")
    unsafe = save_picture(tmp_path / "nsfw" / "4.png")
    found = read_pairs(str(write(tmp_path, ".json", VISU)), images=tmp_path)
    assert found.columns["safe_image"] == (safe, None)
    assert found.columns["unsafe_image"] == (None, unsafe)


def test_visu_with_a_folder_that_holds_neither_kind_is_refused(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(BadInputError, match="expected the folders safe or nsfw"):
        read_pairs(str(write(tmp_path, ".json", VISU)), images=tmp_path / "pictures")
    save_picture(tmp_path / "pictures" / "safe" / "7.webp")
    assert "unsafe_image" not in read_pairs(str(tmp_path / "data.json"), images=tmp_path / "pictures").columns


def test_coprov2_pairs_by_image_name_without_its_first_letter(tmp_path):
    rows = [
        {"prompt": "bad one", "image": "u_1.jpg", "category": "Harrasment"},
        {"prompt": "good one", "image": "s_1.jpg", "category": "Harrasment"},
        {"prompt": "good two", "image": "s_2.jpg", "category": "Hate"},
        {"prompt": "bad one", "image": "u_1.jpg", "category": "Hate"},
    ]
    file = str(write(tmp_path, ".csv", rows))
    found = read_pairs(file)
    assert found.columns == {"safe_text": ("good one", "good two"), "unsafe_text": ("bad one", None)}
    assert found.tags == ("harassment", "hate")
    assert found.missing() == {"safe_text": 0, "unsafe_text": 1}
    assert found.notes == ("rows that repeat an image name, of which the first is kept: 1",)
    assert read_pairs(file, images=tmp_path).columns["safe_image"][1] == str(tmp_path / "s_2.jpg")


def test_coprov2_tells_of_repeated_names_with_other_prompts_and_refuses_other_names(tmp_path):
    rows = [{"prompt": f"text {i}", "image": "s_1.jpg", "category": "Hate"} for i in range(3)]
    assert "whose prompt differs from the first's: 2" in read_pairs(str(write(tmp_path, ".csv", rows))).notes[1]
    rows[1]["image"] = "x_1.jpg"
    with pytest.raises(BadInputError, match=r"begins with s .* in row 2, column image"):
        read_pairs(str(write(tmp_path, ".csv", rows)))


@pytest.mark.skipif(not COPROV2.is_file(), reason=f"no {COPROV2}; SAFEENCODERS_DATA names the folder")
def test_the_real_coprov2_has_its_pairs_and_the_seven_categories():
    found = read_pairs(str(COPROV2))
    assert len(found) == 15_690
    assert set(found.tags) == set(CATEGORIES)
    assert found.missing() == {"safe_text": 0, "unsafe_text": 0}


@pytest.mark.parametrize(
    ("written", "meant"),
    [("Harrasment", "harassment"), (" SELF_harm ", "self-harm"), ("Illegal  activty", "illegal activity")]
    + [("nudity", "sexual"), ("gardening", "gardening"), ("health", "health"), ("Blond", "blond")]
    + [(category, category) for category in CATEGORIES],
)
def test_misspelt_tags_are_mended_and_foreign_ones_kept(written, meant):
    assert canonical(written) == meant


# --- what is refused ------------------------------------------------------------------------------------------------


def test_what_is_no_data_file_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(BadInputError, match=r"found none; check the path, or write datasets:"):
        read_pairs(str(tmp_path / "none.csv"))
    with pytest.raises(BadInputError, match=r"is a folder; name a file in it, or write datasets:"):
        read_pairs(str(tmp_path))
    (tmp_path / "data.xlsx").write_text("x")
    with pytest.raises(UnknownNameError, match=r"unknown ending of a data file '.xlsx'"):
        read_pairs(str(tmp_path / "data.xlsx"))
    with pytest.raises(BadInputError, match="expected a folder of pictures"):
        read_pairs(str(write(tmp_path, ".jsonl", ROWS)), images=tmp_path / "none")


def test_wrong_columns_are_listed_with_near_matches(tmp_path):
    with pytest.raises(BadInputError, match=r"got safetext, other\. Did you mean 'safe_text' by 'safetext'\?"):
        read_pairs(str(write(tmp_path, ".jsonl", [{"safetext": "a dog", "other": 1}])))


def test_a_csv_file_without_a_header_is_refused_without_quoting_its_first_row(tmp_path):
    file = tmp_path / "data.csv"
    file.write_text("a SECRET dog,a SECRET cup\na tree,a cup\n", encoding="utf-8")
    with pytest.raises(BadInputError, match=r"got 2 more\. .* in its first row") as caught:
        read_pairs(str(file))
    assert "SECRET" not in str(caught.value)


SECRET = "SECRET"  # noqa: S105  stands for a text that no message may quote
BROKEN = {
    "ragged.csv": (f"safe_text,tag\na dog,x\n{SECRET},{SECRET},{SECRET}\na,b,c\n".encode(), r"2 have .*rows 3, 4"),
    "latin.csv": (f"safe_text\n{SECRET} caf\xe9\n".encode("latin-1"), r"expected UTF-8 in line 2 of .*save the file"),
    "ragged-latin.csv": (f"safe_text\na,{SECRET}\xe9".encode("latin-1"), "expected UTF-8 in line 2"),
    "twice.jsonl": (b'{"safe_text": "a", "safe_text": 5}', "expected a text in row 1"),
    "twice.csv": (b"safe_text,safe_text\na,b\n", "two of one: safe_text"),
    "empty.csv": (b"", "expected a CSV file"),
    "header.csv": (b"safe_text\n", "expected rows in .* found none"),
    "cut.jsonl": (f'{{"safe_text": "a"}}\n{{"safe_text": "{SECRET}'.encode(), "expected JSON in UTF-8 in line 2"),
    "list.jsonl": (f'["{SECRET}"]'.encode(), "expected a JSON object with named columns in line 1"),
    "number.jsonl": (b'{"safe_text": "a"}\n{"safe_text": 5}', "expected a text in row 2, column safe_text .* got int"),
    "empty.jsonl": (b"", "expected at least one of the columns"),
    "half.jsonl": (b'{"safe_text": "\\ud800"}', "expected whole characters in row 1"),
    "deep.json": (b"[" * 200_000, "nested too deeply"),
    "digits.json": (b"1" * 5000, "expected JSON"),
    "object.json": (b'{"safe": "a"}', "expected a JSON list of objects"),
    "none.parquet": (f"PAR1{SECRET}".encode(), "expected a Parquet file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_by_place_and_never_quoted(tmp_path, name):
    content, expected = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInputError, match=expected) as caught:
        read_pairs(str(tmp_path / name))
    assert SECRET not in str(caught.value)


def test_a_parquet_column_of_another_type_is_refused_and_one_that_is_not_used_is_not(tmp_path):
    assert len(read_pairs(str(write(tmp_path, ".parquet", [{"safe_text": "a", "size": 1.5}])))) == 1
    with pytest.raises(BadInputError, match=r"expected texts in the column safe_text .* got double"):
        read_pairs(str(write(tmp_path, ".parquet", [{"safe_text": 1.5}])))


# --- what is used ---------------------------------------------------------------------------------------------------


def test_rows_that_lack_a_used_part_are_left_out_and_counted():
    made = pairs(3, safe_text=("a", "b", None), unsafe_text=("x", None, None))
    kept, dropped = usable(made)
    assert kept.columns == {"safe_text": ("a",), "unsafe_text": ("x",)}
    assert (dropped.incomplete, dropped.missing) == (2, {"safe_text": 1, "unsafe_text": 2})
    fewer, less = usable(made, ("safe_text",))
    assert fewer.columns == {"safe_text": ("a", "b")}
    assert less.incomplete == 1


def test_when_no_row_is_left_the_counts_say_why():
    made = pairs(2, safe_text=("a", None), unsafe_text=(None, "x"))
    with pytest.raises(BadInputError, match=r"safe_text in 1, unsafe_text in 1\); choose fewer columns with --use"):
        usable(made)
    assert len(usable(made, ("unsafe_text",))[0]) == 1


def test_columns_that_are_not_there_are_refused():
    with pytest.raises(BadInputError, match="got safe_image; the data has safe_text"):
        usable(pairs(2), ("safe_text", "safe_image"))
    with pytest.raises(UnknownNameError, match="Did you mean 'safe_text'"):
        usable(pairs(2), ("safe_txt",))
    with pytest.raises(BadInputError, match="got none"):
        usable(pairs(2), ())


def test_an_unreadable_picture_is_refused_or_left_out_and_listed(tmp_path):
    files = [save_picture(tmp_path / f"{i}.png") for i in range(4)]
    Path(files[1]).write_bytes(Path(files[1]).read_bytes()[:40])
    Path(files[2]).unlink()
    made = pairs(4, safe_image=tuple(files))
    with pytest.raises(BadInputError, match=r"2 of made up cannot be decoded: .*1\.png, .*2\.png; .*--skip-unreadable"):
        usable(made)
    kept, dropped = usable(made, skip_unreadable=True)
    assert kept.columns["safe_image"] == (files[0], files[3])
    assert (dropped.unreadable, dropped.undecodable, dropped.incomplete) == ((files[1], files[2]), 2, 0)
    sound, nothing = usable(kept)
    assert len(sound) == 2
    assert nothing.unreadable == ()
    with pytest.raises(BadInputError, match="expected a row with readable pictures"):
        usable(made.take([1, 2]), skip_unreadable=True)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")  # Pillow's, of TIFF
@FUZZ
@given(st.data())
def test_a_damaged_picture_is_a_picture_or_our_error(tmp_path, data):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])))
    content = bytearray(buffer.getvalue())
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)))):
        content[place] = byte
    file = tmp_path / "damaged"
    file.write_bytes(content)
    with suppress(BadInputError):
        assert picture(file).mode == "RGB"


# --- fingerprint and split ------------------------------------------------------------------------------------------


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path):
    rows = [{"safe_text": "a dog", "safe_image": "a.png"}]
    (tmp_path / "moved").mkdir()
    first = read_pairs(str(write(tmp_path, ".jsonl", rows))).sha256()
    assert first == read_pairs(str(write(tmp_path / "moved", ".jsonl", rows))).sha256()
    for change in ({"safe_text": "a cup"}, {"safe_image": "b.png"}):
        assert first != read_pairs(str(write(tmp_path, ".jsonl", [rows[0] | change]))).sha256()


def test_the_split_keeps_equal_safe_texts_together_and_ignores_order():
    texts = tuple(f"text {i % 400}" for i in range(1000))
    made = pairs(1000, safe_text=texts, unsafe_text=tuple(f"u{i}" for i in range(1000)))
    train, held = made.split(0.2)
    assert len(train) + len(held) == 1000
    assert 120 <= len(held) <= 280
    assert set(train.columns["safe_text"]).isdisjoint(held.columns["safe_text"])
    turned = made.take(range(999, -1, -1)).split(0.2)[1]
    assert set(turned.columns["unsafe_text"]) == set(held.columns["unsafe_text"])
    assert set(held.columns["unsafe_text"]) <= set(made.split(0.5)[1].columns["unsafe_text"])


def test_without_texts_the_split_follows_the_safe_pictures_names(tmp_path):
    names = [f"{i % 50}.png" for i in range(100)]
    made = Pairs("m", {"safe_image": tuple(str(tmp_path / n) for n in names)}, (None,) * 100, root=tmp_path)
    moved = Pairs("m", {"safe_image": tuple(f"/else/{n}" for n in names)}, (None,) * 100, root=Path("/else"))
    held = [{Path(p).name for p in side.columns["safe_image"]} for side in made.split(0.3)]
    assert held == [{Path(p).name for p in side.columns["safe_image"]} for side in moved.split(0.3)]
    assert held[0].isdisjoint(held[1])


def test_a_split_with_an_empty_side_or_a_wrong_share_is_refused():
    with pytest.raises(BadInputError, match="expected rows for training and for validation"):
        pairs(5, safe_text=("same",) * 5).split(0.5)
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(BadInputError, match="between 0 and 1"):
            pairs(5).split(share)


# --- batches --------------------------------------------------------------------------------------------------------


def numbers(texts: list[str]) -> torch.Tensor:
    return torch.tensor([int(text.split()[1]) for text in texts])


def no_pixels(paths: list[Path]) -> torch.Tensor:
    raise AssertionError(paths)


def test_an_epoch_shows_every_row_once_and_the_next_in_another_order():
    reader = PairsReader(pairs(10), numbers, no_pixels, batch=4, seed=1)
    shown = torch.cat([reader.batch(step)["t"] for step in range(5)]).tolist()
    assert sorted(shown[:10]) == sorted(shown[10:]) == list(range(10))
    assert shown[:10] != shown[10:]


def test_a_step_gives_the_same_batch_in_any_order_and_another_seed_another():
    first, second = (PairsReader(pairs(10), numbers, no_pixels, batch=4, seed=1) for _ in range(2))
    forward = [first.batch(step)["t"] for step in range(12)]
    backward = [second.batch(step)["t"] for step in reversed(range(12))][::-1]
    assert all(a.equal(b) for a, b in zip(forward, backward, strict=True))
    other = PairsReader(pairs(10), numbers, no_pixels, batch=4, seed=2)
    assert not all(a.equal(other.batch(step)["t"]) for step, a in enumerate(forward))


@pytest.mark.parametrize("processes", [2, 4])
def test_the_processes_parts_make_up_the_batch_and_only_those_are_read(processes):
    reader = PairsReader(pairs(10), numbers, no_pixels, batch=8, seed=0)
    for step in range(4):
        parts = [reader.batch(step, (rank, processes))["t"] for rank in range(processes)]
        assert {len(part) for part in parts} == {8 // processes}
        assert torch.cat(parts).equal(reader.batch(step)["t"])
    with pytest.raises(BadInputError, match="multiple of the 3 processes, got 8"):
        reader.batch(0, (0, 3))


@pytest.mark.parametrize("batch", [0, 11])
def test_a_batch_that_the_rows_cannot_fill_is_refused(batch):
    assert len(PairsReader(pairs(10), numbers, no_pixels, batch=10, seed=0).batch(0)["t"]) == 10
    with pytest.raises(BadInputError, match=f"expected a batch of 1 to 10 rows, .* got {batch}; change --batch"):
        PairsReader(pairs(10), numbers, no_pixels, batch=batch, seed=0)


def test_all_four_columns_become_roles_and_rows_stay_together(tmp_path):
    files = tuple(save_picture(tmp_path / f"{i}.png", 10 * i) for i in range(6))
    texts = tuple(f"text {i}" for i in range(6))
    made = pairs(6, safe_text=texts, unsafe_text=texts, safe_image=files, unsafe_image=files)
    processor = image_processor(8)
    reader = PairsReader(made, numbers, lambda paths: load_pixels(processor, paths), batch=4, seed=0)
    assert reader.roles == {"t", "t*", "v", "v*"}
    inputs = reader.batch(0)
    assert inputs["v"].dtype == torch.float32
    assert inputs["v"].shape == (4, 3, 8, 8)
    shades = ((inputs["v*"][:, 0, 0, 0] + 1) * 12.75).round().long()
    assert shades.equal(inputs["t"])
    assert inputs["t"].equal(inputs["t*"])


def test_load_pixels_prepares_as_the_models_own_processor_does(tmp_path):
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    Image.fromarray(pixels[..., 0], "L").save(tmp_path / "b.png")
    found = load_pixels(processor, [tmp_path / "a.png", tmp_path / "b.png"])
    assert found.shape == (2, 3, 32, 32)
    assert not found[0].equal(found[1])
    with pytest.raises(BadInputError, match=r"none\.png.*cannot be decoded \(FileNotFoundError\)"):
        load_pixels(processor, [tmp_path / "none.png"])


def test_a_long_text_is_cut_before_its_end_token_and_counted_whole():
    tokenizer = world_tokenizer.build(["a", "dog"])
    ids = encode_texts(tokenizer, ["a dog", "dog " * 10_000], 32)
    start, dog, end = tokenizer.convert_tokens_to_ids([world_tokenizer.START, "dog</w>", world_tokenizer.END])
    assert ids.dtype == torch.int64
    assert ids.shape == (2, 32)
    assert ids[1].tolist() == [start, *[dog] * 30, end]
    assert ids[0, 3:].eq(end).all()
    assert count_tokens(tokenizer, ["a dog", "dog " * 10_000]) == [4, 10_002]


# --- fuzz: pairs or an error of ours, nothing else ------------------------------------------------------------------

NAMES = st.sampled_from([*COLUMNS, "tag", "safe", "nsfw", "coco_id", "prompt_id", "prompt", "image", "category"])
CELLS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["s_1", "u_1"])
JSON_ROWS = st.lists(st.dictionaries(NAMES | st.text(max_size=5), CELLS | st.lists(CELLS, max_size=2)), max_size=5)


def survives(path: Path, content: bytes, images: Path | None = None) -> None:
    path.write_bytes(content)
    with suppress(SafeEncodersError):
        found = read_pairs(str(path), images=images)
        assert len(found.sha256()) == 64
        usable(found, None, skip_unreadable=True)[0].split(0.5)


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
@FUZZ
@given(content=st.binary(max_size=200))
def test_any_bytes_are_survived(tmp_path, ending, content):
    survives(tmp_path / f"x.{ending}", content)


@FUZZ
@given(rows=JSON_ROWS, cut=st.integers(0, 30))
def test_any_json_rows_are_survived(tmp_path, rows, cut):
    for folder in ("safe", "nsfw"):
        (tmp_path / folder).mkdir(exist_ok=True)
    whole = json.dumps(rows).encode()
    survives(tmp_path / "x.json", whole, tmp_path)
    survives(tmp_path / "x.json", whole[:-cut])
    survives(tmp_path / "x.jsonl", b"\n".join(json.dumps(row).encode() for row in rows), tmp_path)


@FUZZ
@given(
    header=st.lists(NAMES, min_size=1, max_size=4),
    cells=st.lists(st.lists(st.text(max_size=8), min_size=1, max_size=4), max_size=5),
    quote=st.booleans(),
)
def test_any_csv_rows_are_survived(tmp_path, header, cells, quote):
    lines = [",".join(quoted(c) if quote else c for c in row) for row in [header, *cells]]
    survives(tmp_path / "x.csv", "\n".join(lines).encode("utf-8", "surrogatepass"))


@FUZZ
@given(st.data())
def test_a_damaged_parquet_file_is_survived(tmp_path, data):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"safe_text": ["a dog", "a cup"] * 20, "coco_id": range(40)}), buffer)
    content = bytearray(buffer.getvalue())
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)))):
        content[place] = byte
    survives(tmp_path / "x.parquet", bytes(content))


def test_the_fuzz_can_meet_pairs_and_errors(tmp_path):
    seen = Counter()
    for content in (b'{"safe_text": "a"}', b"{"):
        (tmp_path / "x.jsonl").write_bytes(content)
        try:
            seen["pairs"] += len(read_pairs(str(tmp_path / "x.jsonl")))
        except SafeEncodersError:
            seen["errors"] += 1
    assert seen == {"pairs": 1, "errors": 1}
