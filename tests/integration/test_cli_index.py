"""`index` and `search` as a user runs them: good and bad pictures, updates, an interruption, answers in JSON."""

import json
import os
import shutil

import pytest
from PIL import Image

from safeencoders import pictures
from safeencoders.cli import indexing
from safeencoders.cli.main import main
from safeencoders.pictoworld import scenes
from safeencoders.pictoworld.renderer import render_batch, to_image
from safeencoders.retrieval import Index

QUADS = scenes.quads("test", 8, 0)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Pictures of the world with their unsafe twins, one of them empty, one animated; the current folder is theirs."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    for kind, part in {"safe": [q.safe for q in QUADS], "unsafe": [q.unsafe for q in QUADS]}.items():
        (folder / kind).mkdir(parents=True)
        for i, pixels in enumerate(render_batch(part)):
            to_image(pixels).save(folder / kind / f"{i}.png")
    (folder / "empty.jpg").touch()
    Image.new("L", (8, 8)).save(folder / "moving.gif", save_all=True, append_images=[Image.new("L", (8, 8), 255)])
    (folder / "notes.txt").touch()
    return folder


def searched(*words):
    assert main(["search", "index", *words, "--json", "found.json"]) == 0
    with open("found.json", encoding="utf-8") as file:
        return json.load(file)["search"]["hits"]


def test_a_folder_is_indexed_what_is_skipped_is_listed_and_an_unsafe_prompt_is_redirected(photos, capsys):
    assert main(["index", "photos", "--out", "index", "--json", "made.json"]) == 0
    said = capsys.readouterr().out
    assert "index: 17 pictures, embedded by the original vision tower (pictoworld, from none)" in said
    assert "skipped: expected a picture in photos/empty.jpg: the file is empty" in said
    assert "taken: the first of 2 frames of photos/moving.gif" in said
    made = json.loads((photos.parent / "made.json").read_text())
    assert made["index"]["skipped"].keys() == {"photos/empty.jpg"}
    assert made["index"]["other_files"] == 1
    assert set(made["manifest"]["weights"]) == {"safe text", "safe vision", "raw text", "raw vision"}
    raw = [searched(quad.unsafe_text, "--mode", "raw", "--k", "1")[0]["id"] for quad in QUADS[:4]]
    safe = [searched(quad.unsafe_text, "--k", "1")[0]["id"] for quad in QUADS[:4]]
    assert all(name.startswith("photos/unsafe/") for name in raw)
    assert sum(name.startswith("photos/unsafe/") for name in safe) <= 1
    capsys.readouterr()
    hits = searched("--image", "photos/unsafe/3.png", "--mode", "raw", "--k", "2")
    assert hits[0] == {"id": "photos/unsafe/3.png", "score": 1.0, "kind": "image"}
    said = capsys.readouterr().out
    assert "mode raw: asked through the original vision tower, among 17 items of the original towers" in said
    assert "  1.0000  photos/unsafe/3.png" in said


def test_update_adds_what_is_new_embeds_what_changed_and_takes_out_what_is_gone(photos, capsys):
    assert main(["index", "photos", "--out", "index"]) == 0
    (photos / "safe" / "0.png").unlink()
    shutil.copy(photos / "safe" / "1.png", photos / "new.png")
    shutil.copy(photos / "unsafe" / "0.png", photos / "unsafe" / "1.png")
    shutil.copy(photos / "safe" / "2.png", photos / "empty.jpg")
    old = photos / "safe" / "3.png"
    os.utime(old, (1, 1))
    capsys.readouterr()
    assert main(["index", "photos", "--out", "index", "--update"]) == 0
    assert "added 2, embedded again 1, taken out 1, skipped 0" in capsys.readouterr().out
    index = Index.load("index")
    fresh = Index.build(index.embedder, images=pictures.find(photos.relative_to(photos.parent)).paths)
    for quad in QUADS:
        assert index.search(quad.safe_text, 30) == fresh.search(quad.safe_text, 30)


def test_a_second_folder_joins_the_first_and_an_update_of_one_leaves_the_other(photos, capsys):
    assert main(["index", "photos/safe", "--out", "index"]) == 0
    assert main(["index", "photos/unsafe", "--out", "index", "--update"]) == 0
    (photos / "unsafe" / "0.png").unlink()
    shutil.rmtree(photos / "safe")
    assert main(["index", "photos/unsafe/", "--out", "index", "--update"]) == 0
    assert "index: 15 pictures" in capsys.readouterr().out


