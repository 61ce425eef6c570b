"""Scenes, their unsafe twins and their captions, split so that nothing a split tests was trained on.

A scene is (subject, colour, object, place, time). Hashes decide, once and for all, which scenes belong to
which split and which (subject, concept, place) triples are held out; a seed only chooses among them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Literal

from safeencoders.errors import BadInputError
from safeencoders.pictoworld import lexicon
from safeencoders.pictoworld.lexicon import CONCEPTS, LOOKALIKES, Concept, Split, Template

Kind = Literal["plain", "synonym", "concept", "implicit", "two", "long"]
KINDS: tuple[Kind, ...] = ("plain", "synonym", "concept", "implicit", "two", "long")
"""plain is what redirection trains on; each other kind is held out from it."""

ATTRIBUTES = ("subject", "colour", "object", "place", "time")
PALETTES: dict[Split, tuple[int, ...]] = {"train": (0, 1, 2, 3, 4, 5), "val": (6,), "test": (7,)}
LOOKALIKE_SHARE = 4
"""A training batch holds one look-alike for this many quadruplets."""
NEIGHBOURS = 4
"""Redirection's scenes come in fours that share object, place and time: each is a hard negative of the others."""
VARIANTS: dict[Split, tuple[int, ...]] = {"train": (0, 1, 2, 3), "val": (4,), "test": (5,)}


@dataclass(frozen=True)
class Scene:
    """The safe content of a picture."""

    subject: str
    colour: str
    object: str
    place: str
    time: str


@dataclass(frozen=True)
class Style:
    """How a picture is drawn: palette, glyph variant and one (x, y) shift in -1..1 pixels for each slot."""

    palette: int
    variant: int
    shifts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Picture:
    """What the renderer draws: a scene, at most one overlay and one object-sized concept, or a look-alike."""

    scene: Scene
    style: Style
    concepts: tuple[str, ...] = ()
    lookalike: str | None = None

    def surviving(self) -> tuple[str, ...]:
        """Return the names of the scene's attributes that are still to be seen."""
        modes = {CONCEPTS[name].mode for name in self.concepts}
        held = self.lookalike is not None and not LOOKALIKES[self.lookalike].overlay
        lost = {"colour"} if "nude" in modes else set()
        if "replace" in modes or held:
            lost.add("object")
        return tuple(name for name in ATTRIBUTES if name not in lost)


@dataclass(frozen=True)
class Quad:
    """A safe caption and picture with their unsafe twins; the twin differs by the concepts only.

    Attributes:
        counterpart_text: the safe caption with each hidden attribute set to the concept's fixed counterpart, so
            that it follows from the unsafe caption alone.
        counterpart: the picture of that caption.
    """

    safe_text: str
    unsafe_text: str
    counterpart_text: str
    safe: Picture
    unsafe: Picture
    counterpart: Picture
    kind: Kind
    held_triple: bool

    @property
    def concept(self) -> Concept:
        """The (first) unsafe concept."""
        return CONCEPTS[self.unsafe.concepts[0]]


@dataclass(frozen=True)
class Benign:
    """A look-alike: a caption and a picture that share a concept's words and are safe."""

    text: str
    picture: Picture


def _bucket(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("|".join(parts).encode()).digest()[:4], "big") % 100


@cache
def scenes(split: Split) -> tuple[Scene, ...]:
    """Return every scene of the split: 80, 10 and 10 % of all, by hash.

    Outside train, no two scenes with a mannequin differ by colour alone: nudity hides the colour, and an unsafe
    caption would then fit two safe pictures.
    """
    low, high = {"train": (0, 80), "val": (80, 90), "test": (90, 100)}[split]
    everything = itertools.product(lexicon.SUBJECTS, lexicon.COLOURS, lexicon.OBJECTS, lexicon.PLACES, lexicon.TIMES)
    found = [Scene(*parts) for parts in everything if low <= _bucket("scene", *parts) < high]
    if split == "train":
        return tuple(found)
    covered: dict[Scene, Scene] = {}
    for scene in found:
        mannequin = scene.subject in lexicon.MANNEQUINS
        covered.setdefault(replace(scene, colour="") if mannequin else scene, scene)
    return tuple(covered.values())


def triple_split(subject: str, concept: str, place: str) -> Split:
    """Return the split a (subject, concept, place) triple is held out for; "train" means not held out."""
    bucket = _bucket("triple", subject, concept, place)
    return "val" if bucket < 7 else "test" if bucket < 22 else "train"


def _style(split: Split, rng: Random) -> Style:
    shifts = tuple((rng.randint(-1, 1), rng.randint(-1, 1)) for _ in range(4))
    return Style(rng.choice(PALETTES[split]), rng.choice(VARIANTS[split]), shifts)


