"""What goes into an index and what comes out: new items in batches, remarks on them, hits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from safeencoders.retrieval.embedder import Embedder, Kind, Mode
from safeencoders.retrieval.shelf import Shelf

BATCH = 32

Picture = Image.Image | str | Path
"""A picture in memory, or its path."""


@dataclass(frozen=True)
class Hit:
    """One item that was found: its id, its cosine with the query (-1..1, six decimals), and its kind."""

    id: str
    score: float
    kind: Kind


@dataclass(frozen=True)
class Remark:
    """What is to be said of one item: why it was skipped, or how it was taken ("the first of 12 frames")."""

    id: str
    text: str
    skipped: bool


class Batches:
    """New items of one kind, embedded as soon as there are enough of them for a batch."""

    def __init__(self, embedder: Embedder, kind: Kind, mode: Mode) -> None:
        """Begin without items."""
        self.embedder, self.kind, self.mode = embedder, kind, mode
        self.ids: list[str] = []
        self.rows: list[Tensor] = []
        self.vectors: list[Tensor] = []

    def add(self, name: str, row: Tensor) -> None:
        """Take one more item, as ``Embedder.prepare`` made it."""
        self.ids.append(name)
        self.rows.append(row)
        if len(self.rows) == BATCH:
            self._flush()

    def onto(self, shelf: Shelf) -> Shelf:
        """Embed what is left, and return a shelf with all of them behind its own."""
        if self.rows:
            self._flush()
        return shelf.with_items(self.ids, self.vectors) if self.ids else shelf

    def _flush(self) -> None:
        self.vectors.append(self.embedder.embed(self.rows, self.kind, self.mode))
        self.rows.clear()
