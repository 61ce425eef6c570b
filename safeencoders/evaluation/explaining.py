"""Why a prompt was redirected, or was not: `explain` compares a safe text tower with its original, word by word.

The quantities are defined in `safeencoders.evaluation.explanation`, what they are measured against in
`safeencoders.evaluation.explaining_reference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from safeencoders.catalog import ORIGINAL, find
from safeencoders.errors import BadInputError
from safeencoders.evaluation.explaining_reference import (
    CATEGORIES,
    Reference,
    at_ends,
    ends_of,
    shifts,
    states,
    summary,
)
from safeencoders.evaluation.explanation import Explanation, Near, Word
from safeencoders.loading import DEFAULT, encoder_folder, load
from safeencoders.pictoworld import models
from safeencoders.pictoworld import tokenizer as world_tokenizer

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    TextTower = CLIPTextModel | CLIPTextModelWithProjection

NEAREST = 3
WORD_END = "</w>"


def explain(prompt: str, encoder: str = DEFAULT, *, original: str | TextTower | None = None) -> Explanation:
    """Tell why a safe text tower redirects a prompt, or does not.

    The first call reads some thousand captions of the embedded world, which takes seconds for the world's encoders; a
    shipped encoder's readings are then kept. Of other encoders the rule, the categories and the captions are the
    world's all the same: scenes of eight places, 22 concepts, plain English.

    Args:
        prompt: at most as long as the tokenizer's context.
        encoder: a shipped encoder, "none", or another name or folder that `load` knows.
        original: what the encoder was trained from: a name or folder that `load` knows ("none" for the world's own),
            or a tower. Needed for encoders that are not shipped; their tokenizer is looked for in their folder, in a
            folder "tokenizer" beside it, and then in the original's.

    Raises:
        BadInputError: the original or the tokenizer is missing or does not fit; the prompt is empty or too long.
        UnknownNameError: there is no such encoder.

    Example:
        >>> print(safeencoders.explain("a red dog with a gun in the park at noon"))
    """
    return explainer(encoder, original).explain(prompt)


def explainer(encoder: str = DEFAULT, original: str | TextTower | None = None) -> Explainer:
    """Return what `explain` uses, for many prompts of one encoder. Arguments and errors as there."""
    if _shipped(encoder) and original in {None, ORIGINAL}:
        return _shipped_explainer(encoder)
    if original is None:
        if find(encoder) is None:
            encoder_folder(encoder)  # an unknown name is refused as such
        raise BadInputError(
            f"expected original= for the encoder {encoder!r}: the tower it was trained from, as a tower, a name or a "
            f"folder; original={ORIGINAL!r} if it was trained from pictoworld's"
        )
    names = [encoder, *([original] if isinstance(original, str) else [])]
    tower: Any = load(original) if isinstance(original, str) else original
    return Explainer(load(encoder), tower, _tokenizer(names), encoder)


@lru_cache(maxsize=4)
def _shipped_explainer(encoder: str) -> Explainer:
    return Explainer(load(encoder), load(ORIGINAL), models.tokenizer(), encoder)


def _shipped(name: str) -> bool:
    return name == ORIGINAL or name in models.tower_names()


def _tokenizer(names: Sequence[str]) -> CLIPTokenizer:
    from transformers import CLIPTokenizer

    for name in names:
        if _shipped(name):
            return models.tokenizer()
        folder = encoder_folder(name)
        for place in (folder, folder.parent / "tokenizer"):
            if any((place / file).is_file() for file in ("tokenizer.json", "vocab.json")):
                found: CLIPTokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)
                return found
    raise BadInputError(
        f"expected a tokenizer (tokenizer.json, or vocab.json and merges.txt) in {encoder_folder(names[0])} or in a "
        "folder 'tokenizer' beside it, found none; copy that of the model it was trained from, or give original= as a "
        "folder that holds one"
    )


class Explainer:
    """Explains prompts by a safe text tower, its original and their tokenizer; neither tower is changed."""

    def __init__(self, safe: Any, original: Any, tokenizer: CLIPTokenizer, name: str) -> None:  # noqa: ANN401
        """Check that the three fit, then read the world's captions.

        Raises:
            BadInputError: they do not fit.
        """
        _check(safe, original, tokenizer)
        self.safe, self.original, self.tokenizer, self.name = safe, original, tokenizer, name
        self.reference = Reference.of(safe, original, tokenizer)

    def explain(self, prompt: str) -> Explanation:
        """Explain one prompt.

        Raises:
            BadInputError: it is no text, has no word, or is too long for the tokenizer.
        """
        given: object = prompt
        if not isinstance(given, str) or not given.strip():
            raise BadInputError(f"expected one prompt of at least one word, got {prompt!r}; explain prompts one by one")
        ids = world_tokenizer.encode(self.tokenizer, [prompt])[0].tolist()
        end = self.tokenizer.eos_token_id
        ids = ids[: ids.index(end, 1) + 1]
        groups = self._words(ids)
        rows = [ids, *([*ids[: group[0]], *ids[group[-1] + 1 :]] for group in groups)]
        batch = torch.tensor([[*row, *[end] * (len(ids) - len(row))] for row in rows])
        places = ends_of(batch[:, 1:], end) + 1
        before, after = states(self.original, batch), states(self.safe, batch)
        causes = _causes(at_ends(after, places), at_ends(before, places))
        by_token = shifts(after[0], before[0]).tolist()
        scores = self.reference.probe(summary(before[:1], places[:1]))[0].tolist()
        offsets = self.tokenizer(prompt, return_offsets_mapping=True).offset_mapping

        def cut(first: int, last: int) -> str:
            return prompt[offsets[first][0] : offsets[last][1]]

        return Explanation(
            prompt=prompt,
            encoder=self.name,
            shift=by_token[len(ids) - 1],
            rule=self.reference.rule,
            words=tuple(
                Word(cut(g[0], g[-1]), tuple(cut(i, i) for i in g), tuple(by_token[i] for i in g), cause)
                for g, cause in zip(groups, causes, strict=True)
            ),
            categories=dict(zip(CATEGORIES, scores, strict=True)),
            nearest=tuple(Near(*found) for found in self.reference.nearest(after[0, len(ids) - 1], NEAREST)),
        )

    def _words(self, ids: Sequence[int]) -> list[list[int]]:
        """Group the positions between start and end into words."""
        groups: list[list[int]] = [[]]
        tokens = self.tokenizer.convert_ids_to_tokens(list(ids))
        for place in range(1, len(ids) - 1):
            groups[-1].append(place)
            if tokens[place].endswith(WORD_END):
                groups.append([])
        return [group for group in groups if group]


def _causes(safe: torch.Tensor, original: torch.Tensor) -> list[float]:
    """Return each word's cause from the end states (1 + words, width): the prompt first, then without each word."""
    moved = safe - original
    length, unit = moved[0].norm(), original[0].norm()
    if length == 0:
        return [0.0] * (len(moved) - 1)
    left: list[float] = ((length**2 - moved[1:] @ moved[0]) / (length * unit)).tolist()
    return left


def _check(safe: Any, original: Any, tokenizer: CLIPTokenizer) -> None:  # noqa: ANN401
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    for tower in (safe, original):
        if not isinstance(tower, CLIPTextModel | CLIPTextModelWithProjection):
            raise BadInputError(f"expected a CLIP text tower as original, got {type(tower).__name__}; give its tower")
    for what in ("hidden_size", "vocab_size"):
        expected, found = getattr(safe.config, what), getattr(original.config, what)
        if expected != found:
            raise BadInputError(
                f"expected an original with the encoder's {what} {expected}, got {found}; give the tower that the "
                "encoder was trained from"
            )
    longest, known = safe.config.max_position_embeddings, safe.config.vocab_size
    if tokenizer.model_max_length > longest or len(tokenizer) > known or tokenizer.eos_token_id is None:
        raise BadInputError(
            f"expected a tokenizer of at most {longest} positions and {known} tokens with an end token, got "
            f"{tokenizer.model_max_length}, {len(tokenizer)} and {tokenizer.eos_token!r}; it is another model's"
        )
