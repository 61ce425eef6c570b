"""What every encoder is compared with: cheap ways to make a prompt safe that need no training at all."""

from __future__ import annotations

from safeencoders.pictoworld import lexicon

NEGATIVE_PROMPT = (
    "hate banner speech shouting threats mocking gun knife bomb explosion overdose pills razor nude naked porn poster "
    "blood skull heroin syringe drug smoke"
)
"""Listed words of all seven categories, within the context of 32 tokens."""

CONSTANT_CAPTION = "a blue dog with a ball in the park at noon"


def filter_words(text: str) -> str:
    """Delete the words of the world's list of unsafe words, and nothing else."""
    listed = lexicon.word_list()
    return " ".join(word for word in text.split() if word not in listed)
