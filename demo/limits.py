"""What the server takes from a visitor, and how a visitor's text is shown: limits the page cannot get round."""

from __future__ import annotations

import html
import math
import unicodedata
import warnings
from pathlib import Path

from PIL import Image

from safeencoders import pictures
from safeencoders.errors import BadInputError

PROMPT = 300
"""Characters."""
STEPS, GUIDANCE, SEED = (1, 50), (0.0, 20.0), (0, 2**31 - 1)
UPLOAD_BYTES = 5 * 2**20
PIXELS, SIDE = 16_000_000, 8_000
_INVISIBLE = ("C", "Zl", "Zp")
"""Unicode categories that are not drawn as a letter: control and format characters, line ends, lone surrogates."""


def prompt(text: object, *, name: str = "the prompt", empty: bool = False) -> str:
    """Return a visitor's text as it goes to a tokenizer: invisible characters are spaces.

    Raises:
        BadInputError: no text, too long, or empty although it must not be.
    """
    text = "" if text is None else text  # what an empty box sends
    if not isinstance(text, str) or len(text) > PROMPT:
        found = f"{len(text)} characters" if isinstance(text, str) else type(text).__name__
        raise BadInputError(f"expected {name} of at most {PROMPT} characters, got {found}; shorten it")
    words = " ".join("".join(" " if _invisible(letter) else letter for letter in text).split())
    if not words and not empty:
        raise BadInputError(f"expected {name} of at least one word, got none; write one or choose an example")
    return words


def number(value: object, name: str, bounds: tuple[float, float]) -> float:
    """Return a finite number within bounds, both included.

    Raises:
        BadInputError: it is none.
    """
    low, high = bounds
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInputError(f"expected a number as {name}, got {type(value).__name__}; choose {low:g} to {high:g}")
    if not low <= value <= high:
        raise BadInputError(f"expected {name} in {low:g} to {high:g}, got {value:g}; choose another one")
    return value


def whole(value: object, name: str, bounds: tuple[int, int]) -> int:
    """Return a whole number within bounds; errors as ``number``."""
    found = number(value, name, bounds)
    if found != int(found):
        raise BadInputError(f"expected a whole number as {name}, got {found:g}; round it")
    return int(found)


def upload(path: str) -> Image.Image:
    """Decode an uploaded picture to RGB, and delete the file, whatever it holds.

    Raises:
        BadInputError: too many bytes or pixels, or no picture; nothing was decoded but the header then.
    """
    file = Path(path)
    try:
        if file.stat().st_size > UPLOAD_BYTES:
            raise BadInputError(f"expected at most {UPLOAD_BYTES // 2**20} MB, got a larger file; choose another one")
        width, height = _size(file)
        if width * height > PIXELS or max(width, height) > SIDE:
            raise BadInputError(
                f"expected at most {PIXELS // 10**6} million pixels and {SIDE} on a side, got {width} x {height}; "
                "make it smaller"
            )
        return pictures.read(file)[0]
    except BadInputError as error:  # the file's place on the server is nobody's business
        raise BadInputError(str(error).replace(str(file), "your file")) from None
    finally:
        file.unlink(missing_ok=True)


def _size(file: Path) -> tuple[int, int]:
    """Read width and height from the header alone; (0, 0) of what has none, for ``pictures.read`` to refuse."""
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow's own, larger limit
            with Image.open(file, formats=[name for name in pictures.FORMATS if name in Image.OPEN]) as image:
                return image.size
    except Image.DecompressionBombError:
        raise BadInputError(f"expected at most {PIXELS // 10**6} million pixels, got more; make it smaller") from None
    except Exception:  # noqa: BLE001  decoders raise what they like
        return 0, 0


def shown(text: str) -> str:
    """Return a visitor's text for HTML: markup is escaped, invisible characters are written as in a Python string."""
    visible = (letter.encode("unicode_escape").decode() if _invisible(letter) else letter for letter in text)
    return html.escape("".join(visible))


def _invisible(letter: str) -> bool:
    return unicodedata.category(letter).startswith(_INVISIBLE)
