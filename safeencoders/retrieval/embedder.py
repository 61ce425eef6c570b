"""The towers of an index: texts and pictures become unit vectors of one space.

Two sets of towers stand side by side, each with its projection: ``safe``, the encoder's own, and ``raw``, the original
ones that it was tuned from. A search in mode "safe" asks through the safe tower of the query's kind, in mode "raw"
through the original one. Tokenizer and image processor are shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from safeencoders import catalog, checkpoints, hub
from safeencoders.catalog import ORIGINAL, TOWERS, TowerName
from safeencoders.errors import BadInputError
from safeencoders.fingerprint import fingerprint
from safeencoders.loading import DEFAULT, PROCESSOR, encoder_folder, load
from safeencoders.pictoworld import models
from safeencoders.pictoworld import tokenizer as world_tokenizer

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

Kind = Literal["image", "text"]
Mode = Literal["raw", "safe"]

_TOWER: dict[Kind, TowerName] = {"image": "vision", "text": "text"}
_TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
_SIDES = ("", "tokenizer", "feature_extractor", "image_processor", *TOWERS)


@dataclass(frozen=True)
class Embedder:
    """An encoder as an index uses it.

    Attributes:
        name: of the encoder, as ``load`` takes it.
        original: what it was tuned from, None where nobody knows.
        towers: by mode and kind of tower, each with its projection; a set is empty when there is no such encoder.
        tokenizer: of both text towers.
        processor: makes pixel values for both vision towers.
    """

    name: str
    original: str | None
    towers: Mapping[Mode, Mapping[TowerName, Any]]
    tokenizer: CLIPTokenizer
    processor: Any

    @classmethod
    def of(cls, name: str = DEFAULT, *, original: str | None = None, device: str | None = None) -> Embedder:
        """Load an encoder, its original, their tokenizer and image processor.

        Args:
            name: as ``load`` takes it; "none" has original towers only.
            original: what it was tuned from; None: what the catalog says, so that a folder of one's own has none.
            device: where the towers go; the CPU when None. The index itself is always in main memory.

        Raises:
            BadInputError: a tower has no projection, the towers do not fit one another, or there is no tokenizer.
            UnknownNameError, IntegrityError, HubError: as in ``load``.
        """
        listed = catalog.find(name)
        known = listed.base if listed is not None and original is None else original
        safe = {} if name == ORIGINAL else _towers(name, device)
        raw = {} if known is None else _towers(known, device)
        places = [place for encoder in dict.fromkeys([name, known]) if encoder for place in _places(encoder)]
        found = cls(name, known, {"safe": safe, "raw": raw}, _tokenizer(places, name), _processor(places, safe | raw))
        found._check()
        return found

    @property
    def width(self) -> int:
        """The length of a vector."""
        return int(self._all()[0][1].config.projection_dim)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprint of each tower's weights by its name, such as "safe text"."""
        return {name: fingerprint(tower) for name, tower in self._all()}

    def prepare(self, item: str | Image.Image) -> Tensor:
        """Turn one text into ids (tokens,), or one RGB picture into pixel values (3, size, size).

        Raises:
            BadInputError: the text is empty or longer than the context.
        """
        if not isinstance(item, str):
            pixels: Tensor = self.processor(images=[item], return_tensors="pt")["pixel_values"]
            return pixels[0].float()
        if not item.strip():
            raise BadInputError("expected a text of at least one word, got an empty one")
        return world_tokenizer.encode(self.tokenizer, [item])[0]

    @torch.no_grad()
    def embed(self, rows: Sequence[Tensor], kind: Kind, mode: Mode) -> Tensor:
        """Embed what ``prepare`` made.

        Returns:
            float32 (n, width) on the CPU, each row of length 1.

        Raises:
            BadInputError: there is no such mode, or no such tower.
        """
        tower = self.tower(kind, mode)
        batch = torch.stack(list(rows)).to(tower.device)
        out: Tensor = tower(input_ids=batch).text_embeds if kind == "text" else tower(pixel_values=batch).image_embeds
        return functional.normalize(out.float(), dim=-1).cpu()

    def tower(self, kind: Kind, mode: Mode) -> Any:  # noqa: ANN401  one of two classes
        """Return the tower that embeds this kind of item in this mode.

        Raises:
            BadInputError: there is no such mode, or no such tower; it says how to get one.
        """
        if mode not in self.towers:
            raise BadInputError(
                "mode 'aware' comes with hyperbolic towers, which this version does not have; use 'raw' or 'safe'"
                if str(mode) == "aware"
                else f"expected mode 'raw' or 'safe', got {mode!r}"
            )
        found = self.towers[mode]
        if not found and mode == "raw":
            raise BadInputError(f"expected original= (in the command --original) for {self.name!r}: what it was tuned "
                                "from, as a name or a folder; nobody has recorded it")  # fmt: skip
        if not found:
            raise BadInputError(f"expected mode 'raw' for {self.name!r}, which holds original towers only; for mode "
                                "'safe' build the index with a safe encoder")  # fmt: skip
        if _TOWER[kind] not in found:
            raise BadInputError(f"expected a {_TOWER[kind]} tower for {kind}s in mode {mode!r}, but "
                                f"{self.name if mode == 'safe' else self.original!r} has none")  # fmt: skip
        return found[_TOWER[kind]]

    def check(self, built: Mapping[str, str], name: str) -> None:
        """Raise BadInputError, naming both encoders, unless an index was built with these towers.

        Args:
            built: fingerprints of the towers it was built with.
            name: of the encoder it was built with.
        """
        if built == self.fingerprints:
            return

        def said(prints: Mapping[str, str]) -> str:
            return ", ".join(f"{tower} {str(value)[:12]}" for tower, value in prints.items())

        raise BadInputError(
            f"expected the encoder with which the index was built, {name}: {said(built)}; got {self.name!r} (from "
            f"{self.original!r}): {said(self.fingerprints)}. Vectors of different weights cannot be compared: load it "
            "with its own encoder, or build it again"
        )

    def _all(self) -> list[tuple[str, Any]]:
        return [(f"{mode} {kind}", tower) for mode, found in self.towers.items() for kind, tower in found.items()]

    def _check(self) -> None:
        """Refuse towers of several spaces, or that would misread the ids or the pixels."""
        for what in ("projection_dim", "image_size"):
            sizes = {name: getattr(tower.config, what, None) for name, tower in self._all()}
            if len({size for size in sizes.values() if size is not None}) > 1:
                raise BadInputError(f"expected one {what} in the towers of {self.name!r} and of its original, got "
                                    f"{sizes}; choose the original that it was tuned from")  # fmt: skip
        for name, tower in self._all():
            config = tower.config
            if name.endswith("text") and (
                len(self.tokenizer) > config.vocab_size or config.eos_token_id not in (2, self.tokenizer.eos_token_id)
            ):
                raise BadInputError(
                    f"expected the tokenizer of {self.name!r} (at most {config.vocab_size} tokens, end token "
                    f"{config.eos_token_id}), got one with {len(self.tokenizer)}, end token "
                    f"{self.tokenizer.eos_token_id}; put its own beside its weights"
                )


