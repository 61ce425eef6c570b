"""Opening the pipeline a command was given: the world's, a folder, or a repository on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safeencoders import hub
from safeencoders.errors import BadInputError, MissingExtraError
from safeencoders.pictoworld import models

WORLD = "pictoworld"
INDEX = "model_index.json"
_TEXTS = (".json", ".txt", ".model")


def open_pipeline(name: str, dtype: str | None = None) -> Any:  # noqa: ANN401  any DiffusionPipeline
    """Return a pipeline; safetensors only, no code from the folder, nothing fetched but a repository's own files.

    Args:
        name: "pictoworld", a folder with a model_index.json, or "organisation/name" on the Hub, which is held to the
            commit and the bytes of its first use.
        dtype: of its weights, by torch's name; None: float32. Not for the world's, which is what it was measured as.

    Raises:
        BadInputError: it is none of these, diffusers cannot load it, or the world's was asked for in a format.
        MissingExtraError: diffusers is not installed.
        HubError: the repository cannot be had; the child says why.
    """
    if name == WORLD:
        if dtype is not None:
            raise BadInputError(f"expected no --dtype with pictoworld, whose pipeline is float32, got {dtype}")
        return models.pipeline()
    if (Path(name) / INDEX).is_file():
        return _load(Path(name), dtype)
    if not Path(name).exists() and hub.is_id(name):
        return _load(hub.fetch(name, _needed), dtype)
    raise BadInputError(
        f"expected 'pictoworld', a folder with a {INDEX}, or a repository such as 'organisation/name', got {name!r}"
    )


def _needed(names: Sequence[str]) -> list[str]:
    """Pick configurations, vocabularies and safetensors, and of these not the variants such as fp16."""
    if INDEX not in names:
        raise BadInputError(f"expected a pipeline with a {INDEX} in the repository, found none; give a pipeline's")
    weights = [n for n in names if n.endswith(".safetensors") and "/" in n and n.split("/")[-1].count(".") == 1]
    if not weights:
        raise BadInputError("expected weights as safetensors in the repository, found none; choose one that has them")
    return [n for n in names if n.endswith(_TEXTS) and (n == INDEX or "/" in n)] + weights


def _load(folder: Path, dtype: str | None) -> Any:  # noqa: ANN401
    import torch

    options = {} if dtype is None else {"dtype": getattr(torch, dtype)}
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise MissingExtraError("diffusers", "diffusers") from error
    try:
        pipe = models.quiet(DiffusionPipeline, folder, **options)
    except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
        raise BadInputError(f"expected a pipeline that diffusers can load in {folder}, got: {error}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe
