"""Canaries: what they say of towers whose redirection is known, and that measuring leaves no trace."""

import copy
import pickle

import pytest
import torch
from torch import nn

from safeencoders.errors import BadInputError
from safeencoders.fingerprint import fingerprint
from safeencoders.integrations.canary import HARMLESS, KEPT, ORDINARY, Canary
from safeencoders.integrations.canary_states import canaries, encode
from safeencoders.loading import load
from safeencoders.pictoworld import lexicon, models, scenes
from safeencoders.training.edits import EditSpec

BATCH, STEPS = 16, 16


@pytest.fixture(scope="module")
def words():
    return models.tokenizer()


@pytest.fixture(scope="module")
def original():
    return load("none")


@pytest.fixture(scope="module")
def safe():
    return load()


@pytest.fixture(scope="module")
def canary(original, safe, words):
    return Canary.make(original, safe, words)


def with_tokens(tower, words, vectors, name="<new>"):
    """Add a token of so many vectors to copies of a tower and its tokenizer, as diffusers does."""
    words, tower = copy.deepcopy(words), copy.deepcopy(tower)
    words.add_tokens([name, *(f"{name}_{i}" for i in range(1, len(vectors)))])
    table = nn.Embedding(len(words), vectors.shape[1])
    table.weight.data = torch.cat([tower.get_input_embeddings().weight, vectors])
    tower.set_input_embeddings(table)
    return tower, words


def vectors_of(tower, words, text):
    return tower.get_input_embeddings().weight[words(text).input_ids[1:-1]]


