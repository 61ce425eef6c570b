"""Pictures as people have them: found in a folder, decoded to 8-bit RGB, or refused with the reason.

What is shown is what a viewer shows: the orientation in EXIF is applied, transparency lies on white, 16 bits are scaled
to 8, of several frames the first is taken. Colour profiles are not applied (CMYK becomes RGB by Pillow's formula).
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from safeencoders.errors import BadInputError

Source = Image.Image | NDArray[np.uint8] | str | Path | bytes | BinaryIO
"""A picture as somebody has it: opened, an array (height, width[, 3 or 4]) of RGB[A], a file's path, or its bytes."""

# Not all that Pillow reads: EPS starts another program, and many decoders are old and seldom tested.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "AVIF", "JPEG2000", "PPM")
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .bmp .dib .webp .tif .tiff .avif .jp2 .j2k .ppm .pgm .pbm .pnm".split()
)
PIXELS = 178_956_970
"""More pixels than this are refused: about 0.5 GB as RGB, where Pillow suspects a decompression bomb."""
LONGEST = 100
"""The longer side over the shorter: CLIP's resizing by the shorter side makes gigabytes of a longer strip."""


@dataclass(frozen=True)
class Found:
    """What lies in a folder.

    Attributes:
        paths: pictures by their ending, in the order of their names.
        others: how many files are left alone: of other endings, hidden, or links, which are not followed.
        closed: folders that may not be read.
    """

    paths: tuple[Path, ...]
    others: int
    closed: tuple[Path, ...]


def find(folder: Path) -> Found:
    """Walk a folder and all folders in it, in sorted order; links inside it are not followed.

    Raises:
        BadInputError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise BadInputError(f"expected a folder with pictures, found {'a file' if folder.exists() else 'none'} at "
                            f"{folder}; check the path")  # fmt: skip
    paths, others = [], 0
    closed: list[Path] = []
    for place, inside, names in os.walk(folder, onerror=lambda error: closed.append(Path(error.filename))):
        here = Path(place)
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        for name in sorted(names):
            path = here / name
            taken = path.suffix.lower() in SUFFIXES and not name.startswith(".")
            if taken and path.is_file() and not path.is_symlink():
                paths.append(path)
            else:
                others += 1
    if not paths:
        raise BadInputError(f"expected pictures ({', '.join(sorted(SUFFIXES))}) in {folder}, found none of these "
                            f"endings and {others} other files; check the path")  # fmt: skip
    return Found(tuple(sorted(paths)), others, tuple(closed))


def read(source: Path | bytes) -> tuple[Image.Image, str | None]:
    """Decode a file, or the bytes of one.

    Returns:
        the picture in RGB, and what is to be said of it: None, or "the first of 12 frames".

    Raises:
        BadInputError: it cannot be read, or is no picture that could be taken; it says why.
    """
    name = "these bytes" if isinstance(source, bytes) else source
    with _reasons(name):
        if (len(source) if isinstance(source, bytes) else source.stat().st_size) == 0:
            raise _refused(name, "the file is empty")
        Image.init()  # loads the decoders; some builds of Pillow lack some
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=[one for one in FORMATS if one in Image.OPEN]) as image:
            return _converted(image, name), _frames(image)


def load(source: Source) -> Image.Image:
    """Return a picture, however it is given, as 8-bit RGB.

    Raises:
        BadInputError: it cannot be read, or is no picture that could be taken; it says why.
    """
    if isinstance(source, Image.Image):
        return convert(source)
    if isinstance(source, np.ndarray):
        return convert(Image.fromarray(_eight_bit_array(source)), "the array")
    if isinstance(source, bytes | str | Path):
        return read(Path(source) if isinstance(source, str) else source)[0]
    return read(source.read())[0]


def pixels(source: Source) -> NDArray[np.uint8]:
    """Return a picture, however it is given, as RGB pixels (height, width, 3); an array of these as it is.

    Raises:
        BadInputError: it cannot be read, or is no picture that could be taken; it says why.
    """
    if isinstance(source, np.ndarray) and source.ndim == 3 and source.shape[2] == 3:
        _check_size(source.shape[1], source.shape[0], "the array")
        return _eight_bit_array(source)
    return np.asarray(load(source))


def convert(image: Image.Image, name: object = "the picture") -> Image.Image:
    """Return a picture of any mode as 8-bit RGB, as a viewer shows it; itself, if it is that already.

    Args:
        image: the picture; it is not changed.
        name: of it, for messages.

    Raises:
        BadInputError: too many pixels, too long a strip, values without an agreed range, or it cannot be decoded.
    """
    with _reasons(name):
        return _converted(image, name)


def _eight_bit_array(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim not in {2, 3} or (array.ndim == 3 and array.shape[2] not in {3, 4}):
        raise _refused("the array", f"it is {array.dtype} {array.shape}, not uint8 (height, width), (height, width, 3) "
                                    "or (height, width, 4)")  # fmt: skip
    return array


def _check_size(width: int, height: int, name: object) -> None:
    short, long = sorted((width, height))
    if short == 0 or long > LONGEST * short:
        raise _refused(name, f"it is {width} x {height} pixels, a strip longer than {LONGEST} : 1")
    if long * short > PIXELS:
        raise _refused(name, f"it has {long * short:,} pixels, more than {PIXELS:,}")


def _converted(image: Image.Image, name: object) -> Image.Image:
    _check_size(image.width, image.height, name)
    image.load()  # now, so that damage is found here
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image  # which copies in any case
    if upright.mode == "F" or upright.mode.startswith("I"):
        upright = _eight_bits(upright, name)
    if upright.has_transparency_data:
        front = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", front.size, "white"), front)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


@contextmanager
def _reasons(name: object) -> Iterator[None]:
    """Turn whatever a decoder raises into one error with the reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd EXIF or palettes, harmless; sizes are checked in ``_converted``
            yield
    except BadInputError:
        raise
    except FileNotFoundError:
        raise _refused(name, "there is no such file; check the path") from None
    except UnidentifiedImageError:
        raise _refused(name, f"it is no picture of a known format ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise _refused(name, f"it has more than {PIXELS:,} pixels") from None
    except Exception as error:
        raise _refused(name, f"it cannot be read, or is damaged ({type(error).__name__}: {error})") from error


def _eight_bits(image: Image.Image, name: object) -> Image.Image:
    """Scale 16 bits to 8, which Pillow's own conversion would cut off at 255."""
    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65_535:
        raise _refused(name, f"its values, from {values.min():g} to {values.max():g}, are neither 8 nor 16 bits; "
                             "save it with 8 bits")  # fmt: skip
    return Image.fromarray(np.round(values / 257.0).astype(np.uint8))


def _frames(image: Image.Image) -> str | None:
    try:
        count = int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001  damage behind the first frame, which is whole
        return "the first of several frames; a later one is damaged"
    return f"the first of {count} frames" if count > 1 else None


def _refused(name: object, reason: str) -> BadInputError:
    return BadInputError(f"expected a picture in {name}: {reason}")


def shown(names: Sequence[str]) -> list[str]:
    """Return names as they can be printed: what a terminal would obey or cannot encode is a question mark."""
    return ["".join(letter if letter.isprintable() else "?" for letter in name) for name in names]
