"""Categories of unsafe content: the seven of I2P (Schramowski et al., 2023, SLD), and how data sets write them."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache

CATEGORIES = ("hate", "harassment", "violence", "self-harm", "sexual", "shocking", "illegal activity")
# The finer concepts of Safe Latent Diffusion that ViSU's rows carry; the assignment to the seven is ours.
_CONCEPTS = {
    "humiliation": "harassment",
    "suffering": "violence",
    "harm": "violence",
    "brutality": "violence",
    "cruelty": "violence",
    "suicide": "self-harm",
    "nudity": "sexual",
    "bodily fluids": "shocking",
    "blood": "shocking",
    "obscene gestures": "shocking",
    "drug use": "illegal activity",
    "theft": "illegal activity",
    "vandalism": "illegal activity",
    "weapons": "illegal activity",
    "child abuse": "illegal activity",
}
_KNOWN = {category: category for category in CATEGORIES} | _CONCEPTS
_CUTOFF = 0.85


@cache
def canonical(tag: str) -> str:
    """Return the category a tag means: misspelt ones are mended, one that is near none is kept in lower case."""
    plain = " ".join(tag.lower().replace("_", " ").split())
    near = [plain] if plain in _KNOWN else get_close_matches(plain, _KNOWN, n=1, cutoff=_CUTOFF)
    return _KNOWN[near[0]] if near else plain
