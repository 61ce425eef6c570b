"""Retrieval: the protocol on towers whose behaviour is known, each theorem with a twin that shows it can fail."""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from safeencoders.errors import BadInputError, UnknownNameError
from safeencoders.evaluation.baselines import filter_words
from safeencoders.evaluation.retrieval import (
    RetrievalSet,
    embed_pictures,
    embed_texts,
    oracle,
    paired,
    retrieval,
    retrieve,
    tied_oracle,
)
from safeencoders.evaluation.towers import Towers
from safeencoders.evaluation.world_data import held_kinds, parse_data, visible
from safeencoders.pictoworld import lexicon, scenes, tokenizer
from safeencoders.pictoworld.scenes import Picture, Quad, Scene, Style

N = 24
DATA = RetrievalSet.of("test", N, 0)
EVERY = [*DATA.plain, *(quad for part in DATA.held.values() for quad in part)]
STYLE = Style(7, 5, ((0, 0),) * 4)


def vector(key: object) -> np.ndarray:
    found = np.random.default_rng(zlib.crc32(str(key).encode())).standard_normal(256)
    return found / np.linalg.norm(found)


def content(picture: Picture) -> np.ndarray:
    """A scene's vector; concepts move it away."""
    found = vector(picture.scene) + (1.5 * vector(picture.concepts) if picture.concepts else 0)
    return (found / np.linalg.norm(found)).astype(np.float32)


class KnownTowers:
    """Reads a caption's picture from a table; a redirecting one reads the safe twin's."""

    def __init__(self, redirects: bool = False, collapsed: bool = False) -> None:
        self.collapsed = collapsed
        self.meaning = {quad.safe_text: quad.safe for quad in EVERY}
        self.meaning |= {quad.unsafe_text: quad.safe if redirects else quad.unsafe for quad in EVERY}

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return self.images([self.meaning[text] for text in texts])

    def images(self, pictures: Sequence[Picture]) -> np.ndarray:
        return np.stack([content(p) for p in pictures]) * (not self.collapsed)


def measured(towers: Any) -> Any:
    return retrieve(DATA, embed_texts(towers, DATA), embed_pictures(towers, DATA))


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    torch.manual_seed(0)
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    tok = tokenizer.build(list(scenes.words()))
    text = {"vocab_size": len(tok), "max_position_embeddings": 32, "eos_token_id": tok.eos_token_id}
    vision = {"image_size": 64, "patch_size": 32}
    return CLIPModel(CLIPConfig(text_config=shared | text, vision_config=shared | vision, projection_dim=12)).eval()


@pytest.fixture(scope="module")
def tok() -> Any:
    return tokenizer.build(list(scenes.words()))


def test_the_keys_are_the_interface() -> None:
    row = retrieval(KnownTowers(), "test", N, 0)  # type: ignore[arg-type]
    for task in ("T-V", "V-T", "T*-VuV*", "V*-TuT*", "T*-V*", "V*-T*"):
        assert list(row[task]) == ["R@1", "R@10", "R@20"]
        assert set(row[task]["R@1"]) == {"value", "n", "interval"}
    assert set(row["top1_unsafe"]) == {"text", "vision"}
    assert set(row["oracle"]) == {"T*-VuV*", "V*-TuT*"}
    assert list(row["by_mode"]) == ["add", "nude", "replace"]
    assert list(row["by_category"]) == list(lexicon.CATEGORIES)
    kinds = ["seen_triple", "held_triple", "synonym", "concept", "implicit", "two", "long"]
    assert list(row["by_heldout"]) == kinds
    for table in ("by_mode", "by_category", "by_concept", "by_heldout"):
        assert all({"R@1", "R@10", "top1_unsafe"} <= set(part) for part in row[table].values())
    assert sum(part["R@1"]["n"] for part in row["by_mode"].values()) == N
    assert sum(row["by_heldout"][name]["R@1"]["n"] for name in ("seen_triple", "held_triple")) == N


def test_a_perfect_redirector_finds_every_safe_twin() -> None:
    row = measured(KnownTowers(redirects=True)).row
    assert row["T*-VuV*"]["R@1"]["value"] == 1
    assert row["top1_unsafe"]["text"]["value"] == 0
    assert all(row["by_heldout"][kind]["R@1"]["value"] == 1 for kind in held_kinds("test"))
    assert row["attribute_match"]["value"] == 1


def test_an_untreated_tower_finds_the_unsafe_twin_first() -> None:
    row = measured(KnownTowers()).row
    assert row["T-V"]["R@1"]["value"] == row["V-T"]["R@1"]["value"] == row["T*-V*"]["R@1"]["value"] == 1
    assert row["T*-VuV*"]["R@1"]["value"] == 0
    assert row["top1_unsafe"]["text"]["value"] == row["top1_unsafe"]["vision"]["value"] == 1
    assert row["attribute_match"]["value"] == 0
    assert row["attribute_match_any"]["value"] == 1


def test_a_collapsed_tower_gets_chance_and_not_the_order_of_the_items() -> None:
    row = measured(KnownTowers(collapsed=True)).row
    groups = N + len({visible(quad) for quad in DATA.plain})
    assert row["T-V"]["R@1"]["value"] == pytest.approx(1 / N)
    assert row["T*-VuV*"]["R@1"]["value"] == pytest.approx(1 / groups)
    assert row["top1_unsafe"]["text"]["value"] == pytest.approx(1 - N / groups)


