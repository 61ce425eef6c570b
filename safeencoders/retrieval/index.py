"""An index: pictures and texts embedded by one encoder, kept in a folder, searched by text or picture.

What it holds. As a rule the vectors of the ORIGINAL towers, so that only the query is redirected: mode "raw" asks
through the original tower, which is a plain CLIP search, and mode "safe" through the safe tower. This is the setting in
which a single tower is measured (``evaluate retrieval --towers text`` and ``vision``), and the one for towers that were
redirected one by one: two of these find each other's unsafe items. Unsafe items stay in the index; a safe query does
not land on them.

With ``pair=True`` it holds the vectors of the encoder's own towers, for encoders that were trained as a pair
(``--towers both``); "safe" is then the only mode. Unsafe prompts are redirected; a picture finds itself, an unsafe one
too.

Memory. Four bytes for each number of a vector (205 MB for 100,000 x 512), twice that while items are added or read, and
with FAISS; searching takes some 70 MB more, however many queries. The towers come on top: two safe, two original ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from safeencoders import pictures
from safeencoders.errors import BadInputError
from safeencoders.loading import DEFAULT
from safeencoders.retrieval import storage
from safeencoders.retrieval.embedder import Embedder, Kind, Mode
from safeencoders.retrieval.items import Batches, Hit, Picture, Remark
from safeencoders.retrieval.shelf import Backend, Shelf


class Index:
    """Items of one encoder.

    Attributes:
        embedder: the encoder's towers.
        pair: whether the vectors are those of the encoder's own towers.
        remarks: on the items added since it was made or loaded.
        notes: what a caller wants kept in index.json with it; anything that JSON can hold.
    """

    def __init__(self, embedder: Embedder, *, pair: bool = False) -> None:
        """Make an empty index."""
        self.embedder, self.pair = embedder, pair
        self.remarks: list[Remark] = []
        self.notes: dict[str, Any] = {}
        self._shelves: dict[Kind, Shelf] = {kind: Shelf.empty(embedder.width) for kind in get_args(Kind)}

    @classmethod
    def build(
        cls,
        encoder: str | Embedder = DEFAULT,
        *,
        images: Iterable[Picture] = (),
        texts: Iterable[str] = (),
        ids: Iterable[str] | None = None,
        original: str | None = None,
        pair: bool = False,
        on_error: Literal["stop", "skip"] = "stop",
        progress: bool = False,
    ) -> Index:
        """Embed pictures and texts.

        Args:
            encoder: a name as ``load`` takes it, or an ``Embedder``.
            images: paths or PIL images of any mode; may be an iterator.
            texts: captions.
            ids: of the images, then of the texts; None: the paths and the texts themselves.
            original: what the encoder was tuned from; None: what the catalog says.
            pair: keep the vectors of the encoder's own towers, for encoders that were trained as a pair.
            on_error: "skip" leaves out what cannot be read and says so in ``remarks``.
            progress: show a bar.

        Raises:
            BadInputError: an item cannot be read, an id is missing or there twice, or the encoder lacks a tower.
            UnknownNameError, IntegrityError, HubError: as in ``load``.

        Example:
            >>> index = Index.build("pictoworld", images=sorted(Path("photos").glob("*.jpg")))
            >>> index.search("a red dog in the park", 5)
        """
        embedder = Embedder.of(encoder, original=original) if isinstance(encoder, str) else encoder
        index = cls(embedder, pair=pair)
        index.add(images=images, texts=texts, ids=ids, on_error=on_error, progress=progress)
        return index

    # --- items --------------------------------------------------------------------------------------------------------
    def ids(self, kind: Kind | None = None) -> tuple[str, ...]:
        """Return the ids of one kind, or all: of the pictures, then of the texts."""
        return tuple(name for own, shelf in self._shelves.items() if kind in (None, own) for name in shelf.ids)

    def __len__(self) -> int:
        """Return how many items there are."""
        return sum(map(len, self._shelves.values()))

    def add(
        self,
        *,
        images: Iterable[Picture] = (),
        texts: Iterable[str] = (),
        ids: Iterable[str] | None = None,
        on_error: Literal["stop", "skip"] = "stop",
        progress: bool = False,
    ) -> None:
        """Embed more items; the index is as before when this fails. Arguments and errors as in ``build``."""
        if on_error not in ("stop", "skip"):
            raise BadInputError(f"expected on_error 'stop' or 'skip', got {on_error!r}")
        remarks: list[Remark] = []
        news = {kind: Batches(self.embedder, kind, self._mode) for kind in self._shelves}
        for name, kind, item in tqdm(self._new(images, texts, ids), mininterval=1, leave=False, disable=not progress):
            self.embedder.tower(kind, self._mode)  # that a tower is missing is no fault of this item
            try:
                row, remark = self._row(kind, item, name)
            except BadInputError as error:
                if on_error == "stop":
                    raise
                remarks.append(Remark(name, str(error), skipped=True))
                continue
            if remark:
                remarks.append(Remark(name, remark, skipped=False))
            news[kind].add(name, row)
        self._shelves = {kind: news[kind].onto(shelf) for kind, shelf in self._shelves.items()}
        self.remarks += remarks

    def remove(self, ids: Iterable[str]) -> None:
        """Take items out.

        Raises:
            BadInputError: an id is not there; nothing is taken out then.
        """
        gone = frozenset(ids)
        unknown = sorted(gone - set(self.ids()))
        if unknown:
            raise BadInputError(f"expected ids of the index, got {unknown[0]!r} ({len(unknown)} unknown)")
        self._shelves = {kind: shelf.without(gone) for kind, shelf in self._shelves.items()}

    def _new(
        self, images: Iterable[Picture], texts: Iterable[str], ids: Iterable[str] | None
    ) -> Iterator[tuple[str, Kind, Picture]]:
        """Give every new item with its id and kind; an id that is there already, or missing, is refused."""
        taken = set(self.ids())
        items: Iterator[tuple[Kind, Picture]] = chain((("image", x) for x in images), (("text", x) for x in texts))
        given = None if ids is None else iter(ids)
        for kind, item in items:
            name = (None if isinstance(item, Image.Image) else str(item)) if given is None else next(given, None)
            if name is None:
                raise BadInputError("expected an id for every item; give ids= with one for each image, then each text")
            if name in taken:
                raise BadInputError(f"expected ids that are unique, got {name!r} twice; remove the old item first")
            taken.add(name)
            yield name, kind, item
        if given is not None and next(given, None) is not None:
            raise BadInputError("expected as many ids as items, got more ids")

    def _row(self, kind: Kind, item: Picture, name: str = "the query") -> tuple[Tensor, str | None]:
        """Return what the tower reads of one item, and what is to be said of it."""
        if kind == "text":
            return self.embedder.prepare(str(item)), None
        picture, remark = (
            (pictures.convert(item, name), None) if isinstance(item, Image.Image) else pictures.read(Path(item))
        )
        return self.embedder.prepare(picture), remark

    @property
    def _mode(self) -> Mode:
        return "safe" if self.pair else "raw"

    # --- search -------------------------------------------------------------------------------------------------------
    def search(
        self,
        query: str | Path | Image.Image,
        k: int = 10,
        mode: Mode = "safe",
        *,
        kind: Kind | None = None,
        backend: Backend = "torch",
    ) -> list[Hit]:
        """Return the items nearest to a text, or to a picture (``Path`` or PIL image); the rest as ``search_all``."""
        return self.search_all([query], k, mode, kind=kind, backend=backend)[0]

    def search_all(
        self,
        queries: Sequence[str | Path | Image.Image],
        k: int = 10,
        mode: Mode = "safe",
        *,
        kind: Kind | None = None,
        backend: Backend = "torch",
    ) -> list[list[Hit]]:
        """Return the nearest items of each query, the nearest first; equal scores go by id.

        Scores of pictures and of texts cannot be compared, since CLIP keeps the two apart; one search ranks one kind.

        Args:
            queries: all texts, or all pictures.
            k: how many; fewer when there are fewer.
            mode: "raw" asks through the original tower of the query's kind, "safe" through the safe one; an index that
                was made with ``pair=True`` has "safe" only.
            kind: "image" or "text"; None: pictures where the index has some, else texts.
            backend: "torch" or "faiss"; both give the same hits.

        Raises:
            BadInputError: a query is empty, too long or cannot be read; there is no such mode, kind or tower.
            MissingExtraError: FAISS was asked for and is not installed.
        """
        if kind is not None and kind not in self._shelves:
            raise BadInputError(f"expected kind 'image' or 'text', got {kind!r}")
        asked: list[Kind] = ["text" if isinstance(query, str) else "image" for query in queries]
        if len(set(asked)) != 1:
            raise BadInputError(f"expected queries that are all texts or all pictures, got {len(set(asked))} kinds")
        self.embedder.tower(asked[0], mode)
        if self.pair and mode == "raw":
            raise BadInputError(
                "expected mode 'safe' for an index that was made with pair (in the command --pair): it holds the safe "
                "towers' vectors, among which the original towers' queries have no place; make one without it"
            )
        where = kind or ("image" if len(self._shelves["image"]) or not len(self._shelves["text"]) else "text")
        batches = Batches(self.embedder, asked[0], mode)
        for number, query in enumerate(queries):
            batches.add(str(number), self._row(asked[0], query)[0])
        vectors = batches.onto(Shelf.empty(self.embedder.width)).vectors
        return [
            [Hit(name, score, where) for name, score in found]
            for found in self._shelves[where].nearest(vectors, k, backend)
        ]

    # --- files --------------------------------------------------------------------------------------------------------
    def save(self, folder: str | Path, *, replace: bool = False) -> None:
        """Write the index to a new folder, whole or not at all: JSON and safetensors.

        Args:
            folder: a new one, or with ``replace`` one that holds an index, which is exchanged.
            replace: whether an index may be exchanged.

        Raises:
            OutputError: it cannot be written, or something is there and ``replace`` was not given.
            BadInputError: ``replace`` was given and there is no index.
        """
        record = {
            "encoder": self.embedder.name,
            "original": self.embedder.original,
            "pair": self.pair,
            "fingerprints": self.embedder.fingerprints,
            "notes": self.notes,
            "items": {kind: list(shelf.ids) for kind, shelf in self._shelves.items()},
        }
        vectors: dict[str, Tensor] = {kind: shelf.vectors for kind, shelf in self._shelves.items()}
        storage.write(Path(folder), record, vectors, replace=replace)

    @classmethod
    def load(cls, folder: str | Path, encoder: str | Embedder | None = None, *, original: str | None = None) -> Index:
        """Read an index.

        Args:
            folder: which was given to ``save``.
            encoder: a name, such as the folder where the encoder lies now, or an ``Embedder``; None: the name under
                which the index was built.
            original: as in ``build``; None: that of the index, or what the catalog says.

        Raises:
            BadInputError: there is none, it is damaged, or it was built with another encoder.
            UnknownNameError, IntegrityError, HubError: as in ``load``.
        """
        record, vectors = storage.read(Path(folder))
        if not isinstance(encoder, Embedder):
            encoder = Embedder.of(encoder or record["encoder"], original=original or record.get("original"))
        encoder.check(record["fingerprints"], f"{record['encoder']!r} (from {record.get('original')!r})")
        index = cls(encoder, pair=record["pair"])
        index.notes = record["notes"]
        if any(value.shape[1:] != (encoder.width,) for value in vectors.values()):
            raise BadInputError(f"the index in {folder} is damaged: expected vectors of length {encoder.width}; "
                                "make it again")  # fmt: skip
        index._shelves = {kind: Shelf(tuple(record["items"][kind]), vectors[kind]) for kind in index._shelves}
        return index