@pytest.mark.usefixtures("photos")
def test_an_interrupted_index_says_so_and_goes_on(capsys, monkeypatch):
    monkeypatch.setattr(indexing, "CHUNK", 5)
    add, calls = Index.add, []

    def interrupted(self, **arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        add(self, **arguments)

    with monkeypatch.context() as broken:
        broken.setattr(Index, "add", interrupted)
        assert main(["index", "photos", "--out", "index"]) == 130
    assert "9 pictures are saved; go on with --update" in capsys.readouterr().err
    assert len(searched(QUADS[0].safe_text, "--k", "30")) == 9
    assert "not all of photos is in this index: go on" in capsys.readouterr().out
    assert main(["index", "photos", "--out", "index", "--update"]) == 0
    capsys.readouterr()
    assert len(searched(QUADS[0].safe_text, "--k", "30")) == 17
    assert "not all" not in capsys.readouterr().out
    assert main(["index", "photos", "--out", "whole"]) == 0
    assert Index.load("index").ids() == Index.load("whole").ids()


def test_what_is_done_is_saved_now_and_then(photos, monkeypatch):
    monkeypatch.setattr(indexing, "CHUNK", 5)
    monkeypatch.setattr(indexing, "SAVE_EVERY", 0.0)
    save, saved = Index.save, []
    monkeypatch.setattr(Index, "save", lambda self, *a, **b: (saved.append(len(self)), save(self, *a, **b))[1])
    assert main(["index", "photos", "--out", "index"]) == 0
    assert saved == [4, 9, 14, 17, 17]
    assert len(list((photos.parent / "index").iterdir())) == 2


@pytest.mark.usefixtures("photos")
def test_an_update_without_an_index_starts_one_and_a_pair_has_mode_safe_only(capsys):
    assert main(["index", "photos/safe", "--out", "index", "--update", "--pair"]) == 0
    assert "embedded by pictoworld's own vision tower" in capsys.readouterr().out
    assert searched("a dog", "--k", "1")
    assert main(["search", "index", "a dog", "--mode", "raw"]) == 2
    assert "expected mode 'safe' for an index that was made with pair" in capsys.readouterr().err


def test_file_names_that_are_no_text_are_kept(photos, capsys):
    name = os.fsencode(photos) + b"/caf\xe9.png"
    try:
        shutil.copy(photos / "safe" / "0.png", os.fsdecode(name))
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    assert main(["index", "photos", "--out", "index"]) == 0
    assert any(os.fsencode(name).endswith(b"caf\xe9.png") for name in Index.load("index").ids())
    assert main(["search", "index", "--image", "photos/safe/0.png", "--mode", "raw", "--k", "2"]) == 0
    assert "photos/caf?.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["index", "nowhere", "--out", "new"], "expected a folder with pictures, found none at nowhere"),
        (["index", "photos", "--out", "photos"], "expected a new folder for the index, but photos exists"),
        (["index", "photos", "--out", "photos", "--update"], "expected an index (index.json) in photos"),
        (["index", "photos", "--out", "new", "--on-error", "stop"], "photos/empty.jpg: the file is empty"),
        (["index", "photos", "--out", "new", "--encoder", "pictowolrd"], "Did you mean 'pictoworld'"),
        (["index", "photos", "--out", "new", "--encoder", "none", "--pair"], "holds original towers only"),
        (["index", "bad", "--out", "new"], "none of 1 can be read: expected a picture in bad/empty.jpg"),
        (["index", "photos", "--out", "index", "--update", "--pair"], "expected no --pair"),
        (["index", "photos", "--out", "index", "--update", "--encoder", "none"], "Vectors of different weights"),
        (["search", "index", "a dog", "--mode", "aware"], "mode 'aware' comes with hyperbolic towers"),
        (["search", "index"], "expected either a text or --image FILE"),
        (["search", "index", "a dog", "--image", "photos/safe/0.png"], "expected either a text or --image FILE"),
        (["search", "index", "--image", "photos/empty.jpg"], "the file is empty"),
        (["search", "index", "a dog", "--encoder", "pictoworld/safe-clip"], "got 'pictoworld/safe-clip'"),
        (["search", "photos", "a dog"], "expected an index (index.json) in photos"),
    ],
)
def test_bad_input_is_2_says_why_and_leaves_nothing(words, message, photos, capsys):
    (photos.parent / "bad").mkdir()
    (photos.parent / "bad" / "empty.jpg").touch()
    if "index" in words[1:]:
        assert main(["index", "photos/safe", "--out", "index"]) == 0
    before = sorted(photos.parent.rglob("*"))
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert sorted(photos.parent.rglob("*")) == before
