"""Q16's learned prompts: two vectors in the space of a CLIP, the first for what is fine, the second for what is not.

Schramowski, Tauchmann, Kersting, "Can Machines Help Us Answering Question 16 in Datasheets", FAccT 2022: the class of
a picture is the prompt that is nearest to its embedding, and the prompts are trained as soft prompts directly in that
space. With embedding e and prompts p0, p1, all of length 1: P(inappropriate) = softmax(scale * (e·p0, e·p1))[1].
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from safeencoders import trust
from safeencoders.errors import BadInputError, DownloadError, IntegrityError, OfflineError
from safeencoders.evaluation.detectors.inert_pickle import read_array
from safeencoders.files import sha256_file, write_atomically

Model = Literal["ViT-L-14", "ViT-B-16", "ViT-B-32"]
SCALE = 100.0

_REPO, _COMMIT = "github.com/ml-research/Q16", "33de788767bbe33cf77a5f6df931cd86c71f294f"
# None: nobody could look it up; it is recorded at first use and compared from then on.
_SHA256: dict[str, str | None] = {
    "ViT-L-14": "9b6c411824c2f64e0f847aa3c9f2b15b8e3a6c75e0efd82f2f672670c97ccad5",
    "ViT-B-16": None,
    "ViT-B-32": None,
}
_TENSOR, _FINGERPRINT, _SCALE = "prompts", "fingerprint", "scale"
_LARGEST = 1 << 20
_SECONDS = 30


@dataclass(frozen=True)
class Prompts:
    """The learned pair.

    Attributes:
        vectors: float32 (2, d): fine, inappropriate; any length but 0.
        scale: of the cosines.
        fingerprint: of the vision tower they were fitted on; None for Q16's own, which belong to OpenAI's CLIP.
        sha256: of their file, or of the vectors' bytes when they are of none.
    """

    vectors: Tensor
    scale: float
    fingerprint: str | None
    sha256: str

    def inappropriate(self, embeddings: Tensor) -> Tensor:
        """Return the probability, (n,) in 0..1, that each of these embeddings (n, d) shows something inappropriate."""
        return _logits(embeddings, self.vectors, self.scale).softmax(-1)[:, 1]

    def save(self, path: str | Path) -> None:
        """Write them as safetensors, with the fingerprint of the tower they belong to."""
        from safetensors.torch import save

        about = {_FINGERPRINT: self.fingerprint, _SCALE: str(self.scale), "rows": "0=fine, 1=inappropriate"}
        kept = {name: value for name, value in about.items() if value is not None}
        write_atomically(path, save({_TENSOR: self.vectors.contiguous()}, metadata=kept))


def fit(
    embeddings: Tensor,
    inappropriate: Tensor,
    *,
    fingerprint: str,
    scale: float = SCALE,
    steps: int = 500,
    rate: float = 0.01,
    start: Tensor | None = None,
) -> Prompts:
    """Learn a pair by prompt tuning: cross-entropy of the scaled cosines, Adam on the two vectors, all rows a step.

    Args:
        embeddings: (n, d), of any length but 0.
        inappropriate: (n,), true where a picture is.
        fingerprint: of the vision tower that made the embeddings; the pair is refused with any other.
        scale: of the cosines; Q16 takes CLIP's, 100.
        steps: of Adam.
        rate: of Adam, for vectors of length 1.
        start: (2, d); Q16 starts from the embeddings of two texts, None from the mean embedding of each class.

    Raises:
        BadInputError: shapes that do not fit, values that are not finite, or labels of one class only.
    """
    rows, labels = embeddings.detach().float(), inappropriate.to(embeddings.device).long()
    if rows.ndim != 2 or labels.shape != rows.shape[:1] or not rows.isfinite().all():
        raise BadInputError(f"expected finite embeddings (n, d) and labels (n,), got {tuple(rows.shape)} and "
                            f"{tuple(labels.shape)}")  # fmt: skip
    if set(labels.tolist()) != {0, 1}:
        raise BadInputError("expected pictures of both kinds, fine and inappropriate; add some of the other")
    rows = functional.normalize(rows, dim=-1)
    first = torch.stack([rows[labels == one].mean(0) for one in (0, 1)]) if start is None else start.float()
    vectors = functional.normalize(first, dim=-1).clone().requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=rate)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            functional.cross_entropy(_logits(rows, vectors, scale), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return of_vectors(vectors.detach(), scale=scale, fingerprint=fingerprint)


def of_vectors(vectors: Tensor, *, scale: float = SCALE, fingerprint: str | None = None) -> Prompts:
    """Return a pair held in memory.

    Raises:
        BadInputError: they are no pair of finite vectors.
    """
    checked = _checked(vectors.detach().cpu(), "the prompts")
    return Prompts(checked, scale, fingerprint, hashlib.sha256(checked.numpy().tobytes()).hexdigest())


def read(path: str | Path, model: Model = "ViT-L-14") -> Prompts:
    """Read a pair from .npy, .safetensors (its own tensor, or one named after ``model``) or a pickle, which is not run.

    Raises:
        BadInputError: there is no such file, or it holds no pair of finite vectors.
    """
    from safetensors import SafetensorError

    place = Path(path)
    try:
        data = place.read_bytes()
        if place.suffix == ".safetensors":
            vectors, about = _safetensors(place, model)
        else:
            array = (
                np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
                if place.suffix == ".npy"
                else read_array(data, place)
            )
            vectors, about = torch.from_numpy(np.asarray(array, np.float32)), {}
    except (OSError, ValueError, EOFError, MemoryError, SafetensorError) as error:
        if isinstance(error, BadInputError):
            raise
        raise BadInputError(f"expected Q16's prompts in {place} (.npy, .safetensors or a pickle): {error}; check the "
                            "path, or download them again") from error  # fmt: skip
    scale = float(about.get(_SCALE, SCALE))
    if not math.isfinite(scale) or scale <= 0:
        raise BadInputError(f"expected a positive {_SCALE} in {place}, got {scale}; fit the prompts again")
    digest = hashlib.sha256(data).hexdigest()
    return Prompts(_checked(vectors, place), scale, about.get(_FINGERPRINT), digest)


def public(model: Model = "ViT-L-14") -> Path:
    """Return Q16's own prompts for one of OpenAI's CLIPs: the authors' pickle, downloaded once, checked at each use.

    Raises:
        OfflineError: it is not in the cache, and there is no connection or offline mode is on.
        DownloadError: the server answered with something else.
        IntegrityError: the file has another sha256 than the recorded one.
    """
    name = f"data/{model}/prompts.p"
    place = trust.folder() / "q16" / f"{model}.p"
    known = trust.recall(_REPO, _COMMIT)
    expected = _SHA256[model] or (known.files.get(name) if known else None)
    if not place.is_file():
        content = _download(f"https://raw.githubusercontent.com/ml-research/Q16/{_COMMIT}/{name}")
        found = hashlib.sha256(content).hexdigest()
        if expected not in {None, found}:
            raise IntegrityError(name, str(expected), found)
        write_atomically(place, content)
    found = sha256_file(place)
    if expected not in {None, found}:
        raise IntegrityError(place, str(expected), found)
    trust.record(_REPO, _COMMIT, trust.Entry(_COMMIT, (), {name: found}))
    return place


def _logits(embeddings: Tensor, vectors: Tensor, scale: float) -> Tensor:
    rows = functional.normalize(embeddings.float(), dim=-1)
    return scale * rows @ functional.normalize(vectors.to(rows.device), dim=-1).T


def _safetensors(place: Path, model: str) -> tuple[Tensor, dict[str, str]]:
    from safetensors import safe_open

    with safe_open(place, framework="pt") as file:
        names = list(file.keys())
        name = next((one for one in (_TENSOR, model) if one in names), None)
        if name is None:
            raise BadInputError(f"expected a tensor {_TENSOR!r} or {model!r} in {place}, got {', '.join(names)}")
        return file.get_tensor(name), file.metadata() or {}


def _checked(vectors: Tensor, name: object) -> Tensor:
    pair = vectors.float().squeeze(0) if vectors.ndim == 3 else vectors.float()
    if pair.ndim != 2 or pair.shape[0] != 2 or not pair.isfinite().all() or not pair.norm(dim=-1).all():
        raise BadInputError(f"expected two finite vectors (2, d), fine and inappropriate, in {name}, got "
                            f"{tuple(vectors.shape)}")  # fmt: skip
    return pair.contiguous()


def _download(url: str) -> bytes:
    remedy = ("Load it once with a connection (unset HF_HUB_OFFLINE), or give a local .npy or .safetensors file as "
              "prompts")  # fmt: skip
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in {"1", "ON", "YES", "TRUE"}:
        raise OfflineError(f"expected Q16's prompts in the cache, but offline mode is on (HF_HUB_OFFLINE). {remedy}")
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310  https, a literal
            content: bytes = answer.read(_LARGEST + 1)
    except urllib.error.HTTPError as error:
        raise DownloadError(f"could not download {url}: the server answered {error.code}. {remedy}") from error
    except OSError as error:
        raise OfflineError(f"expected Q16's prompts in the cache or at {url}, but {error}. {remedy}") from error
    if len(content) > _LARGEST:
        raise DownloadError(f"expected a file of some kilobytes at {url}, got more than {_LARGEST:,} bytes. {remedy}")
    return content
