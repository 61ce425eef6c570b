"""Generation: the protocol with a pipeline and a judge that never err; each theorem has a twin that can fail."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from safeencoders.errors import BadInputError
from safeencoders.evaluation.baselines import CONSTANT_CAPTION, NEGATIVE_PROMPT, filter_words
from safeencoders.evaluation.drawing import Artist, draw, noise, text_tower
from safeencoders.evaluation.generation import BASELINES, Study, System, diversity, generation
from safeencoders.evaluation.prompts import LOOKALIKE, SAFE, UNSAFE, Prompts
from safeencoders.fingerprint import fingerprint
from safeencoders.pictoworld import lexicon, scenes, tokenizer
from safeencoders.pictoworld.judge import Finding, labels
from safeencoders.pictoworld.renderer import render
from safeencoders.pictoworld.scenes import Picture

PROMPTS = Prompts.of("test", 24, 0)
EVERY = [*PROMPTS.plain, *(quad for part in PROMPTS.held.values() for quad in part)]
TOK = tokenizer.build(list(scenes.words()))
ANYTHING = PROMPTS.plain[0].safe
SEEN = {render(p).tobytes(): p for q in EVERY for p in (q.safe, q.unsafe)}
SEEN |= {render(p).tobytes(): p for p in (Picture(b.picture.scene, b.picture.style) for b in PROMPTS.lookalikes)}
SEEN |= {render(b.picture).tobytes(): b.picture for b in PROMPTS.lookalikes}


class Tower(nn.Module):
    """What it makes of a prompt: the unsafe twin becomes the safe one, look-alikes too, or all one picture."""

    def __init__(self, redirects: bool = False, overzealous: bool = False, constant: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([float(redirects), float(overzealous), float(constant)]))
        self.config = SimpleNamespace(hidden_size=3)

    def means(self, prompt: str) -> Picture:
        redirects, overzealous, constant = self.weight.tolist()
        found = {quad.safe_text: quad.safe for quad in EVERY}
        found |= {quad.unsafe_text: quad.safe if redirects else quad.unsafe for quad in EVERY}
        found |= {b.text: Picture(b.picture.scene, b.picture.style) if overzealous else b.picture for b in LOOKS}
        return ANYTHING if constant else found.get(prompt, ANYTHING)


LOOKS = PROMPTS.lookalikes


class PerfectPipe:
    """Draws exactly what its tower makes of each prompt; counts its pictures."""

    def __init__(self) -> None:
        self.text_encoder: nn.Module = Tower()
        self.tokenizer = TOK
        self.unet = SimpleNamespace(config=SimpleNamespace(in_channels=2, sample_size=4))
        self.drawn: list[tuple[str, str | None]] = []

    def __call__(self, *, prompt: list[str], negative_prompt: list[str] | None, **options: Any) -> Any:
        assert options["latents"].shape == (len(prompt), 2, 4, 4)
        self.drawn += zip(prompt, negative_prompt or [None] * len(prompt), strict=True)
        pictures = [render(self.text_encoder.means(text)) for text in prompt]  # type: ignore[operator]
        return SimpleNamespace(images=np.stack(pictures).astype(np.float32) / 255)


class NoisyPipe(PerfectPipe):
    """Draws its noise, so that a picture shows which noise it came from."""

    def __call__(self, **options: Any) -> Any:
        latents = options["latents"].permute(0, 2, 3, 1).repeat(1, 16, 16, 2)[..., :3]
        return SimpleNamespace(images=torch.sigmoid(latents + self.text_encoder.weight.sum().detach()).numpy())


class PerfectJudge:
    def look(self, pixels: np.ndarray) -> list[Finding]:
        return [self.name(SEEN[picture.tobytes()]) for picture in pixels]

    def name(self, picture: Picture) -> Finding:
        slots = labels(picture)
        concepts = tuple(name for name in slots.values() if name in lexicon.CONCEPTS)
        return Finding(slots, float(bool(concepts)), concepts)


def study() -> Study:
    return Study(Artist(PerfectPipe()), PROMPTS, PerfectJudge())


def value(row: dict[str, Any], *path: str) -> float:
    for key in path:
        row = row[key]
    return row["value"]  # type: ignore[return-value]


def row_of(tower: Tower) -> dict[str, Any]:
    found = study()
    return found.row(found.encoder(tower))  # type: ignore[arg-type]


def test_the_keys_are_the_interface() -> None:
    found = generation(study(), Tower(redirects=True))  # type: ignore[arg-type]
    assert set(found) == {"generation", "baselines", "paired"}
    assert tuple(found["baselines"]) == BASELINES
    row = found["generation"]
    plain = ("concept_present", "any_unsafe", "floor", "fidelity", "surviving", "surviving_reference")
    for key in (*plain, "lookalike_redirected", "lookalike_seen", "lookalike_unseen", "lookalike_drawn", "diversity"):
        assert set(row[key]) == {"value", "n", "interval"}
    assert list(row["by_category"]) == list(lexicon.CATEGORIES)
    assert list(row["by_mode"]) == ["add", "nude", "replace"]
    kinds = {"synonym", "concept", "implicit", "two", "long"}
    assert set(row["by_heldout"]) == kinds | {"seen_triple", "held_triple"}
    assert all({"concept_present", "any_unsafe", "surviving"} == set(part) for part in row["by_heldout"].values())
    assert set(found["paired"]["concept_present"]) == {"plain", "synonym", "implicit"}
    assert all(set(part) == {"original", "word_filter"} for part in found["paired"]["concept_present"].values())


def test_the_original_draws_what_is_asked() -> None:
    found = study()
    row = found.row(found.baseline("original"))
    for key in ("concept_present", "any_unsafe", "fidelity", "fidelity_all_five", "surviving", "surviving_reference"):
        assert value(row, key) == 1
    assert value(row, "floor") == value(row, "lookalike_redirected") == 0
    assert value(row, "lookalike_drawn") == value(row, "diversity") == 1
    assert value(row, "by_heldout", "two", "concept_present") == 1


def test_a_perfect_redirector_draws_the_safe_twin() -> None:
    row = row_of(Tower(redirects=True))
    assert value(row, "concept_present") == value(row, "any_unsafe") == value(row, "lookalike_redirected") == 0
    assert value(row, "surviving") == value(row, "fidelity") == 1
    assert value(row, "by_heldout", "synonym", "concept_present") == 0


def test_a_redirector_that_takes_look_alikes_too_is_caught() -> None:
    row = row_of(Tower(redirects=True, overzealous=True))
    assert value(row, "concept_present") == 0
    for key in ("lookalike_redirected", "lookalike_seen", "lookalike_unseen"):
        assert value(row, key) == 1
    assert row["lookalike_redirected"]["n"] == len(LOOKS)
    assert row["lookalike_seen"]["n"] + row["lookalike_unseen"]["n"] == len(LOOKS)


def test_a_constant_picture_is_safe_and_worthless() -> None:
    row = row_of(Tower(constant=True))
    assert value(row, "any_unsafe") == value(row, "diversity") == 0
    assert value(row, "surviving") < 0.7
    assert value(row, "fidelity_all_five") < 0.1


def test_the_baselines_do_what_their_names_say() -> None:
    found = study()
    filtered, constant = found.baseline("word_filter"), found.baseline("constant_caption")
    assert filtered.prompts(UNSAFE, ["a man with a gun"]) == ["a man with a"]
    assert constant.prompts(UNSAFE, ["a man with a gun"]) == [CONSTANT_CAPTION]
    assert constant.prompts("implicit", ["x"]) == [CONSTANT_CAPTION]
    assert constant.prompts(SAFE, ["x"]) == constant.prompts(LOOKALIKE, ["x"]) == ["x"]
    assert found.baseline("negative_prompt").negative_prompt == NEGATIVE_PROMPT
    assert filtered.negative_prompt is None
    assert System("none", Tower()).prompts(UNSAFE, ["a gun"]) == ["a gun"]  # type: ignore[arg-type]


def test_the_word_filter_deletes_listed_words_and_nothing_else() -> None:
    listed = lexicon.word_list()
    for quad in EVERY:
        kept = filter_words(quad.unsafe_text).split()
        assert kept == [word for word in quad.unsafe_text.split() if word not in listed]
        assert filter_words(quad.safe_text) == quad.safe_text
    assert filter_words("a gun shot and a firearm") == "a shot and a firearm", "a synonym is not on the list"


def test_the_fixed_prompts_fit_the_world() -> None:
    tokenizer.encode(TOK, [NEGATIVE_PROMPT, CONSTANT_CAPTION])
    words = set(NEGATIVE_PROMPT.split())
    assert words <= lexicon.word_list()
    for category in lexicon.CATEGORIES:
        mine = [c for c in lexicon.CONCEPTS.values() if c.category == category and c.redirected]
        assert any(words & set(phrase.split()) for c in mine for phrase in c.phrases["train"])
    assert set(CONSTANT_CAPTION.split()) <= set(scenes.words())
    assert filter_words(CONSTANT_CAPTION) == CONSTANT_CAPTION


def test_noise_depends_on_the_seed_and_the_number_only() -> None:
    every = noise(3, range(6), (2, 4, 4))
    assert torch.equal(every[4:5], noise(3, [4], (2, 4, 4)))
    assert not torch.equal(every[4], every[5])
    assert not torch.equal(every, noise(4, range(6), (2, 4, 4)))


def test_two_systems_with_one_noise_give_bit_equal_pictures() -> None:
    prompts = [quad.safe_text for quad in PROMPTS.plain[:7]]
    first, second = NoisyPipe(), NoisyPipe()
    assert np.array_equal(draw(first, prompts, 0, batch=3), draw(second, prompts[:], 0, batch=7))
    assert not np.array_equal(draw(first, prompts, 0), draw(first, prompts, 1))
    second.text_encoder = Tower(redirects=True)
    assert not np.array_equal(draw(first, prompts, 0), draw(second, prompts, 0))


def test_what_is_drawn_once_is_not_drawn_again() -> None:
    found = study()
    found.row(found.baseline("original"))
    pipe = found.artist.pipe
    before = len(pipe.drawn)
    assert before == sum(map(len, PROMPTS.groups().values()))
    found.row(found.encoder(Tower()))  # type: ignore[arg-type]  # the original's weights under another name
    assert len(pipe.drawn) == before
    found.row(found.baseline("constant_caption"))
    assert {prompt for prompt, _ in pipe.drawn[before:]} == {CONSTANT_CAPTION}
    before = len(pipe.drawn)
    found.row(found.baseline("negative_prompt"))
    assert {negative for _, negative in pipe.drawn[before:]} == {NEGATIVE_PROMPT}


def test_a_tower_that_was_trained_on_is_drawn_again() -> None:
    found, tower = study(), Tower()
    assert value(found.row(found.encoder(tower)), "concept_present") == 1  # type: ignore[arg-type]
    with torch.no_grad():
        tower.weight[0] = 1
    assert value(found.row(found.encoder(tower)), "concept_present") == 0  # type: ignore[arg-type]


def test_the_pipeline_gets_its_own_tower_back() -> None:
    pipe = PerfectPipe()
    own = pipe.text_encoder
    with pytest.raises(RuntimeError), text_tower(pipe, Tower(redirects=True)):
        raise RuntimeError
    assert pipe.text_encoder is own
    assert fingerprint(own) == fingerprint(Tower()) != fingerprint(Tower(redirects=True))


def test_a_prompt_longer_than_the_context_is_refused() -> None:
    for beside in ([], ["a red dog"]):
        with pytest.raises(BadInputError, match="at most 32 tokens"):
            draw(PerfectPipe(), ["red " * 40, *beside], 0)


def test_paired_tests_name_the_better_system() -> None:
    found = generation(study(), Tower(redirects=True))["paired"]["concept_present"]  # type: ignore[arg-type]
    test = found["implicit"]["original"]
    assert (test["first_only"], test["second_only"], test["n"]) == (0, 20, 20)
    assert found["implicit"]["word_filter"]["p"] < 0.01, "implicit prompts hold no listed word"
    same = generation(study(), Tower())["paired"]["concept_present"]  # type: ignore[arg-type]
    assert same["plain"]["original"]["p"] == 1


@pytest.fixture
def pictures() -> np.ndarray:
    return np.stack([render(quad.safe) for quad in PROMPTS.plain])


def test_diversity_is_one_for_the_original_and_zero_for_a_constant(pictures: np.ndarray) -> None:
    assert diversity(pictures, pictures) == {"value": 1.0, "n": 24, "interval": [1.0, 1.0]}
    assert diversity(np.repeat(pictures[:1], 24, axis=0), pictures)["value"] == 0
    assert diversity(pictures, np.repeat(pictures[:1], 24, axis=0))["value"] is None
    half = diversity(np.concatenate([pictures[:12], np.repeat(pictures[:1], 12, axis=0)]), pictures)
    assert 0 < half["interval"][0] < half["value"] < half["interval"][1] < 1


def test_diversity_is_the_ratio_of_mean_distances() -> None:
    def at(*levels: int) -> np.ndarray:
        return np.array(levels, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)

    assert diversity(at(0, 10, 20), at(0, 20, 40))["value"] == pytest.approx(0.5)


def test_the_groups_and_the_hash() -> None:
    groups = PROMPTS.groups()
    assert {name: len(texts) for name, texts in groups.items()} == {
        UNSAFE: 24, SAFE: 24, LOOKALIKE: 32, **dict.fromkeys(("synonym", "concept", "implicit", "two", "long"), 20)
    }  # fmt: skip
    assert PROMPTS.sha256() == Prompts.of("test", 24, 0).sha256() != Prompts.of("test", 24, 5).sha256()
    assert list(Prompts.of("test", 24, 0, held=False).groups()) == [UNSAFE, SAFE, LOOKALIKE]


def test_the_train_split_can_be_drawn_too() -> None:
    assert set(Prompts.of("train", 4, 0).held) == {"concept", "two", "long"}


def test_a_real_pipeline_draws_alike_with_equal_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import DPMSolverMultistepScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    from safeencoders.training.world import autoencoder, generator

    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(TOK), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=TOK.bos_token_id, eos_token_id=TOK.eos_token_id, pad_token_id=TOK.eos_token_id,
    )  # fmt: skip
    tower = CLIPTextModel(config).eval()
    monkeypatch.setattr(generator, "scheduler", lambda: DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=1.0, steps_offset=1
    ))  # fmt: skip
    pipe = generator.pipeline(generator.build(16), autoencoder.build(), tower, TOK)
    pipe.set_progress_bar_config(disable=True)
    prompts = [quad.unsafe_text for quad in PROMPTS.plain[:3]]
    first = draw(pipe, prompts, 0, steps=2, negative_prompt=NEGATIVE_PROMPT)
    assert first.shape == (3, 64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, draw(pipe, prompts, 0, steps=2, negative_prompt=NEGATIVE_PROMPT))
    assert not np.array_equal(first, draw(pipe, prompts, 1, steps=2, negative_prompt=NEGATIVE_PROMPT))
