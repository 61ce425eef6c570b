"""The index: the nearest items exactly, one encoder only, whole or not at all; pictures of every kind."""

import copy
import io
import json
import shutil
import struct
import sys
import types
import zlib
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from safeencoders import pictures
from safeencoders.errors import BadInputError, MissingExtraError, OutputError, UnknownNameError
from safeencoders.pictoworld import models, scenes
from safeencoders.pictoworld.pixels import pixel_values
from safeencoders.pictoworld.renderer import render_batch, to_image
from safeencoders.retrieval import Embedder, Index, shelf, storage
from safeencoders.retrieval.shelf import Shelf

N = 60


@cache
def embedder(name="pictoworld", original=None):
    return Embedder.of(name, original=original)


@cache
def quads():
    return scenes.quads("test", N, 0)


@cache
def gallery():
    """Safe pictures and their unsafe twins, with ids that say which they are."""
    shown = [quad.safe for quad in quads()] + [quad.unsafe for quad in quads()]
    ids = [f"{kind} {i:03}" for kind in ("safe", "unsafe") for i in range(N)]
    return dict(zip(ids, map(to_image, render_batch(shown)), strict=True))


@cache
def world(*, pair=False):
    return Index.build(embedder(), images=gallery().values(), ids=gallery(), pair=pair)


def unsafe_first(index, queries, mode):
    return sum(hits[0].id.startswith("unsafe") for hits in index.search_all(queries, 1, mode)) / len(queries)


# --- what a search finds ---------------------------------------------------------------------------------------------
def random_shelf(n, width=32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(n + 20, width, generator=draw), dim=1)
    return Shelf(tuple(f"{i * 7919 % n:05}" for i in range(n)), vectors[:n].contiguous()), vectors[n:]


def brute(items, queries, k):
    scores = (queries.double() @ items.vectors.double().T).tolist()
    return [
        sorted(((name, round(s, 6)) for name, s in zip(items.ids, row, strict=True)), key=lambda x: (-x[1], x[0]))[:k]
        for row in scores
    ]


@pytest.mark.parametrize("k", [1, 10, 400, 5000])
@pytest.mark.parametrize(("rows", "queries"), [(64, 3), (16_384, 256)])
def test_the_nearest_are_those_of_brute_force_whatever_the_chunks(k, rows, queries, monkeypatch):
    monkeypatch.setattr(shelf, "ROWS", rows)
    monkeypatch.setattr(shelf, "QUERIES", queries)
    items, asked = random_shelf(1000)
    assert items.nearest(asked, k) == brute(items, asked, k)


def test_ties_of_any_number_go_by_id_and_not_by_place():
    items, asked = random_shelf(1000)
    vectors = items.vectors.clone()
    vectors[::2] = asked[0]  # far more copies than the margin holds
    tied = Shelf(items.ids, vectors)
    found = tied.nearest(asked[:1], 10)[0]
    assert [name for name, _ in found] == sorted(items.ids[::2])[:10]
    places = (vectors @ asked[0]).topk(10).indices.tolist()
    assert sorted(items.ids[::2])[:10] != [items.ids[place] for place in places]  # what topk alone would say


def test_k_below_one_and_an_unknown_backend_are_refused():
    items, asked = random_shelf(10)
    with pytest.raises(BadInputError, match="k of at least 1, got 0"):
        items.nearest(asked, 0)
    with pytest.raises(BadInputError, match="'torch' or 'faiss', got 'annoy'"):
        items.nearest(asked, 1, "annoy")


class Flat:
    """What the index uses of FAISS; ties come in the reverse order."""

    def __init__(self, width):
        self.width = width

    def add(self, vectors):
        self.vectors = vectors[::-1]

    def search(self, queries, k):
        scores = queries @ self.vectors.T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, 1), len(self.vectors) - 1 - order


@pytest.mark.parametrize("real", [False, True])
def test_faiss_finds_the_same_as_torch(real, monkeypatch):
    if real:
        pytest.importorskip("faiss", reason="the extra faiss is not installed")
    else:
        monkeypatch.setitem(sys.modules, "faiss", types.SimpleNamespace(IndexFlatIP=Flat))
    items, asked = random_shelf(1000)
    vectors = items.vectors.clone()
    vectors[::3] = asked[1]
    for found in (items, Shelf(items.ids, vectors)):
        assert found.nearest(asked, 10, "faiss") == found.nearest(asked, 10)


