"""The world's splits leak nothing, redirection sees only what it may, and nothing in it can do harm.

Each check of a stream has a twin on the base models' stream, which holds what redirection must not see: the twin
shows that the check can fail.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random

import pytest

from safeencoders.cli.main import main
from safeencoders.errors import BadInputError
from safeencoders.pictoworld import census, lexicon
from safeencoders.pictoworld.glyphs import places, signs, things
from safeencoders.pictoworld.lexicon import CATEGORIES, CONCEPTS, LOOKALIKES, SPLITS
from safeencoders.pictoworld.scenes import (
    KINDS,
    PALETTES,
    VARIANTS,
    Benign,
    Picture,
    Quad,
    Scene,
    Style,
    benigns,
    quads,
    scenes,
    stream,
    triple_split,
    words,
)

STEPS, BATCH = 30, 64
STYLE = Style(0, 0, ((0, 0),) * 4)
CHILDREN = frozenset(
    "child children childhood kid kids boy boys girl girls baby babies toddler toddlers teen teens teenage teenager "
    "teenagers infant infants schoolboy schoolgirl pupil pupils minor minors youth youths youngster youngsters "
    "adolescent adolescents juvenile juveniles newborn preschooler kindergarten loli lolita shota underage young "
    "daughter son niece nephew lad lass".split()
)
GROUPS = frozenset(  # neutral on purpose: wide families of nations, faiths, origins and their signs, none singled out
    "african american arab asian european indian chinese german russian mexican turkish "
    "christian jewish muslim islamic hindu buddhist sikh catholic protestant atheist "
    "black white brown immigrant refugee gay lesbian trans disabled "
    "swastika crucifix crescent menorah hood hoods rune runes flag flags hammer sickle".split()
)


def redirection() -> tuple[list[Quad], list[Benign]]:
    return joined(everything=False)


def base() -> tuple[list[Quad], list[Benign]]:
    return joined(everything=True)


@cache
def joined(*, everything: bool) -> tuple[list[Quad], list[Benign]]:
    batches = [stream("test", 0, step, BATCH, everything=everything) for step in range(STEPS)]
    return [q for batch, _ in batches for q in batch], [b for _, batch in batches for b in batch]


def says(text: str, phrases: set[str]) -> bool:
    return any(f" {phrase} " in f" {text} " for phrase in phrases)


def phrases_of(*splits: lexicon.Split) -> set[str]:
    return {phrase for concept in CONCEPTS.values() for split in splits for phrase in concept.phrases[split]}


IMPLICIT = {phrase for concept in CONCEPTS.values() for bank in concept.implicit.values() for phrase in bank}


# --- the splits -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(SPLITS, 2)))
def test_splits_share_no_scene_template_palette_variant_or_wording(one: lexicon.Split, other: lexicon.Split) -> None:
    assert not {*scenes(one)} & {*scenes(other)}
    assert not {*PALETTES[one]} & {*PALETTES[other]}
    assert not {*VARIANTS[one]} & {*VARIANTS[other]}
    assert not phrases_of(one) & phrases_of(other)
    patterns = [
        {t.pattern for table in (lexicon.TEMPLATES, lexicon.LONG_TEMPLATES) for t in table[split]}
        for split in (one, other)
    ]
    assert not patterns[0] & patterns[1]


def test_no_caption_or_scene_is_shared_under_a_fresh_seed() -> None:  # seed 0: the test of `world stats` below
    shared = census.overlaps(1)
    assert len(shared) == 6
    assert set(shared.values()) == {0}


def test_a_shared_caption_would_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lexicon.TEMPLATES, "val", lexicon.TEMPLATES["test"])
    monkeypatch.setattr(census, "scenes", lambda _split: scenes("test"))
    monkeypatch.setattr(census, "quads", lambda _split, n, seed, kind: quads("test", n, seed, kind))
    shared = census.overlaps(0, train_batches=1)
    assert shared["scenes of val and test"] == len(scenes("test"))
    assert shared["captions of val and test"] > 1000


def test_the_seed_changes_captions_and_never_the_splits() -> None:
    first, again, fresh = (quads("test", 300, seed) for seed in (0, 0, 1))
    assert first == again
    assert census.captions_sha256(first) != census.captions_sha256(fresh)
    assert {q.safe.scene for q in fresh} <= {*scenes("test")}
    for quad in (*first, *fresh):
        held_for = triple_split(quad.safe.scene.subject, quad.concept.name, quad.safe.scene.place)
        assert held_for in {"train", "test"}
        assert quad.held_triple == (held_for == "test")
        assert quad.safe.style.palette in PALETTES["test"]
        assert quad.safe.style.variant in VARIANTS["test"]


def test_all_kinds_share_the_gallery_of_safe_scenes() -> None:
    galleries = [[q.safe.scene for q in quads("test", 50, 3, kind)] for kind in KINDS]
    assert all(gallery == galleries[0] for gallery in galleries)
    assert len(set(galleries[0])) == 50


def test_twins_say_the_same_but_for_the_concept() -> None:
    added = [q for q in quads("test", 300, 0) if q.concept.mode == "add"]
    assert len(added) > 100
    for quad in added:
        without = {
            " ".join(quad.unsafe_text.replace(phrase, "", 1).split())
            for phrase in quad.concept.phrases["train"]
            if phrase in quad.unsafe_text
        }
        assert quad.safe_text in without


def test_streams_repeat_and_differ_by_step() -> None:
    first, second = stream("a", 0, 5, 8, everything=True), stream("a", 0, 5, 8, everything=True)
    assert first == second
    assert stream("a", 0, 6, 8, everything=True) != first
    assert stream("b", 0, 5, 8, everything=True) != first


def test_more_than_the_split_holds_is_refused() -> None:
    held = len(scenes("test"))
    assert held >= 1400
    message = f"expected at most {held} quadruplets from pictoworld:test, got n={held + 1}"
    with pytest.raises(BadInputError, match=message):
        quads("test", held + 1, 0)
    with pytest.raises(BadInputError, match=message):
        benigns("test", held + 1, 0)


# --- what redirection sees ------------------------------------------------------------------------------------------
def test_redirection_sees_no_held_out_concept() -> None:
    held = {name for name, concept in CONCEPTS.items() if not concept.redirected}
    assert not {name for q in redirection()[0] for name in q.unsafe.concepts} & held
    assert {name for q in base()[0] for name in q.unsafe.concepts} >= held


def test_redirection_sees_no_held_out_synonym() -> None:
    held = phrases_of("val", "test")
    assert not [q.unsafe_text for q in redirection()[0] if says(q.unsafe_text, held)]
    assert len([q for q in base()[0] if says(q.unsafe_text, held)]) > 100


def test_redirection_sees_no_implicit_wording() -> None:
    assert not [q.unsafe_text for q in redirection()[0] if says(q.unsafe_text, IMPLICIT)]
    assert len([q for q in base()[0] if says(q.unsafe_text, IMPLICIT)]) > 100


def test_redirection_sees_one_concept_at_a_time_and_no_long_prompt() -> None:
    assert {(q.kind, len(q.unsafe.concepts)) for q in redirection()[0]} == {("plain", 1)}
    known = base()[0]
    assert {q.kind for q in known} == {"plain", "implicit", "two", "long"}
    assert max(len(q.unsafe.concepts) for q in known) == 2
    long = [q for q in known if q.kind == "long"]
    assert all(" . " in q.safe_text or " calm " in q.safe_text for q in long)
    assert not [q for q in redirection()[0] if " . " in q.safe_text]


def test_redirection_sees_only_its_own_look_alikes() -> None:
    def types(rows: list[Benign]) -> set[str | None]:
        return {row.picture.lookalike for row in rows}

    assert types(redirection()[1]) == {name for name, entry in LOOKALIKES.items() if entry.first_split == "train"}
    assert types(base()[1]) == set(LOOKALIKES)
    assert types(benigns("test", 64, 0)) == set(LOOKALIKES)


def test_redirection_sees_no_held_out_triple_and_no_scene_or_style_of_another_split() -> None:
    for rows in (redirection(), base()):  # the triples are new to the base models too
        assert not [q for q in rows[0] if q.held_triple]
    assert {q.safe.style.palette for q in redirection()[0]} == {*PALETTES["train"]}
    assert {q.safe.style.variant for q in redirection()[0]} == {*VARIANTS["train"]}
    assert {q.safe.scene for q in redirection()[0]} <= {*scenes("train")}
    share = sum(q.held_triple for q in quads("test", 1400, 0)) / 1400
    assert 0.1 < share < 0.2


def test_a_kind_shows_what_it_is_named_after() -> None:
    by_kind = {kind: quads("test", 200, 0, kind) for kind in KINDS}
    synonyms = {s for c in CONCEPTS.values() if c.redirected for s in c.phrases["test"]}
    assert all(says(q.unsafe_text, synonyms) for q in by_kind["synonym"])
    assert not any(q.concept.redirected for q in by_kind["concept"])
    assert all(says(q.unsafe_text, IMPLICIT) for q in by_kind["implicit"])
    for quad in by_kind["two"]:
        first, second = (CONCEPTS[name] for name in quad.unsafe.concepts)
        assert first.category != second.category
        assert (first.mode == "add") != (second.mode == "add")


def test_base_models_know_every_word_of_the_world() -> None:
    heard: set[str] = set()
    for step in range(400):
        rows, lookalikes = stream("test", 0, step, BATCH, everything=True)
        texts = [t for q in rows for t in (q.safe_text, q.unsafe_text)] + [b.text for b in lookalikes]
        heard |= {word for text in texts for word in text.split()}
        if len(heard) == len(list(words())):
            break
    assert heard == set(words())


# --- concepts and look-alikes ---------------------------------------------------------------------------------------
def test_the_categories_are_those_of_i2p() -> None:
    i2p = {"hate", "harassment", "violence", "self-harm", "sexual", "shocking", "illegal activity"}
    assert set(CATEGORIES) == i2p
    assert {concept.category for concept in CONCEPTS.values()} == i2p
    assert sum(concept.redirected for concept in CONCEPTS.values()) >= 15


@pytest.mark.parametrize("category", CATEGORIES)
def test_one_concept_of_each_category_is_held_out(category: str) -> None:
    seen = Counter(c.redirected for c in CONCEPTS.values() if c.category == category)
    assert seen[False] == 1
    assert seen[True] >= 2


@pytest.mark.parametrize("concept", CONCEPTS.values(), ids=CONCEPTS)
def test_every_concept_has_held_out_wordings(concept: lexicon.Concept) -> None:
    assert len(concept.phrases["train"]) >= 3
    assert len(concept.phrases["test"]) >= 2
    assert concept.implicit["train"] == ()
    assert len(concept.implicit["val"]) == len(concept.implicit["test"]) == 1


@pytest.mark.parametrize("split", SPLITS)
def test_a_word_list_misses_implicit_wordings_and_held_out_synonyms(split: lexicon.Split) -> None:
    listed = lexicon.word_list()
    hidden = [p for c in CONCEPTS.values() for p in (*c.implicit[split], *(c.phrases[split] * (split != "train")))]
    assert not [phrase for phrase in hidden if listed & {*phrase.split()}]


def test_a_word_list_catches_what_redirection_was_shown() -> None:
    listed = lexicon.word_list()
    assert all(listed & {*p.split()} for c in CONCEPTS.values() if c.redirected for p in c.phrases["train"])


def test_look_alikes_are_many_half_unseen_and_share_a_word_with_their_concept() -> None:
    assert len(LOOKALIKES) >= 12
    assert 2 * sum(entry.first_split == "train" for entry in LOOKALIKES.values()) <= len(LOOKALIKES)
    joiners = {*"a an the of in from for with under near by amid giving".split()}
    alone = []
    for entry in LOOKALIKES.values():
        borrowed = {w for p in CONCEPTS[entry.concept].phrases["train"] for w in p.split()} - joiners
        alone += [phrase for phrase in entry.phrases if not borrowed & {*phrase.split()}]
    assert alone == ["with a bunch of red balloons"]  # taken for blood by its look only


def test_nudity_is_of_mannequins_only() -> None:
    rows = [*base()[0], *redirection()[0], *(q for kind in KINDS for q in quads("test", 300, 1, kind))]
    bare = [q for q in rows if "nude" in {CONCEPTS[name].mode for name in q.unsafe.concepts}]
    assert len(bare) > 100
    assert {q.safe.scene.subject for q in bare} <= {*lexicon.MANNEQUINS}
    assert {name.partition("_")[2] for name in things.UNCOVERED} == {*lexicon.MANNEQUINS}


def test_no_word_for_a_child_and_no_real_group() -> None:
    glyphs = {*signs.CONCEPTS, *signs.LOOKALIKES, *things.SUBJECTS, *things.OBJECTS, *things.UNCOVERED, *places.PLACES}
    spoken = {*words(), *(part for name in (*glyphs, *CONCEPTS) for part in name.split("_"))}
    assert not spoken & (CHILDREN | GROUPS)


def test_a_forbidden_word_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexicon, "SUBJECTS", (*lexicon.SUBJECTS, "toddler"))
    assert set(words()) & CHILDREN == {"toddler"}


def test_everything_has_a_glyph_and_every_glyph_a_name() -> None:
    drawn = {name for name, concept in CONCEPTS.items() if concept.mode != "nude"}
    assert set(signs.CONCEPTS) == drawn
    assert set(signs.LOOKALIKES) == set(LOOKALIKES)
    assert set(things.SUBJECTS) == {*lexicon.SUBJECTS}
    assert set(things.OBJECTS) == {*lexicon.OBJECTS}
    assert set(places.PLACES) == {*lexicon.PLACES}
    assert set(places.TIMES) == set(places.LIGHTS) == {*lexicon.TIMES}
    overlays = {name for name in drawn if CONCEPTS[name].mode == "add"}
    assert overlays | {name for name, entry in LOOKALIKES.items() if entry.overlay} == signs.OVERLAYS


# --- what survives --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("concepts", "lookalike", "lost"),
    [
        ((), None, set()),
        (("blood",), None, set()),
        (("gun",), None, {"object"}),
        (("nude",), None, {"colour"}),
        (("striptease", "blood"), None, {"colour"}),
        (("blood", "gun"), None, {"object"}),
        (("nude", "gun"), None, {"colour", "object"}),
        ((), "cat_poster", set()),
        ((), "glue_gun", {"object"}),
    ],
)
def test_what_survives_of_the_scene(concepts: tuple[str, ...], lookalike: str | None, lost: set[str]) -> None:
    scene = Scene("mannequin", "red", "cup", "park", "noon")
    survivors = Picture(scene, STYLE, concepts, lookalike).surviving()
    assert survivors == tuple(n for n in ("subject", "colour", "object", "place", "time") if n not in lost)


def test_outside_train_no_two_mannequin_scenes_differ_by_colour_alone() -> None:
    for split in ("val", "test"):
        bare = [(s.subject, s.object, s.place, s.time) for s in scenes(split) if s.subject in lexicon.MANNEQUINS]
        assert len(bare) == len(set(bare))


# --- the commands ---------------------------------------------------------------------------------------------------
def test_stats_writes_the_same_numbers_as_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", "stats", "--json", str(tmp_path / "stats.json")]) == 0
    said = capsys.readouterr().out
    written = json.loads((tmp_path / "stats.json").read_text())
    assert written["world"]["captions_sha256"]["plain"] == census.captions_sha256(quads("test", 1400, 0))
    assert written["world"]["captions_sha256"]["plain"] in said
    assert written["manifest"]["seeds"] == {"world": 0}
    assert set(written["world"]["overlaps"].values()) == {0}
    assert max(row["max"] for row in written["world"]["caption_tokens"].values()) <= 32


def test_preview_fills_a_new_folder_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "preview"
    assert main(["world", "preview", "--out", str(out), "--n", "7", "--split", "train"]) == 0
    assert capsys.readouterr().out.split() == [str(out / "preview.png"), str(out / "captions.txt")]
    assert {path.name for path in out.iterdir()} == {"preview.png", "captions.txt"}
    assert len((out / "captions.txt").read_text().splitlines()) == 8
    assert main(["world", "preview", "--out", str(out), "--n", "7"]) == 2
    assert main(["world", "preview", "--out", str(tmp_path / "more"), "--n", "99999"]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"preview"}


def test_any_scene_has_a_concept_to_show() -> None:
    for split, kind in itertools.product(("val", "test"), KINDS):
        assert len(quads(split, 600, Random(kind).randint(1, 99), kind)) == 600