def _towers(name: str, device: str | None) -> dict[TowerName, Any]:
    """Return the towers that an encoder has, with their projections."""
    has: list[TowerName] = []
    for tower in TOWERS:
        try:
            encoder_folder(name, tower)
        except BadInputError:
            if tower == TOWERS[-1] and not has:
                raise
        else:
            has.append(tower)
    return {tower: _projecting(name, tower, device) for tower in has}


def _projecting(name: str, tower: TowerName, device: str | None) -> Any:  # noqa: ANN401
    try:
        return load(name, tower=tower, projection=True, device=device)
    except BadInputError as error:
        if checkpoints.PROJECTIONS[tower] not in str(error):
            raise
        raise BadInputError(
            f"expected a {tower} tower with its projection in {name!r}, found none, so that it shares no space with "
            "pictures or texts; an index needs an encoder that was tuned from a whole CLIP"
        ) from error


def _places(name: str) -> Iterator[Path]:
    """Give the folders in which an encoder's tokenizer and image processor may lie."""
    listed, repo = catalog.find(name), "/".join(name.split("/")[:2])
    if listed is not None and listed.repo is None:
        yield models.WEIGHTS / models.CLIP
        return
    if listed is None and Path(name).is_dir():
        top = Path(name)
    else:
        inside = listed.subfolder if listed else name[len(repo) + 1 :].strip("/")
        wanted = {"/".join(filter(None, (inside, side, file))) for side in _SIDES for file in (*_TOKENIZER, PROCESSOR)}
        fetched = hub.fetch(
            (listed and listed.repo) or repo,
            lambda names: sorted(wanted & set(names)),
            revision=listed.revision if listed else None,
        )
        top = fetched / inside
    yield from (top / side for side in _SIDES)


def _tokenizer(places: Sequence[Path], name: str) -> CLIPTokenizer:
    from transformers import CLIPTokenizer

    for place in places:
        if any((place / file).is_file() for file in _TOKENIZER[:2]):
            found: CLIPTokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)
            return found
    raise BadInputError(
        f"expected a tokenizer (tokenizer.json, or vocab.json and merges.txt) beside the weights of {name!r} or of its "
        "original, found none; copy that of the model it was tuned from there"
    )


def _processor(places: Sequence[Path], towers: Mapping[TowerName, Any]) -> Any:  # noqa: ANN401
    """Return the image processor, of plain PIL; that of CLIP itself where no file says otherwise."""
    from transformers import CLIPImageProcessorPil

    if "vision" not in towers:
        return None
    size = int(towers["vision"].config.image_size)
    place = next((place for place in places if (place / PROCESSOR).is_file()), None)
    if place is None:
        square = {"height": size, "width": size}
        return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=square)
    found: Any = CLIPImageProcessorPil.from_pretrained(place, local_files_only=True)
    shape = tuple(found(images=[Image.new("RGB", (300, 200))], return_tensors="pt")["pixel_values"].shape[1:])
    if shape != (3, size, size):
        raise BadInputError(f"expected {place / PROCESSOR} to make pictures of (3, {size}, {size}), got {shape}; "
                            "correct crop_size in it")  # fmt: skip
    return found