def quad(scene: Scene, concept: str) -> Quad:
    safe = Picture(scene, STYLE)
    unsafe = replace(safe, concepts=(concept,))
    return Quad(f"{scene}", f"{scene} {concept}", f"{scene}", safe, unsafe, safe, "plain", held_triple=False)


CUP, BOOK = (Scene("man", "red", held, "park", "noon") for held in ("cup", "book"))


def test_the_oracle_cannot_know_a_replaced_object() -> None:
    assert oracle([quad(CUP, "gun")], [quad(CUP, "gun"), quad(BOOK, "gun")])[1].tolist() == [0.5]
    assert oracle([quad(CUP, "blood")], [quad(CUP, "blood"), quad(BOOK, "gun")])[1].tolist() == [1.0]
    assert tied_oracle([quad(CUP, "blood")], [quad(CUP, "blood")])["R@1"]["value"] == 0.5


def test_unsafe_pictures_that_show_the_same_are_one_item() -> None:
    assert visible(quad(CUP, "gun")) == visible(quad(BOOK, "gun"))
    assert visible(quad(CUP, "blood")) != visible(quad(BOOK, "blood"))
    assert visible(quad(CUP, "gun")) != visible(quad(CUP, "knife"))


def test_held_out_kinds_are_about_the_first_scenes_of_the_plain_set() -> None:
    for kind, part in DATA.held.items():
        assert [q.safe.scene for q in part] == [q.safe.scene for q in DATA.plain[: len(part)]]
        assert all(q.kind == kind for q in part)


def test_the_hash_follows_the_world_seed() -> None:
    assert DATA.sha256() == RetrievalSet.of("test", N, 0).sha256()
    assert DATA.sha256() != RetrievalSet.of("test", N, 1).sha256()


def test_the_train_split_has_no_held_out_wordings() -> None:
    assert set(RetrievalSet.of("train", 4, 0).held) == {"concept", "two", "long"}


def test_paired_tests_point_at_the_better_system() -> None:
    good, bad = measured(KnownTowers(redirects=True)), measured(KnownTowers())
    found = paired(good, {"original": bad})["R@1"]["synonym"]["original"]
    assert (found["first_only"], found["second_only"]) == (N, 0)
    assert found["p"] < 0.01
    assert paired(good, {"itself": good})["R@1"]["plain"]["itself"]["p"] == 1


def test_more_than_the_split_and_unknown_data_are_refused() -> None:
    with pytest.raises(BadInputError, match="choose n <="):
        RetrievalSet.of("test", 100_000, 0)
    with pytest.raises(UnknownNameError, match="Did you mean 'pictoworld:test'"):
        parse_data("pictoworld:tets")
    with pytest.raises(BadInputError, match="own"):
        parse_data("photos/quads.csv")
    assert parse_data("pictoworld:val") == "val"


def test_towers_embed_as_the_clip_does(clip: CLIPModel, tok: Any) -> None:
    towers = Towers.from_clip(clip, tok)
    texts = [q.safe_text for q in DATA.plain]
    expected = clip.get_text_features(input_ids=tokenizer.encode(tok, texts)).pooler_output
    assert np.allclose(towers.texts(texts), torch.nn.functional.normalize(expected, dim=-1).detach(), atol=1e-6)
    images = towers.images([q.safe for q in DATA.plain])
    assert images.dtype == np.float32
    assert images.shape == (N, 12)
    assert np.allclose(np.linalg.norm(images, axis=1), 1, atol=1e-6)


def test_a_tuned_tower_takes_its_place_and_the_clip_stays(clip: CLIPModel, tok: Any) -> None:
    torch.manual_seed(1)
    other = CLIPModel(clip.config).eval()
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    original, tuned = Towers.from_clip(clip, tok), Towers.from_clip(clip, tok, text=other.text_model)
    texts, pictures = [q.unsafe_text for q in DATA.plain], [q.unsafe for q in DATA.plain]
    assert not np.allclose(original.texts(texts), tuned.texts(texts), atol=1e-3)
    assert np.array_equal(original.images(pictures), tuned.images(pictures))
    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())


def test_rewriting_changes_the_questions_and_no_gallery(clip: CLIPModel, tok: Any) -> None:
    towers = Towers.from_clip(clip, tok)
    plain, filtered = embed_texts(towers, DATA), embed_texts(towers, DATA, filter_words)
    assert np.array_equal(plain.unsafe, filtered.unsafe)
    assert np.array_equal(plain.held["long"], filtered.held["long"])
    changed = [filter_words(q.unsafe_text) != q.unsafe_text for q in DATA.plain]
    assert any(changed)
    moved = ~np.isclose(plain.asked, filtered.asked, atol=1e-6).all(1)
    assert moved.tolist() == changed


def test_a_caption_longer_than_the_context_is_refused(clip: CLIPModel, tok: Any) -> None:
    with pytest.raises(BadInputError, match="at most 32 tokens"):
        Towers.from_clip(clip, tok).texts(["red " * 40])
