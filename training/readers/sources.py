"""Sources: a name or a file becomes pairs; its layout is recognised by its columns, never by a flag.

Three layouts, in any format of ``tables`` or a Hugging Face data set:

* ours: any of safe_text, unsafe_text, safe_image, unsafe_image, with or without tag. Paths of pictures are relative
  to the data file's folder, or to ``images``.
* ViSU: safe, nsfw, tag, coco_id, prompt_id. With ``images``, IMAGES/safe/{coco_id} (also of 12 digits, as COCO's own
  files) and IMAGES/nsfw/{prompt_id}, each .jpg, .jpeg, .png or .webp.
* CoProV2: prompt, image, category. Rows whose image names are equal but for the first letter, s or u, are a pair;
  one that is listed under several categories has the first. With ``images``, IMAGES/{image}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from safeencoders.categories import canonical
from safeencoders.errors import BadInputError, MissingExtraError
from safeencoders.training.readers.pairs import COLUMNS, IMAGES, Column, Pairs
from safeencoders.training.readers.tables import FORMATS, Table, from_arrow

if TYPE_CHECKING:
    import datasets  # type: ignore[import-untyped]

_DATASETS = "datasets:"
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
Entries = tuple[str | None, ...]


def read_pairs(source: str, *, images: Path | None = None) -> Pairs:
    """Read pairs from a file or from a Hugging Face data set.

    Args:
        source: a file that ends in .jsonl, .ndjson, .json, .csv or .parquet; ``datasets:NAME[@SPLIT][#CONFIG]`` for
            the Hub, the split being train without one; ``datasets:FOLDER[@SPLIT]`` for what save_to_disk wrote.
        images: the folder of the pictures.

    Raises:
        BadInputError: nothing is there, it cannot be read, or its columns are of no known layout.
        UnknownNameError: the file's ending is none of these.
        MissingExtraError: pyarrow or datasets is not installed.
    """
    if images is not None and not images.is_dir():
        raise BadInputError(f"expected a folder of pictures at {images}, found none; check --images.")
    wanted = {name for layout in _LAYOUTS for name in layout.names}
    if source.startswith(_DATASETS):
        table, root = _from_datasets(source, wanted), Path()
    else:
        path = _file(source)
        try:
            table, root = FORMATS.get(path.suffix.lower())(path, wanted), path.parent
        except PermissionError as error:
            raise BadInputError(f"expected a file that can be read, but {path} may not be ({error}).") from error
    layout = next((layout for layout in _LAYOUTS if layout.fits(set(table.names))), None)
    if layout is None:
        raise _unknown_layout(table)
    if not next(iter(table.columns.values())):
        raise BadInputError(f"expected rows in {table.source}, found none; choose another file or split.")
    columns, tags, notes = layout.read(table, root, images)
    unused = [name for name in table.names if name not in layout.names]
    notes += (f"columns not used: {table.shown(unused)}",) if unused else ()
    return Pairs(source, columns, tags, root if images is None else images, notes)


def _file(source: str) -> Path:
    path = Path(source)
    if path.is_dir():
        raise BadInputError(
            f"expected a data file, but {source} is a folder; name a file in it, "
            f"or write {_DATASETS}{source} for a data set that save_to_disk made."
        )
    if not path.is_file():
        raise BadInputError(
            f"expected a data file at {source}, found none; check the path, "
            f"or write {_DATASETS}{source} for a data set of the Hugging Face Hub."
        )
    return path


def _unknown_layout(table: Table) -> BadInputError:
    names = [name for name in table.names if table.shown([name]) == name]
    near = {column: get_close_matches(column, names, n=1, cutoff=0.6) for column in COLUMNS}
    hints = "".join(f" Did you mean {column!r} by {found[0]!r}?" for column, found in near.items() if found)
    return BadInputError(
        f"expected at least one of the columns {', '.join(COLUMNS)} (or those of ViSU or CoProV2) in {table.source}, "
        f"got {table.shown()}.{hints} Rename the columns; a CSV file needs them in its first row."
    )


def _text(value: object, where: str) -> str | None:
    """Return a text, None for one that is missing or empty."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise BadInputError(f"expected a text in {where}, got {type(value).__name__}; write it as a string.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadInputError(f"expected whole characters in {where}, got half of a surrogate pair.") from None
    return value


def _texts(table: Table, name: str) -> Entries:
    rows = enumerate(table.columns[name], 1)
    return tuple(_text(value, f"row {number}, column {name} of {table.source}") for number, value in rows)


def _names(table: Table, name: str) -> Entries:
    """Return identifiers, which may be whole numbers, as texts."""
    plain = [str(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in table.columns[name]]
    return _texts(Table(table.source, table.names, {name: plain}), name)


def _tags(table: Table, name: str) -> Entries:
    if name not in table.columns:
        return (None,) * len(next(iter(table.columns.values())))
    return tuple(None if tag is None else canonical(tag) for tag in _texts(table, name))


Read = tuple[dict[Column, Entries], Entries, tuple[str, ...]]


def _ours(table: Table, root: Path, images: Path | None) -> Read:
    columns = {column: _texts(table, column) for column in COLUMNS if column in table.columns}
    for column in IMAGES:
        if column in columns:
            columns[column] = tuple(None if p is None else str((images or root) / p) for p in columns[column])
    return columns, _tags(table, "tag"), ()


def _visu(table: Table, _root: Path, images: Path | None) -> Read:
    columns: dict[Column, Entries] = {"safe_text": _texts(table, "safe"), "unsafe_text": _texts(table, "nsfw")}
    if images is not None:
        places: dict[Column, tuple[str, str]] = {
            "safe_image": ("safe", "coco_id"),
            "unsafe_image": ("nsfw", "prompt_id"),
        }
        there = {c: place for c, place in places.items() if (images / place[0]).is_dir()}
        if not there:
            raise BadInputError(f"expected the folders safe or nsfw in {images}, found neither; check --images.")
        for column, (folder, name) in there.items():
            if name not in table.columns:
                raise BadInputError(f"expected the column {name} in {table.source}, which names {images / folder}/*.")
            files = {path.stem: str(path) for path in _pictures(images / folder)}
            names = _names(table, name)
            columns[column] = tuple(n and (files.get(n) or files.get(n.zfill(12))) for n in names)
    return columns, _tags(table, "tag"), ()


def _pictures(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS), reverse=True)


def _coprov2(table: Table, _root: Path, images: Path | None) -> Read:
    sides: dict[str, dict[str, int]] = {"s": {}, "u": {}}
    texts, names, tags = _texts(table, "prompt"), _texts(table, "image"), _tags(table, "category")
    first: dict[str, int] = {}
    again = other = 0
    for row, name in enumerate(names):
        if name is None or name[0] not in sides:
            raise BadInputError(
                f"expected an image name that begins with s (safe) or u (unsafe) in row {row + 1}, column image of "
                f"{table.source}; correct it or delete the row."
            )
        seen = sides[name[0]].setdefault(name[1:], row)
        again += seen != row
        other += texts[seen] != texts[row]
        first.setdefault(name[1:], row)

    def part(values: Sequence[str | None], side: str) -> Entries:
        rows = (sides[side].get(name) for name in first)
        return tuple(None if row is None else values[row] for row in rows)

    columns: dict[Column, Entries] = {"safe_text": part(texts, "s"), "unsafe_text": part(texts, "u")}
    if images is not None:
        paths = [name and str(images / name) for name in names]
        columns |= {"safe_image": part(paths, "s"), "unsafe_image": part(paths, "u")}
    notes = [f"rows that repeat an image name, of which the first is kept: {again}"] if again else []
    notes += [f"rows among these whose prompt differs from the first's: {other}"] if other else []
    return columns, tuple(tags[row] for row in first.values()), tuple(notes)


class _Layout(NamedTuple):
    """How pairs lie in a table: the columns it knows, when it fits, and how it is read."""

    names: Sequence[str]
    fits: Callable[[set[str]], bool]
    read: Callable[[Table, Path, Path | None], Read]


_LAYOUTS = (
    _Layout((*COLUMNS, "tag"), lambda names: not names.isdisjoint(COLUMNS), _ours),
    _Layout(("safe", "nsfw", "tag", "coco_id", "prompt_id"), lambda names: {"safe", "nsfw"} <= names, _visu),
    _Layout(("prompt", "image", "category"), lambda names: {"prompt", "image", "category"} <= names, _coprov2),
)


def _from_datasets(source: str, wanted: set[str]) -> Table:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "train") from error

    rest, _, config = source.removeprefix(_DATASETS).partition("#")
    name, _, split = rest.partition("@")
    try:
        found = _open_dataset(name, split or "train", config or None)
    except (OSError, ValueError, RuntimeError, LookupError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, BadInputError):
            raise
        reason = (str(error).splitlines() or [""])[0][:300]
        raise BadInputError(
            f"cannot load the data set {name!r} ({type(error).__name__}: {reason}); check the name, the split, the "
            "configuration and the network; a gated one needs its terms accepted on the Hub and `hf auth login`."
        ) from error
    columns = found.select_columns([name for name in found.column_names if name in wanted])
    return from_arrow(columns.with_format("arrow")[:], source, wanted, found.column_names)


def _open_dataset(name: str, split: str, config: str | None) -> datasets.Dataset:
    import datasets

    folder = Path(name)
    if not folder.is_dir():
        loaded: datasets.Dataset = datasets.load_dataset(name, config, split=split)
        return loaded
    if not any((folder / file).is_file() for file in ("state.json", "dataset_dict.json")):
        raise BadInputError(f"expected a folder that save_to_disk made at {name}; name a data file in it instead.")
    stored: datasets.Dataset | Mapping[str, datasets.Dataset] = datasets.load_from_disk(name)
    if not isinstance(stored, Mapping):
        return stored
    if split not in stored:
        raise BadInputError(f"expected the split {split!r} in {name}, got {', '.join(stored)}; write {name}@SPLIT.")
    return stored[split]