def test_without_faiss_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r'pip install "safeencoders\[faiss\]"'):
        world().search("a dog", 1, backend="faiss")


# --- modes -----------------------------------------------------------------------------------------------------------
def test_raw_is_the_plain_search_of_the_original_clip():
    clip, prompt = models.clip(), quads()[0].safe_text
    ids = models.tokenizer()([prompt], return_tensors="pt").input_ids
    text = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)
    pixels = pixel_values(render_batch([quad.safe for quad in quads()]))
    shown = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
    expected = torch.nn.functional.cosine_similarity(text, shown)
    hits = {hit.id: hit.score for hit in world().search(prompt, 2 * N, "raw")}
    for i in range(N):
        assert hits[f"safe {i:03}"] == pytest.approx(float(expected[i]), abs=2e-6)
    safe = {hit.id: hit.score for hit in world().search(prompt, 2 * N, "safe")}
    assert max(abs(safe[name] - hits[name]) for name in hits) > 1e-3  # the twin: another tower has asked


def test_an_unsafe_prompt_finds_unsafe_pictures_in_mode_raw_and_safe_ones_in_mode_safe():
    prompts = [quad.unsafe_text for quad in quads()]
    assert unsafe_first(world(), prompts, "raw") > 0.9
    assert unsafe_first(world(), prompts, "safe") < 0.1
    assert unsafe_first(world(pair=True), prompts, "safe") < 0.1


def test_an_unsafe_picture_finds_itself_in_mode_raw_and_its_safe_twin_in_mode_safe():
    asked = [image for name, image in gallery().items() if name.startswith("unsafe")]
    assert unsafe_first(world(), asked, "raw") == 1.0
    assert unsafe_first(world(), asked, "safe") < 0.1


def test_safe_prompts_find_their_picture_in_both_modes():
    for mode in ("raw", "safe"):
        hits = world().search_all([quad.safe_text for quad in quads()], 1, mode)
        assert sum(found[0].id == f"safe {i:03}" for i, found in enumerate(hits)) >= 0.9 * N


@pytest.mark.parametrize(
    ("pair", "mode", "message"),
    [
        (False, "aware", "mode 'aware' comes with hyperbolic towers, which this version does not have; use 'raw' or"),
        (False, "loud", "expected mode 'raw' or 'safe', got 'loud'"),
        (True, "raw", "expected mode 'safe' for an index that was made with pair"),
    ],
)
def test_modes_that_are_not_there_are_refused(pair, mode, message):
    with pytest.raises(BadInputError, match=message):
        world(pair=pair).search("a dog", 1, mode)


def test_the_original_towers_have_mode_raw_only():
    index = Index.build(embedder("none"), texts=["a dog", "a cat"])
    assert index.search("a dog", 1, "raw")[0].id == "a dog"
    with pytest.raises(BadInputError, match="expected mode 'raw' for 'none', which holds original towers only"):
        index.search("a dog", 1)


def test_a_search_ranks_one_kind_and_pictures_come_first():
    name, image = next(iter(gallery().items()))
    index = Index.build(embedder(), images=[image], texts=["a dog", "a cat"], ids=[name, "d", "c"])
    assert index.ids() == (name, "d", "c")
    assert index.ids("text") == ("d", "c")
    assert [(hit.id, hit.kind) for hit in index.search("a dog")] == [(name, "image")]
    assert [(hit.id, hit.kind) for hit in index.search("a dog", mode="raw", kind="text")] == [
        ("d", "text"),
        ("c", "text"),
    ]
    assert Index(embedder()).search("a dog") == []
    with pytest.raises(BadInputError, match="expected kind 'image' or 'text', got 'sound'"):
        index.search("a dog", kind="sound")
    with pytest.raises(BadInputError, match="all texts or all pictures"):
        index.search_all(["a dog", image])


@pytest.mark.parametrize(("query", "message"), [("  ", "at least one word"), ("dog " * 40, "at most 32 tokens")])
def test_queries_without_words_or_with_too_many_are_refused(query, message):
    with pytest.raises(BadInputError, match=message):
        world().search(query)


# --- items -----------------------------------------------------------------------------------------------------------
def same(one, other):
    prompts = [quad.safe_text for quad in quads()[:10]]
    return one.search_all(prompts, 12, "safe") == other.search_all(prompts, 12, "safe")