def _fits(concept: Concept, scene: Scene, split: Split) -> bool:
    held_for = triple_split(scene.subject, concept.name, scene.place)
    return (concept.mode != "nude" or scene.subject in lexicon.MANNEQUINS) and held_for in {"train", split}


def _pick(scene: Scene, split: Split, rng: Random, pool: Sequence[Concept]) -> Concept:
    """Choose a concept for the scene; on mannequins every third is a nude one."""
    fitting = [concept for concept in pool if _fits(concept, scene, split)]
    nude = [concept for concept in fitting if concept.mode == "nude"]
    others = [concept for concept in fitting if concept.mode != "nude"]
    return rng.choice(nude) if nude and (not others or rng.random() < 1 / 3) else rng.choice(others)


def _look(scene: Scene, rng: Random) -> str:
    """Say the colour, as an adjective or as a clause; twins say it the same way."""
    return scene.colour if rng.random() < 0.7 else f"in {scene.colour}"


def _caption(scene: Scene, template: Template, look: str, *, act: str | None = None, extra: str = "") -> str:
    """Fill the template; ``look`` stands before the subject when it is an adjective, behind when a clause."""
    clause = look.split(maxsplit=1)[0] in {"in", "who", "wearing", "on"}
    article = "an" if look[0] in "aeiou" else "a"
    who = f"a {scene.subject} {look}" if clause else f"{article} {look} {scene.subject}"
    if act is None:
        article = "an" if scene.object[0] in "aeiou" else "a"
        act = f"{template.joiner} {article} {scene.object}"
    text = template.pattern.format(who=who, act=act, place=scene.place, time=scene.time, extra=extra)
    return " ".join(text.split())


def _unsafe_caption(scene: Scene, template: Template, look: str, wording: dict[str, str], *, implicit: bool) -> str:
    """Write the twin's caption: each concept's phrase takes the slot its mode names."""
    act, extra = None, ""
    for name, phrase in wording.items():
        mode = CONCEPTS[name].mode
        if mode == "add":
            extra = phrase
        elif mode == "replace":
            act = phrase if implicit else f"{template.joiner} {phrase}"
        else:
            look = phrase
    return _caption(scene, template, look, act=act, extra=extra)


def _counterpart(scene: Scene, look: str, concepts: Sequence[Concept]) -> tuple[Scene, str]:
    """Return the scene and look that follow from the unsafe caption: what is hidden becomes the counterpart."""
    for concept in concepts:
        if concept.counterpart and concept.mode == "replace":
            scene = replace(scene, object=concept.counterpart)
        elif concept.counterpart:
            scene, look = replace(scene, colour=concept.counterpart), concept.counterpart
    return scene, look


def _phrase(concept: Concept, split: Split, kind: Kind, rng: Random, *, everything: bool) -> str:
    """Choose a wording: what the kind calls for, or any at all for the base models."""
    if everything:
        bank = concept.implicit if kind == "implicit" else concept.phrases
        return rng.choice([phrase for phrases in bank.values() for phrase in phrases])
    if kind == "implicit":
        return rng.choice(concept.implicit[split])
    if kind == "synonym":
        return rng.choice(concept.phrases[split])
    return rng.choice(concept.phrases["train"])


def make_quad(scene: Scene, split: Split, kind: Kind, rng: Random, *, everything: bool = False) -> Quad:
    """Make a quadruplet of the kind about the scene.

    Args:
        everything: draw concepts and wordings from all splits, as only the base models may.
    """
    known = [c for c in CONCEPTS.values() if everything or c.redirected != (kind == "concept")]
    first = _pick(scene, split, rng, known)
    chosen = [first]
    if kind == "two":
        other = [c for c in known if c.category != first.category and (c.mode == "add") != (first.mode == "add")]
        chosen.append(_pick(scene, split, rng, other))
    templates = lexicon.LONG_TEMPLATES if kind == "long" else lexicon.TEMPLATES
    template = rng.choice(templates[split])
    wording = {concept.name: _phrase(concept, split, kind, rng, everything=everything) for concept in chosen}
    look, style = _look(scene, rng), _style(split, rng)
    safe = Picture(scene, style)
    follows, follows_look = _counterpart(scene, look, chosen)
    return Quad(
        safe_text=_caption(scene, template, look),
        unsafe_text=_unsafe_caption(scene, template, look, wording, implicit=kind == "implicit"),
        counterpart_text=_caption(follows, template, follows_look),
        safe=safe,
        unsafe=replace(safe, concepts=tuple(concept.name for concept in chosen)),
        counterpart=replace(safe, scene=follows),
        kind=kind,
        held_triple=any(triple_split(scene.subject, c.name, scene.place) != "train" for c in chosen),
    )


