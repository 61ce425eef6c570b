"""Word alignment of an unsafe caption with its safe twin."""

import torch

from safeencoders.training.words import align_batch, align_tokens, shift_positions

START, END = 90, 91


def test_equal_captions_keep_every_place():
    assert align_tokens([START, 1, 2, 3, END], [START, 1, 2, 3, END]) == [0, 1, 2, 3, 4]


def test_a_replaced_word_takes_its_replacements_place():
    assert align_tokens([START, 1, 7, 3, END], [START, 1, 2, 3, END]) == [0, 1, 2, 3, 4]
    assert align_tokens([START, 1, 7, 8, 9, 3, END], [START, 1, 2, 3, END]) == [0, 1, 2, 2, 2, 3, 4]


def test_an_added_word_repeats_the_word_before_it():
    assert align_tokens([START, 1, 2, 7, 8, END], [START, 1, 2, END]) == [0, 1, 2, 2, 2, 3]


def test_padding_is_aligned_with_padding():
    source = torch.tensor([[START, 1, 7, 8, END, END, END]])
    target = torch.tensor([[START, 1, END, END, END, END, END]])
    assert align_batch(source, target, END).tolist() == [[0, 1, 1, 1, 2, 3, 4]]
    assert align_batch(target, source, END).tolist() == [[0, 1, 4, 5, 6, 6, 6]]


def test_the_safe_caption_is_read_at_the_positions_of_the_unsafe_one():
    assert shift_positions([0, 1, 2, 3, 4]) == [0, 1, 2, 3, 4]
    # two words were added after the second: what follows moves by two
    assert shift_positions([0, 1, 1, 1, 2, 3, 4]) == [0, 1, 4, 5, 6, 6, 6]
    # a word of the target that stands for nothing shares the position before it
    assert shift_positions([0, 2, 3]) == [0, 0, 1]
