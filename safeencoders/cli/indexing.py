"""What `safeencoders index` and `safeencoders search` do."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from safeencoders.cli.measure import refuse_unwritable, write_results
from safeencoders.errors import BadInputError, OutputError
from safeencoders.files import sha256_file

if TYPE_CHECKING:
    from safeencoders.pictures import Found
    from safeencoders.retrieval import Backend, Hit, Index, Mode

CHUNK = 256
SAVE_EVERY = 300.0
SHOWN = 20
FOLDERS = "folders"  # the note in an index: folder -> when it was read, and whether to its end


@dataclass(frozen=True)
class Asked:
    """What the command line said."""

    path: Path
    out: Path
    encoder: str | None
    original: str | None
    pair: bool
    update: bool
    on_error: Literal["skip", "stop"]
    device: str
    json_file: Path | None


def make_index(asked: Asked) -> None:
    """Make an index of a folder, or bring it up to date, and say what was left out and why.

    Raises:
        BadInputError: there are no pictures, none can be read, or one cannot and this was to stop it.
        OutputError: the index or the JSON file cannot be written.
    """
    from safeencoders import pictures

    start, begun = time.monotonic(), time.time()
    refuse_unwritable(asked.json_file)
    _refuse_out(asked)
    found = pictures.find(asked.path)
    index = _start(asked)
    before = set(index.ids())
    stale = _stale(index, asked.path, found) if asked.update else []
    index.remove(stale)
    _embed(index, asked, found, begun)
    if not len(index):
        reason = index.remarks[0].text if index.remarks else ""
        raise BadInputError(f"expected pictures in {asked.path}, but none of {len(found.paths)} can be read: {reason}")
    _save(index, asked, begun, complete=True)
    row = _row(index, found, before, set(stale))
    _say(asked, row)
    data = {str(asked.out): sha256_file(asked.out / "index.json")}
    write_results(asked.json_file, {"index": row}, {}, data, index.embedder.fingerprints, start)


def _refuse_out(asked: Asked) -> None:
    """Refuse a place that cannot be written, before hours of work."""
    if not asked.update and asked.out.exists() and (not asked.out.is_dir() or any(asked.out.iterdir())):
        raise OutputError(f"expected a new folder for the index, but {asked.out} exists; choose another --out, or add "
                          "to the index that is there with --update")  # fmt: skip
    refuse_unwritable(asked.out / "index.json", "--out")


def _start(asked: Asked) -> Index:
    from safeencoders.loading import DEFAULT
    from safeencoders.retrieval import Embedder, Index, storage

    if not asked.update or not asked.out.exists():  # an update of nothing makes one
        embedder = Embedder.of(asked.encoder or DEFAULT, original=asked.original, device=asked.device)
        embedder.tower("image", "safe" if asked.pair else "raw")
        return Index(embedder, pair=asked.pair)
    record, _ = storage.read(asked.out)
    if asked.pair and not record["pair"]:
        raise BadInputError(f"expected no --pair: the index in {asked.out} was made without it; leave it out, or make "
                            "another index")  # fmt: skip
    original = asked.original or record["original"]
    return Index.load(
        asked.out, Embedder.of(asked.encoder or record["encoder"], original=original, device=asked.device)
    )


def _stale(index: Index, folder: Path, found: Found) -> list[str]:
    """Return the pictures of this folder that are gone, or have changed since it was read."""
    read = index.notes.get(FOLDERS, {}).get(folder.as_posix(), {}).get("read", 0.0)
    times = {path.as_posix(): _changed(path) for path in found.paths}
    return [
        name
        for name in index.ids("image")
        if Path(name).is_relative_to(folder) and (name not in times or times[name] >= read)
    ]


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it went meanwhile: reading it again will say so
        return float("inf")


def _embed(index: Index, asked: Asked, found: Found, begun: float) -> None:
    """Add what is not there yet; save now and then, and when interrupted."""
    from tqdm import tqdm

    there, saved = set(index.ids()), time.monotonic()
    paths = [path for path in found.paths if path.as_posix() not in there]
    with tqdm(total=len(paths), desc="pictures", mininterval=1, leave=False) as bar:
        for first in range(0, len(paths), CHUNK):
            part = paths[first : first + CHUNK]
            try:
                index.add(images=part, ids=[path.as_posix() for path in part], on_error=asked.on_error)
                if time.monotonic() - saved > SAVE_EVERY:
                    _save(index, asked, begun, complete=False)
                    saved = time.monotonic()
            except KeyboardInterrupt:
                if len(index):
                    _save(index, asked, begun, complete=False)
                    print(f"\n{len(index)} pictures are saved; go on with --update", file=sys.stderr)
                raise
            bar.update(len(part))


def _save(index: Index, asked: Asked, begun: float, *, complete: bool) -> None:
    from safeencoders.retrieval import storage

    folders = index.notes.setdefault(FOLDERS, {})
    folders[asked.path.as_posix()] = {"read": begun, "complete": complete}
    index.save(asked.out, replace=storage.is_index(asked.out))


def _row(index: Index, found: Found, before: set[str], stale: set[str]) -> dict[str, Any]:
    now = set(index.ids())
    return {
        "encoder": index.embedder.name,
        "original": index.embedder.original,
        "pair": index.pair,
        "items": len(index),
        "added": len(now - before),
        "changed": len(now & stale),
        "removed": len(before - now),
        "other_files": found.others,
        "closed_folders": [path.as_posix() for path in found.closed],
        "skipped": {remark.id: remark.text for remark in index.remarks if remark.skipped},
        "remarks": {remark.id: remark.text for remark in index.remarks if not remark.skipped},
    }


def _say(asked: Asked, row: dict[str, Any]) -> None:
    from safeencoders.pictures import shown

    gallery = f"{row['encoder']}'s own" if row["pair"] else "the original"
    print(f"{asked.out}: {row['items']} pictures, embedded by {gallery} vision tower ({row['encoder']}, from "
          f"{row['original']})")  # fmt: skip
    print(f"added {row['added']}, embedded again {row['changed']}, taken out {row['removed']}, skipped "
          f"{len(row['skipped'])}; {row['other_files']} other files left alone")  # fmt: skip
    lines = [f"skipped: {text}" for text in row["skipped"].values()]
    lines += [f"skipped: the folder {name} may not be read" for name in row["closed_folders"]]
    lines += [f"taken: {text} of {name}" for name, text in row["remarks"].items()]
    print("\n".join(shown(lines[:SHOWN])), end="\n" if lines else "")
    if len(lines) > SHOWN:
        print(f"... and {len(lines) - SHOWN} more; --json FILE lists them all")


# --- search ----------------------------------------------------------------------------------------------------------
def search_index(
    folder: Path,
    query: str | None,
    image: Path | None,
    *,
    k: int,
    mode: str,
    encoder: str | None,
    original: str | None,
    backend: Backend,
    json_file: Path | None,
) -> None:
    """Search an index and show what was found.

    Raises:
        BadInputError: neither or both of text and picture were given, or as ``Index.load`` and ``Index.search``.
    """
    from safeencoders.retrieval import Index

    start = time.monotonic()
    refuse_unwritable(json_file)
    asked = query if image is None else image
    if asked is None or (query is not None and image is not None):
        raise BadInputError('expected either a text or --image FILE, such as: safeencoders search DIR "a red dog"')
    index = Index.load(folder, encoder, original=original)
    hits = index.search(asked, k, cast("Mode", mode), backend=backend)
    _show(index, hits, mode, "text" if image is None else "vision")
    found = {
        "query": query,
        "image": None if image is None else image.as_posix(),
        "mode": mode,
        "pair": index.pair,
        "hits": [vars(hit) for hit in hits],
    }
    data = {str(folder): sha256_file(folder / "index.json")}
    write_results(json_file, {"search": found}, {}, data, index.embedder.fingerprints, start)


def _show(index: Index, hits: list[Hit], mode: str, tower: str) -> None:
    from safeencoders.pictures import shown

    own = index.embedder.name
    asks = f"{own}'s {tower} tower" if mode == "safe" else f"the original {tower} tower"
    holds = f"{own}'s own towers" if index.pair else "the original towers"
    print(f"mode {mode}: asked through {asks}, among {len(index)} items of {holds}")
    for hit, name in zip(hits, shown([hit.id for hit in hits]), strict=True):
        print(f"{hit.score:8.4f}  {name}")
    unfinished = [name for name, note in index.notes.get(FOLDERS, {}).items() if not note["complete"]]
    if unfinished:
        print(f"not all of {', '.join(shown(unfinished))} is in this index: go on with safeencoders index --update")
