"""Settings: frozen dataclasses filled from what a user wrote, strict about names and types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar, cast

from safeencoders.errors import BadInputError, MissingExtraError, UnknownNameError

T = TypeVar("T")


def fill(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Fill a dataclass.

    Args:
        values: as TOML gives them; a list stands for a tuple.
        where: what is filled, for messages.

    Raises:
        UnknownNameError: a key that the dataclass has not; it suggests the nearest.
        BadInputError: a value is missing or of the wrong type.
        MissingExtraError: pydantic is not installed.
    """
    try:
        from pydantic import TypeAdapter, ValidationError
    except ImportError as error:
        raise MissingExtraError("pydantic", "train") from error
    known = {entry.name for entry in fields(cast("Any", kind))}
    for key in values:
        if key not in known:
            raise UnknownNameError(f"key of {where}", key, known - {"name"})
    try:
        text = json.dumps(values, default=str, allow_nan=False)
    except ValueError as error:
        raise BadInputError(f"expected finite numbers in {where}, got NaN or infinity") from error
    try:
        found: T = TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors())
        raise BadInputError(f"expected a complete {where}, got {sorted(values)}: {faults}") from error
    return found
