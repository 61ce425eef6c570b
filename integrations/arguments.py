"""What a caller hands to a host, and what a model or pipeline returns: the tensors in it, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


_OUTPUTS = ("text_model_output", "encoder_outputs")  # what an encoder made, handed in as it is


def embeddings(arguments: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield what is handed in as an embedding, by its argument's name: tensors of any kind, and what cannot be opened.

    A host casts whole numbers to its own format, and reads an attribute of whatever object it gets.
    """
    for name, value in arguments.items():
        if ("embed" in name and "mask" not in name) or name.endswith(_OUTPUTS):
            for part in _parts(value):
                if part is not None and not isinstance(part, str | int | float):
                    yield name, part


def tensors(value: Any) -> Iterator[Tensor]:  # noqa: ANN401  whatever a model or pipeline returns
    """Yield the floating tensors of two or more dimensions inside tuples, lists and outputs."""
    import torch

    for part in _parts(value):
        if isinstance(part, torch.Tensor) and part.is_floating_point() and part.ndim >= 2:
            yield part


def shows_something(arguments: Mapping[str, Any]) -> bool:
    """Say whether a tensor came in that no words and no mask can be; pictures may be of whole numbers."""
    import torch

    given = [part for part in _parts(arguments) if isinstance(part, torch.Tensor)]
    return any(part.ndim > 2 or (part.ndim == 2 and part.is_floating_point()) for part in given)


def _parts(value: Any) -> Iterator[Any]:  # noqa: ANN401
    """Open tuples, lists and mappings, with their attributes: an output of a model may hold a field in these only."""
    seen: dict[int, Any] = {}  # some containers know what they are in
    left = [value]
    while left:
        part = left.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        if isinstance(part, Mapping | tuple | list):
            inside = part.values() if isinstance(part, Mapping) else part
            left += reversed([*inside, *getattr(part, "__dict__", {}).values()])
        else:
            yield part


def asks_to_push_away(arguments: Mapping[str, Any]) -> bool:
    """Say whether a negative prompt of at least one word is among the arguments."""
    given = [value for name, value in arguments.items() if name.startswith("negative_prompt") and "embed" not in name]
    texts = [text for value in given for text in (value if isinstance(value, list | tuple) else [value])]
    return any(isinstance(text, str) and text.strip() for text in texts)


def added_tokens(tokenizer: Any) -> tuple[str, ...]:  # noqa: ANN401
    """Name the tokens somebody added to a tokenizer, the special ones left out, in the order of their ids."""
    if tokenizer is None:
        return ()
    added = tokenizer.get_added_vocab()
    return tuple(sorted((token for token in added if token not in tokenizer.all_special_tokens), key=added.get))


def bound(function: Callable[..., Any], arguments: tuple[Any, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call's arguments by name; one that does not fit the signature fails in the call itself, in its words."""
    try:
        found = inspect.signature(function).bind_partial(*arguments, **options).arguments
    except TypeError:
        return dict(options)
    extra = found.pop("kwargs", {})
    return {**found, **(extra if isinstance(extra, dict) else {})}
