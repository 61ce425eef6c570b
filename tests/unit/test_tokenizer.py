"""The tokenizer: one token a word, nothing out of vocabulary, too long refused, saved and loaded unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, CLIPTokenizer

from safeencoders.errors import BadInputError
from safeencoders.pictoworld import tokenizer as world_tokenizer
from safeencoders.pictoworld.scenes import KINDS, benigns, quads, words
from safeencoders.pictoworld.tokenizer import CONTEXT, END, START, encode


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return world_tokenizer.build(list(words()))


def test_every_word_is_one_token(tokenizer: CLIPTokenizer) -> None:
    vocabulary = list(words())
    assert len(vocabulary) == len(set(vocabulary))
    pieces = {word: tokenizer.tokenize(word) for word in vocabulary}
    assert {word: got for word, got in pieces.items() if got != [f"{word}</w>"]} == {}
    assert len({tokenizer.convert_tokens_to_ids(got[0]) for got in pieces.values()}) == len(vocabulary)


@pytest.mark.parametrize("word", ["zeppelin", "naïve", "x7?!", "雪", "🦊", "knives"])
def test_an_unknown_word_falls_back_to_bytes_and_comes_back(tokenizer: CLIPTokenizer, word: str) -> None:
    ids = tokenizer(word, add_special_tokens=False).input_ids
    assert len(ids) > 1
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).replace(" ", "") == word


def test_encode_starts_ends_and_pads_with_the_end_token(tokenizer: CLIPTokenizer) -> None:
    ids = encode(tokenizer, ["a red dog", "a red dog with a cup"])
    assert tuple(ids.shape) == (2, CONTEXT)
    start, end = tokenizer.convert_tokens_to_ids([START, END])
    assert ids[0, 0] == ids[1, 0] == start
    assert tokenizer.convert_ids_to_tokens(ids[0, 1:4]) == ["a</w>", "red</w>", "dog</w>"]
    assert ids[0, 4:].eq(end).all()
    assert not ids[:, 1:4].eq(end).any()


def test_every_caption_fits(tokenizer: CLIPTokenizer) -> None:
    for kind in KINDS:
        rows = quads("test", 300, 0, kind)
        assert encode(tokenizer, [text for q in rows for text in (q.safe_text, q.unsafe_text)]).shape == (600, CONTEXT)
    assert encode(tokenizer, [b.text for b in benigns("test", 300, 0)]).shape == (300, CONTEXT)


def test_a_prompt_that_is_too_long_is_refused_with_both_counts(tokenizer: CLIPTokenizer) -> None:
    assert encode(tokenizer, ["dog " * 30]).shape == (1, CONTEXT)
    with pytest.raises(BadInputError, match=r"expected a prompt of at most 32 tokens .* got 33: 'dog dog"):
        encode(tokenizer, ["a red dog", "dog " * 31])


def test_saved_and_loaded_it_is_the_same(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    texts = ["a red dog", "an unheard-of zeppelin", "🦊"]
    for loaded in (CLIPTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert isinstance(loaded, CLIPTokenizer)
        assert loaded.get_vocab() == tokenizer.get_vocab()
        assert loaded.model_max_length == CONTEXT
        assert loaded(texts).input_ids == tokenizer(texts).input_ids
        assert encode(loaded, texts).equal(encode(tokenizer, texts))


def test_building_twice_gives_the_same(tokenizer: CLIPTokenizer) -> None:
    assert world_tokenizer.build(list(words())).get_vocab() == tokenizer.get_vocab()