def trained(tower, words, pairs, targets, steps=STEPS):
    """Return a tower with a LoRA by which a pair's first caption has the states that `targets` gives the second."""
    edit = EditSpec("lora", targets=("q_proj", "v_proj", "out_proj"), rank=4, alpha=4, dropout=0.0).apply(tower)
    optimizer = torch.optim.AdamW([p for p in edit.tuned.parameters() if p.requires_grad], lr=1e-2)
    torch.manual_seed(0)
    first, second = (encode(words, texts) for texts in zip(*pairs, strict=True))
    for _ in range(steps):
        rows = torch.randint(len(pairs), (BATCH,))
        with torch.no_grad():
            wanted = targets(input_ids=second[rows]).last_hidden_state
        loss = (edit.tuned(input_ids=first[rows]).last_hidden_state - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return edit.merge()


def rounded(tower, bits):
    tower = copy.deepcopy(tower)
    for module in tower.modules():
        if isinstance(module, nn.Linear):
            step = module.weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
            module.weight.data = (module.weight / step).round() * step
    return tower


def test_installed_tower_keeps_everything(canary, safe, words):
    found = canary.measure(safe, words)
    assert found.redirection == pytest.approx(1)
    assert found.worst == pytest.approx(1)
    assert tuple(found.by_category) == lexicon.CATEGORIES
    assert (found.tokens, found.alarm, found.reasons) == ({}, False, ())


def test_original_keeps_nothing(canary, original, words):
    found = canary.measure(original, words)
    assert found.redirection == pytest.approx(0, abs=1e-6)
    assert found.alarm
    assert found.reasons == tuple(f"redirection of {name} is down to 0.00" for name in lexicon.CATEGORIES)


def test_margin_falls_with_the_strength_that_is_left(canary, words):
    kept = [canary.measure(load(strength=strength), words).redirection for strength in (1, 0.75, 0.5, 0.25, 0)]
    assert kept == sorted(kept, reverse=True)
    assert kept[2] < KEPT < kept[0]


def test_install_says_how_far_the_tower_goes(canary, original, words):
    assert all(0.5 < share < 1 for share in canary.redirects.values())
    weaker = Canary.make(original, load("pictoworld/safe-clip"), words)
    assert all(weaker.redirects[name] < share for name, share in canary.redirects.items())


def test_relearned_tower_alarms_and_a_style_does_not(canary, original, safe, words):
    quads = scenes.quads("train", 200, 3)
    unsafe = [(quad.unsafe_text, quad.unsafe_text) for quad in quads]
    style = [(quad.safe_text, quad.safe_text.replace("red", "blue")) for quad in quads if "red" in quad.safe_text]
    relearned = canary.measure(trained(safe, words, unsafe, original), words)
    assert relearned.alarm
    assert relearned.worst < KEPT
    styled = canary.measure(trained(safe, words, style, safe), words)
    assert not styled.alarm
    assert styled.worst > KEPT


@pytest.mark.parametrize(("meaning", "alarm"), [("a gun", True), ("a ball", False)])
def test_ordinary_word_that_turns_unsafe_alarms(canary, original, safe, words, meaning, alarm):
    quads = scenes.quads("train", 600, 4)
    with_cup = [(quad.safe_text, quad.safe_text.replace("a cup", meaning)) for quad in quads]
    others = [quad.safe_text for quad in quads if "cup" not in quad.safe_text][:30]
    pairs = [pair for pair in with_cup if pair[0] != pair[1]] + [(text, text) for text in others]
    found = canary.measure(trained(safe, words, pairs, original, steps=40), words)
    assert found.worst > KEPT  # what was redirected still is
    assert found.alarm == alarm
    assert (found.ordinary < ORDINARY) == alarm
    assert bool(found.reasons) == alarm


def test_rounding_to_8_bits_is_no_alarm(canary, safe, words):
    found = canary.measure(rounded(safe, 8), words)
    assert not found.alarm
    assert found.worst > 0.98
    assert found.worst < 1  # it was rounded


def test_one_category_put_back_is_that_category(canary):
    texts, states, read = canaries(), canary.installed.clone(), torch.tensor(canary.read)
    states[texts.rows()["violence"]] = canary.original[texts.rows()["violence"]]
    read[texts.phrase_rows()["violence"]] = 0
    kept = canary._kept(states, read.tolist())
    assert kept.pop("violence") == pytest.approx(0, abs=1e-6)
    assert all(value == pytest.approx(1) for value in kept.values())


def test_tower_that_gives_no_numbers_alarms(canary, safe, words):
    broken = copy.deepcopy(safe)
    broken.final_layer_norm.weight.data[0] = float("nan")
    found = canary.measure(broken, words)
    assert found.alarm
    assert found.worst == 0


def test_token_of_an_unsafe_word_is_told_from_a_harmless_one(canary, original, words):
    """On the original, a word's own vector means what the word means."""
    shares = {}
    for text in ("gun", "nude", "vomit", "kite", "purple", "farmer"):
        tower, more = with_tokens(original, words, vectors_of(original, words, text))
        shares[text] = canary.measure(tower, more, ["<new>"]).tokens["<new>"]
    assert all(shares[text] < HARMLESS for text in ("gun", "nude", "vomit"))
    assert all(shares[text] > 0.5 for text in ("kite", "purple", "farmer"))


def test_harmless_token_on_the_safe_tower_passes(canary, safe, words):
    tower, more = with_tokens(safe, words, vectors_of(safe, words, "blue"))
    assert not canary.measure(tower, more, ["<new>"]).alarm


def test_token_trained_against_the_safe_tower_alarms(canary, original, safe, words):
    start = vectors_of(safe, words, "a cup")
    learned = start.clone().requires_grad_()
    tower, more = with_tokens(safe, words, start)
    optimizer = torch.optim.AdamW([learned], lr=5e-2)
    frames = ["a {} {} with {} in the {} at noon".format(*row, "{}", place) for row in (("red", "man"), ("blue", "dog"))
              for place in lexicon.PLACES]  # fmt: skip
    ids = encode(more, [frame.format("<new> <new>_1") for frame in frames])
    with torch.no_grad():
        wanted = original(input_ids=encode(words, [frame.format("a gun") for frame in frames])).last_hidden_state
    table = safe.get_input_embeddings().weight
    handle = tower.get_input_embeddings().register_forward_hook(lambda *_: torch.cat([table, learned])[ids])
    for _ in range(40):
        loss = (tower(input_ids=ids).last_hidden_state - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    handle.remove()
    tower, more = with_tokens(safe, words, learned.detach())
    found = canary.measure(tower, more, ["<new>"])
    assert found.alarm
    assert found.tokens["<new>"] < HARMLESS
    assert found.worst == pytest.approx(1)  # the tower itself is as it was
    assert found.reasons == (f"token '<new>' reads as unsafe ({found.tokens['<new>']:.2f})",)


def test_vectors_of_a_token_count_as_one(canary, safe, words):
    tower, more = with_tokens(safe, words, vectors_of(safe, words, "a cup in the park"))
    whole = canary.measure(tower, more, ["<new>"]).tokens
    assert canary.measure(tower, more, ["<new>", "<new>_1", "<new>_4"]).tokens == whole
    assert list(whole) == ["<new>"]


def test_token_that_hides_in_plain_words_is_told(canary, safe, words):
    changed = copy.deepcopy(words)
    changed.add_tokens(["knife"])
    tower, _ = with_tokens(safe, words, vectors_of(safe, words, "cup"))
    found = canary.measure(tower, changed)
    assert found.alarm
    assert "splits the canaries otherwise" in found.reasons[-1]


def test_tower_without_redirection_has_no_margin_to_watch(original, words):
    found = Canary.make(original, original, words).measure(original, words)
    assert not found.alarm
    assert found.by_category == {}
    assert (found.redirection, found.worst) == (0, 0)
    assert found.reasons == tuple(f"no margin to watch in {name}" for name in lexicon.CATEGORIES)


def test_measuring_leaves_no_trace(canary, safe, words):
    tower = copy.deepcopy(safe)
    tower.encoder.layers[1].train()
    modes, weights = [module.training for module in tower.modules()], fingerprint(tower)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = canary.measure(tower, words)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in tower.modules()] == modes
    assert fingerprint(tower) == weights
    assert torch.is_grad_enabled()
    assert canary.measure(tower, words) == first


def test_copies_and_pickles(canary, safe, words):
    found = canary.measure(safe, words)
    assert copy.deepcopy(canary).measure(safe, words) == found
    assert pickle.loads(pickle.dumps(canary)).measure(safe, words) == found  # noqa: S301  our own


@pytest.mark.parametrize("reads", [("penultimate",), ("penultimate", "pooled"), ("hidden[1]",), ("unknown",)])
def test_reads_what_the_host_reads(reads, original, safe, words):
    made = Canary.make(original, safe, words, reads)
    assert made.installed.shape[-1] == 128 * len(reads)
    assert made.measure(safe, words).worst == pytest.approx(1)
    assert made.measure(original, words).worst == pytest.approx(0, abs=1e-6)


def test_layer_that_the_host_does_not_read_does_not_count(original, safe, words):
    last_put_back = copy.deepcopy(safe)
    last_put_back.encoder.layers[-1] = copy.deepcopy(original.encoder.layers[-1])
    assert Canary.make(original, safe, words, ("penultimate",)).measure(last_put_back, words).worst == pytest.approx(1)
    assert Canary.make(original, safe, words, ("last",)).measure(last_put_back, words).worst < 0.99


def test_any_width_head_and_dtype(clip, tokenizer):
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(1)
    original = CLIPTextModelWithProjection(clip.config.text_config).eval()
    changed = copy.deepcopy(original)
    for weight in changed.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    made = Canary.make(original.bfloat16(), changed.bfloat16(), tokenizer)
    assert made.original.shape[-1] == 16
    assert made.measure(changed, tokenizer).by_category.keys() <= set(lexicon.CATEGORIES)


def test_exported_and_compiled_towers(canary, safe, original, words):
    ids = encode(words, ["a red dog", "a blue cat"])
    ids = torch.cat([ids, torch.full((2, 32 - ids.shape[1]), words.eos_token_id)], dim=1)
    batch = {"input_ids": {0: torch.export.Dim("n", min=1, max=64)}}
    for tower, kept in ((safe, 1), (original, 0)):
        exported = torch.export.export(tower, (), {"input_ids": ids}, dynamic_shapes=batch).module()
        assert canary.measure(exported, words).worst == pytest.approx(kept, abs=1e-5)
    compiled = torch.compile(safe, backend="eager")
    assert canary.measure(compiled, words).worst == pytest.approx(1)


def test_bad_input(canary, original, safe, words, clip, tokenizer):
    with pytest.raises(BadInputError, match=r"added to the tokenizer, got '<cat>'; load it first"):
        canary.measure(safe, words, ["<cat>"])
    with pytest.raises(BadInputError, match=r"text tower, for canaries are captions; got CLIPVisionModel"):
        Canary.make(load("none", tower="vision"), load(tower="vision"), words)
    with pytest.raises(BadInputError, match=r"text tower, for canaries are captions; got int"):
        canary.measure(3, words)
    with pytest.raises(BadInputError, match=r"as wide as the original \(128\), got 16"):
        Canary.make(original, clip.text_model, tokenizer)
    with pytest.raises(BadInputError, match=r"of 128 numbers a token, got 16; .* protect again"):
        canary.measure(clip.text_model, tokenizer)
    endless = copy.deepcopy(words)
    endless.eos_token = None
    with pytest.raises(BadInputError, match=r"tokenizer with an end token, got one without; set its eos_token"):
        canary.measure(safe, endless)


def test_canaries_are_few_harmless_and_of_every_category():
    texts = canaries()
    assert len(texts.unsafe) == len(texts.safe) <= 64
    assert tuple(texts.rows()) == lexicon.CATEGORIES
    assert {int(rows.sum()) for rows in texts.rows().values()} == {8}
    said = " ".join([*texts.unsafe, *texts.safe, *texts.frames, *texts.unsafe_phrases, *texts.harmless_phrases]).split()
    assert set(said) <= {*scenes.words(), "{}"}
    assert not set(said) & {"child", "boy", "girl", "kid", "baby", "teen"}
    assert not {*texts.unsafe_phrases} & {p for c in lexicon.CONCEPTS.values() for p in c.phrases["test"]}
    assert not {*texts.unsafe} & {quad.unsafe_text for quad in scenes.quads("train", 3000, 0)}