def test_an_index_does_not_depend_on_the_order_in_which_it_was_made():
    names = sorted(gallery(), reverse=True)
    parts = Index(embedder())
    for part in (names[:50], names[50:51], names[51:]):
        parts.add(images=[gallery()[name] for name in part], ids=part)
    assert same(parts, world())
    parts.remove(names[-30:])
    assert not same(parts, world())
    parts.add(images=[gallery()[name] for name in names[-30:]], ids=names[-30:])
    assert same(parts, world())


def test_ids_stay_unique_and_a_failed_addition_changes_nothing():
    image = next(iter(gallery().values()))
    index = Index.build(embedder(), texts=["a dog", "a cat"])
    for arguments, message in [
        ({"texts": ["a man", "a dog"]}, "got 'a dog' twice"),
        ({"texts": ["a man"], "images": [image]}, "an id for every item"),
        ({"texts": ["a man"], "ids": ["x", "y"]}, "got more ids"),
        ({"texts": ["a man", ""]}, "at least one word"),
        ({"texts": ["a man"], "on_error": "cry"}, "'stop' or 'skip', got 'cry'"),
    ]:
        with pytest.raises(BadInputError, match=message):
            index.add(**arguments)
    with pytest.raises(BadInputError, match="got 'a man'"):
        index.remove(["a dog", "a man"])
    assert index.ids() == ("a dog", "a cat")
    assert index.remarks == []
    index.add(texts=["a man", ""], on_error="skip")
    assert index.ids() == ("a dog", "a cat", "a man")
    assert [(remark.id, remark.skipped) for remark in index.remarks] == [("", True)]


# --- files -----------------------------------------------------------------------------------------------------------
def test_an_index_reloads_bit_for_bit_and_is_data_only(tmp_path):
    world().save(tmp_path / "i")
    again = Index.load(tmp_path / "i", embedder())
    assert again.ids() == world().ids()
    assert again.search("a dog", 200) == world().search("a dog", 200)
    files = sorted(path.name.split("-")[0] for path in (tmp_path / "i").iterdir())
    assert files == ["index.json", "vectors"]
    assert Index.load(tmp_path / "i").search("a dog", 200) == world().search("a dog", 200)  # by its recorded name


def test_another_encoder_is_refused_and_both_are_named(tmp_path):
    world().save(tmp_path / "i")
    with pytest.raises(BadInputError, match=r"was built, 'pictoworld' \(from 'none'\): safe text [0-9a-f]{12}.*got "
                                            r"'pictoworld/safe-clip' \(from 'none'\)"):  # fmt: skip
        Index.load(tmp_path / "i", "pictoworld/safe-clip")
    shutil.copytree(models.WEIGHTS / models.TOWERS / "pictoworld", tmp_path / "copy")
    moved = Index.load(tmp_path / "i", str(tmp_path / "copy"))  # the same weights under another name
    assert moved.search("a dog", 5) == world().search("a dog", 5)


def test_saving_is_whole_or_not_at_all(tmp_path, monkeypatch):
    small = Index.build(embedder(), texts=["a dog"])
    small.save(tmp_path / "i")
    with pytest.raises(OutputError, match="exists and is not empty"):
        small.save(tmp_path / "i")
    with pytest.raises(BadInputError, match="to be replaced, found none"):
        small.save(tmp_path / "new", replace=True)
    small.add(texts=["a cat"])
    with monkeypatch.context() as broken:
        broken.setattr(storage, "write_json", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="space"):
            small.save(tmp_path / "i", replace=True)
        with pytest.raises(OutputError, match="the disk is full"):
            small.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert Index.load(tmp_path / "i", embedder()).ids() == ("a dog",)
    small.save(tmp_path / "i", replace=True)
    assert Index.load(tmp_path / "i", embedder()).ids() == ("a dog", "a cat")
    assert len(list((tmp_path / "i").iterdir())) == 2  # nothing of the old one, nor of the failed ones, is left