def make_benign(scene: Scene, split: Split, lookalike: str, rng: Random, *, style: Style | None = None) -> Benign:
    """Make a look-alike of the given type about the scene."""
    entry = LOOKALIKES[lookalike]
    template = rng.choice(lexicon.TEMPLATES[split])
    phrase = rng.choice(entry.phrases)
    act, extra = (None, phrase) if entry.overlay else (f"{template.joiner} {phrase}", "")
    text = _caption(scene, template, _look(scene, rng), act=act, extra=extra)
    return Benign(text, Picture(scene, style or _style(split, rng), lookalike=lookalike))


def lookalike_types(split: Split, *, everything: bool = False) -> tuple[str, ...]:
    """Return the look-alike types a split may use: those first seen in it or in an earlier one."""
    allowed = lexicon.SPLITS if everything else lexicon.SPLITS[: lexicon.SPLITS.index(split) + 1]
    return tuple(name for name, entry in LOOKALIKES.items() if entry.first_split in allowed)


def _sample_scenes(split: Split, n: int, rng: Random) -> list[Scene]:
    pool = scenes(split)
    if n > len(pool):
        raise BadInputError(
            f"expected at most {len(pool)} quadruplets from pictoworld:{split}, got n={n}; choose n <= {len(pool)}"
        )
    return rng.sample(pool, n)


def quads(split: Split, n: int, seed: int, kind: Kind = "plain") -> list[Quad]:
    """Return n quadruplets about distinct scenes of the split.

    The same seed gives the same scenes for every kind, so that kinds share the gallery of safe pictures.

    Raises:
        BadInputError: n is larger than the split, or the split has no wordings of the kind.
    """
    if split == "train" and kind == "implicit":
        raise BadInputError("expected kind 'plain', 'concept', 'two' or 'long' of train: it has no implicit wordings")
    chosen = _sample_scenes(split, n, Random(f"scenes-{split}-{seed}"))
    rng = Random(f"quads-{split}-{kind}-{seed}")
    return [make_quad(scene, split, kind, rng) for scene in chosen]


def benigns(split: Split, n: int, seed: int) -> list[Benign]:
    """Return n look-alikes, each type of the split in turn, about distinct scenes.

    Raises:
        BadInputError: n is larger than the split.
    """
    rng = Random(f"benigns-{split}-{seed}")
    types = lookalike_types(split)
    chosen = _sample_scenes(split, n, rng)
    return [make_benign(scene, split, types[i % len(types)], rng) for i, scene in enumerate(chosen)]


def stream(name: str, seed: int, step: int, n: int, *, everything: bool) -> tuple[list[Quad], list[Benign]]:
    """Return step's training batch, the same for the same arguments: n quadruplets and n // 4 look-alikes.

    Args:
        everything: True for the base models (all concepts, wordings and kinds), False for redirection
            (what redirection may see: kind "plain", seen look-alikes; scenes come as neighbours).
    """
    rng = Random(f"{name}-{seed}-{step}")
    pool = scenes("train")
    kinds: tuple[Kind, ...] = ("plain", "plain", "plain", "implicit", "two", "long") if everything else ("plain",)
    types = lookalike_types("train", everything=everything)
    batch: list[Quad] = []
    while len(batch) < n:
        scene = (
            rng.choice(pool) if everything or len(batch) % NEIGHBOURS == 0 else _neighbour(batch[-1].safe.scene, rng)
        )
        batch.append(make_quad(scene, "train", rng.choice(kinds), rng, everything=everything))
    return batch, [make_benign(rng.choice(pool), "train", rng.choice(types), rng) for _ in range(n // LOOKALIKE_SHARE)]


def _neighbour(scene: Scene, rng: Random) -> Scene:
    """Return a train scene of the same object, place and time; every third has a mannequin."""
    while True:
        subjects = lexicon.MANNEQUINS if rng.random() < 1 / 3 else lexicon.SUBJECTS
        other = replace(scene, subject=rng.choice(subjects), colour=rng.choice(lexicon.COLOURS))
        if other in _train_scenes():
            return other


@cache
def _train_scenes() -> frozenset[Scene]:
    return frozenset(scenes("train"))


def words() -> Iterator[str]:
    """Yield every word a caption can hold, in a fixed order and once."""
    parts: list[str] = [*lexicon.SUBJECTS, *lexicon.COLOURS, *lexicon.OBJECTS, *lexicon.PLACES, *lexicon.TIMES]
    for concept in CONCEPTS.values():
        for bank in (concept.phrases, concept.implicit):
            parts += [phrase for split in lexicon.SPLITS for phrase in bank[split]]
    parts += [phrase for entry in LOOKALIKES.values() for phrase in entry.phrases]
    for table in (lexicon.TEMPLATES, lexicon.LONG_TEMPLATES):
        for split in lexicon.SPLITS:
            for template in table[split]:
                parts += [template.pattern.format(who="a", act="", place="", time="", extra=""), template.joiner]
    parts.append("an in")
    yield from dict.fromkeys(word for part in parts for word in part.split())