def damage_vectors(folder, _):
    path = next(folder.glob("vectors-*"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def other_vectors(_, record):
    record["vectors"]["file"] = "../vectors-0123456789abcdef.safetensors"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_vectors, "has sha256 .* instead of"),
        (lambda folder, _: next(folder.glob("vectors-*")).unlink(), "is missing"),
        (other_vectors, "do not agree"),
        (lambda _, record: record["items"]["text"].pop(), "do not agree"),
        (lambda _, record: record["items"]["text"].__setitem__(0, record["items"]["text"][1]), "do not agree"),
        (lambda _, record: record.pop("fingerprints"), "do not agree"),
        (lambda _, record: record.update(format=2), "expected an index of format 1 in .*, got 2"),
    ],
)
def test_a_damaged_index_is_refused(damage, message, tmp_path):
    folder = tmp_path / "i"
    Index.build(embedder(), texts=["a dog", "a cat"]).save(folder)
    record = json.loads((folder / "index.json").read_text())
    damage(folder, record)
    (folder / "index.json").write_text(json.dumps(record))
    with pytest.raises(BadInputError, match=message):
        Index.load(folder, embedder())


def test_a_truncated_or_missing_record_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="expected an index"):
        Index.load(tmp_path, embedder())
    (tmp_path / "index.json").write_text('{"format": 1')
    with pytest.raises(BadInputError, match="not valid JSON"):
        Index.load(tmp_path, embedder())


# --- encoders --------------------------------------------------------------------------------------------------------
def test_towers_of_ones_own_need_their_original_for_an_index_beside_it(tmp_path):
    shutil.copytree(models.WEIGHTS / models.TOWERS / "pictoworld", tmp_path / "tuned")
    tuned = str(tmp_path / "tuned")
    with pytest.raises(BadInputError, match="expected a tokenizer"):
        Embedder.of(tuned)
    models.tokenizer().save_pretrained(tmp_path / "tuned")
    with pytest.raises(BadInputError, match=r"expected original= .*nobody has recorded it"):
        Index.build(tuned, texts=["a dog"])
    with pytest.raises(BadInputError, match="nobody has recorded it"):
        Index.build(tuned, texts=["a dog"], on_error="skip")
    assert Index.build(tuned, texts=["a dog"], pair=True).search("a dog", 1)[0].id == "a dog"
    given = Index.build(tuned, texts=["a dog"], original="none")
    assert given.embedder.fingerprints == embedder().fingerprints


def test_a_text_tower_alone_asks_by_text_and_not_by_picture(tmp_path):
    shutil.copytree(models.WEIGHTS / models.TOWERS / "pictoworld" / "text", tmp_path / "text")
    name, image = next(iter(gallery().items()))
    index = Index.build(str(tmp_path / "text"), images=[image], ids=[name], original="none")
    assert index.search("a dog", 1)[0].id == name
    assert index.search_all([image], 1, "raw")[0][0].score == pytest.approx(1)
    with pytest.raises(BadInputError, match="expected a vision tower for images in mode 'safe'"):
        index.search(image)


def test_a_whole_clip_reads_pictures_as_its_folder_says_or_as_clip_does(clip, tokenizer, tmp_path):
    clip.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    plain = Embedder.of(str(tmp_path))
    assert plain.processor.image_mean == pytest.approx([0.481, 0.458, 0.408], abs=1e-3)
    wide = Image.new("RGB", (300, 100), "red")
    assert plain.prepare(wide).shape == (3, 64, 64)
    plain.processor.save_pretrained(tmp_path)
    record = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(record | {"image_mean": [0.5] * 3}))
    assert Embedder.of(str(tmp_path)).processor.image_mean == pytest.approx([0.5] * 3)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(record | {"crop_size": {"height": 32, "width": 32}}))
    with pytest.raises(BadInputError, match=r"pictures of \(3, 64, 64\), got \(3, 32, 32\)"):
        Embedder.of(str(tmp_path))


def test_an_original_of_another_space_is_refused(clip, tokenizer, tmp_path):
    clip.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BadInputError, match=r"expected one projection_dim .*'safe text': 128.*'raw text': 8"):
        Embedder.of("pictoworld", original=str(tmp_path))


def test_a_foreign_tokenizer_is_refused(clip, tokenizer, tmp_path):
    clip.save_pretrained(tmp_path)
    longer = copy.deepcopy(tokenizer)
    longer.add_tokens(["newword"])
    longer.save_pretrained(tmp_path)
    with pytest.raises(BadInputError, match="expected the tokenizer of"):
        Embedder.of(str(tmp_path))


def test_towers_without_projections_share_no_space_and_are_refused(tmp_path):
    for tower in ("text", "vision"):
        shutil.copytree(models.WEIGHTS / models.TOWERS / "pictoworld" / tower, tmp_path / tower)
        path = tmp_path / tower / "model.safetensors"
        save_file({k: v for k, v in load_file(path).items() if not k.endswith("_projection.weight")}, path)
    with pytest.raises(BadInputError, match="expected a text tower with its projection"):
        Embedder.of(str(tmp_path), original="none")


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="Did you mean 'pictoworld'"):
        Embedder.of("pictowolrd")


def test_an_encoder_of_the_hub_brings_its_tokenizer(fake_hub, clip_files, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "words")
    words = {path.name: path.read_bytes() for path in (tmp_path / "words").iterdir()}
    fake_hub.publish("somebody/clip", clip_files | words | {"README.md": b"no need"})
    found = Embedder.of("somebody/clip")
    assert found.prepare("a dog").shape == (32,)
    assert not any("README" in request for request in fake_hub.requests)


# --- pictures --------------------------------------------------------------------------------------------------------
def grey16(value):
    return Image.fromarray(np.full((8, 8), value, np.uint16))


def save(path, image, **options):
    image.save(path, **options)
    return path


def palette(path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    return save(path, image, transparency=1)


def upside_down(path):
    image = Image.new("RGB", (8, 16), "black")
    image.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 3
    return save(path, image, exif=exif, quality=100)


def png_of(path, width, height, depth=8, colour=0, content=b"\0"):
    """A file that says what it is told to say."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)))
    return path


TAKEN = {
    "cmyk.jpg": (lambda p: save(p, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=100), (254, 0, 0)),
    "grey16.png": (lambda p: save(p, grey16(30_000)), (117, 117, 117)),
    "rgb16.png": (lambda p: png_of(p, 1, 1, 16, 2, struct.pack(">B3H", 0, 30_000, 0, 65_535)), (117, 0, 255)),
    "grey16.tif": (lambda p: save(p, grey16(65_535)), (255, 255, 255)),
    "grey32.tif": (lambda p: save(p, Image.new("I", (8, 8), 257)), (1, 1, 1)),
    "palette.png": (palette, (255, 255, 255)),
    "clear.png": (lambda p: save(p, Image.new("RGBA", (8, 8), (0, 0, 0, 0))), (255, 255, 255)),
    "half.webp": (lambda p: save(p, Image.new("RGBA", (8, 8), (0, 0, 0, 128)), lossless=True), (127, 127, 127)),
    "grey-clear.png": (lambda p: save(p, Image.new("LA", (8, 8), (0, 0))), (255, 255, 255)),
    "bits.bmp": (lambda p: save(p, Image.new("1", (8, 8), 1)), (255, 255, 255)),
    "pixel.gif": (lambda p: save(p, Image.new("L", (1, 1), 7)), (7, 7, 7)),
    "turned.jpg": (upside_down, (0, 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_pictures_of_every_mode_come_out_as_a_viewer_shows_them(name, tmp_path):
    make, colour = TAKEN[name]
    image, remark = pictures.read(make(tmp_path / name))
    assert image.mode == "RGB"
    assert remark is None
    assert image.getpixel((0, 0)) == pytest.approx(colour, abs=1)
    assert embedder().prepare(image).shape == (3, 64, 64)


def test_pillows_own_conversion_would_have_got_them_wrong(tmp_path):
    assert Image.open(TAKEN["grey16.png"][0](tmp_path / "a.png")).convert("RGB").getpixel((0, 0)) == (255,) * 3
    assert Image.open(TAKEN["clear.png"][0](tmp_path / "b.png")).convert("RGB").getpixel((0, 0)) == (0,) * 3
    assert Image.open(upside_down(tmp_path / "c.jpg")).convert("RGB").getpixel((0, 0)) == (255,) * 3


def animation():
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=50)
    return buffer.getvalue()


def test_of_an_animation_the_first_frame_is_taken_and_that_is_said(tmp_path):
    (tmp_path / "a.gif").write_bytes(animation())
    image, remark = pictures.read(tmp_path / "a.gif")
    assert (image.getpixel((0, 0)), remark) == ((255, 0, 0), "the first of 3 frames")


def photo():
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(buffer, "JPEG")
    return buffer.getvalue()


def folder(path):
    path.mkdir()


REFUSED = {
    "empty.png": (lambda p: p.write_bytes(b""), "the file is empty"),
    "cut.jpg": (lambda p: p.write_bytes(photo()[:-500]), "is damaged"),
    "head.gif": (lambda p: p.write_bytes(animation()[:20]), "is damaged|no picture"),
    "words.jpg": (lambda p: p.write_text("no picture"), "no picture of a known format"),
    "drawing.jpg": (lambda p: Image.new("RGB", (4, 4)).save(p, "EPS"), "no picture of a known format"),
    "bomb.png": (lambda p: png_of(p, 60_000, 60_000), "more than 178,956,970"),
    "hollow.png": (lambda p: png_of(p, 2_000, 2_000), "is damaged"),
    "strip.png": (lambda p: save(p, Image.new("L", (1, 5_000))), "1 x 5000 pixels, a strip longer than 100 : 1"),
    "float.tif": (lambda p: save(p, Image.new("F", (4, 4), 0.5)), "from 0.5 to 0.5, are neither 8 nor 16 bits"),
    "deep.tif": (lambda p: save(p, Image.new("I", (4, 4), 70_000)), "neither 8 nor 16 bits"),
    "folder.png": (folder, "is damaged"),
    "missing.png": (lambda _: None, "there is no such file"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_is_refused_with_its_reason(name, tmp_path):
    make, reason = REFUSED[name]
    make(tmp_path / name)
    with pytest.raises(BadInputError, match=rf"expected a picture in .*{name}: .*({reason})"):
        pictures.read(tmp_path / name)


def test_many_pixels_are_taken_without_a_warning_and_too_many_are_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", Image.new("L", (8, 8)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # Pillow warns above, and refuses twice as many
    assert pictures.read(path)[0].size == (8, 8)
    monkeypatch.setattr(pictures, "PIXELS", 63)
    with pytest.raises(BadInputError, match=r"a\.png: it has 64 pixels, more than 63"):
        pictures.read(path)


def test_a_damaged_picture_in_memory_is_refused_too():
    image = Image.open(io.BytesIO(photo()[:-500]))
    with pytest.raises(BadInputError, match=r"expected a picture in x: .*is damaged"):
        Index.build(embedder(), images=[image], ids=["x"])


def test_skipped_pictures_are_told_apart_from_those_that_were_taken_with_a_remark(tmp_path):
    (tmp_path / "a.gif").write_bytes(animation())
    (tmp_path / "b.jpg").write_bytes(b"")
    (tmp_path / "c.jpg").write_bytes(photo())
    paths = sorted(tmp_path.iterdir())
    index = Index.build(embedder(), images=paths, on_error="skip")
    assert index.ids() == (str(paths[0]), str(paths[2]))
    assert [(remark.id, remark.skipped) for remark in index.remarks] == [(str(paths[0]), False), (str(paths[1]), True)]
    with pytest.raises(BadInputError, match=r"b\.jpg: the file is empty"):
        Index.build(embedder(), images=paths)


def test_a_folder_is_walked_in_order_and_links_are_not_followed(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    for place in (root / "b", root / "a", root / ".hidden", outside):
        place.mkdir(parents=True)
        for name in ("2.PNG", "1.jpg", "notes.txt", "._1.jpg"):
            (place / name).touch()
    (root / "link.jpg").symlink_to(outside / "1.jpg")
    (root / "nowhere.jpg").symlink_to(outside / "missing.jpg")
    (root / "c").symlink_to(outside)
    (root / "a" / "round").symlink_to(root)
    found = pictures.find(root)
    assert [path.relative_to(root).as_posix() for path in found.paths] == ["a/1.jpg", "a/2.PNG", "b/1.jpg", "b/2.PNG"]
    assert (found.others, found.closed) == (6, ())
    assert len(pictures.find(root / "c").paths) == 2  # the twin: named on purpose, a link is followed


@pytest.mark.parametrize(
    ("name", "message"), [("none", "found none at"), ("file", "found a file"), ("void", "found no")]
)
def test_a_place_without_pictures_is_refused(name, message, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "void").mkdir()
    with pytest.raises(BadInputError, match=message):
        pictures.find(tmp_path / name)


def test_names_are_printed_without_what_a_terminal_would_obey():
    assert pictures.shown(["a\x1b[31m\n\udce9é.jpg"]) == ["a?[31m??é.jpg"]
