"""The work of `safeencoders doctor`: each check gives findings, and a finding names its remedy."""

import importlib
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from safeencoders import catalog, hub, trust
from safeencoders.errors import BadInputError, IntegrityError
from safeencoders.files import check_sha256, write_json
from safeencoders.provenance import manifest

PACKAGE = "safeencoders"
_NOT_FOR_USERS = ("dev", "all", "docs")
_MARKS = {"ok": "  ", "note": "- ", "wrong": "! "}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: "ok"; "note" for what is worth knowing; "wrong" for what must be mended.
        topic: what was looked at.
        text: what was found, and the remedy where one is needed.
    """

    level: Literal["ok", "note", "wrong"]
    topic: str
    text: str


def report(json_file: Path | None) -> bool:
    """Print all findings, write them as JSON when asked, and return whether nothing is wrong."""
    started = time.perf_counter()
    found = examine()
    width = max(len(finding.topic) for finding in found)
    for finding in found:
        print(f"{_MARKS[finding.level]}{finding.topic:<{width}}  {finding.text}")
    wrong = sum(finding.level == "wrong" for finding in found)
    print(f"\n{f'{wrong} wrong (marked !)' if wrong else 'All well.'}")
    if json_file is not None:
        seconds = time.perf_counter() - started
        made = manifest([PACKAGE, *sys.argv[1:]], seeds={}, weights={}, data={}, seconds=seconds)
        write_json(json_file, {"doctor": {"well": not wrong, "findings": [*map(asdict, found)]}, "manifest": made})
    return not wrong


def examine() -> list[Finding]:
    """Run every check; one that fails unexpectedly is itself a finding."""
    found: list[Finding] = []
    for check in CHECKS:
        try:
            found += check()
        except Exception as error:  # noqa: BLE001  a doctor must not fall ill with the patient
            found.append(Finding("wrong", check.__name__.replace("_", " "), f"cannot be checked: {error}"))
    return found


def python() -> Iterator[Finding]:
    """Compare Python with what this package needs."""
    needed, own = metadata(PACKAGE)["Requires-Python"], platform.python_version()
    good = SpecifierSet(needed).contains(own)
    yield Finding("ok" if good else "wrong", "python", f"{own} ({platform.system()} {platform.machine()})"
                  + ("" if good else f"; expected {needed}: make a new environment"))  # fmt: skip
    yield Finding("ok", PACKAGE, version(PACKAGE))


def packages() -> Iterator[Finding]:
    """Compare the packages that are always needed with their floors."""
    for needed in _needed(None):
        yield _compared(needed) or Finding("wrong", needed.name, f'missing: pip install "{needed}"')


def extras() -> Iterator[Finding]:
    """Say which extras are whole, and how to get the others; an installed package below its floor is wrong."""
    for extra in metadata(PACKAGE).get_all("Provides-Extra") or ():
        if extra in _NOT_FOR_USERS:
            continue
        found = {needed.name: _compared(needed) for needed in _needed(extra)}
        missing = [name for name, finding in found.items() if finding is None]
        yield from (finding for finding in found.values() if finding is not None and finding.level == "wrong")
        text = f'{", ".join(missing)} missing; if you need it: pip install "{PACKAGE}[{extra}]"' if missing else "whole"
        yield Finding("note" if missing else "ok", f"extra {extra}", text)


def _needed(extra: str | None) -> Iterator[Requirement]:
    """Parse this package's own requirements, those of one extra or those without."""
    for line in requires(PACKAGE) or ():
        needed = Requirement(line)
        if needed.marker is None if extra is None else needed.marker and needed.marker.evaluate({"extra": extra}):
            needed.marker = None
            yield needed


def _compared(needed: Requirement) -> Finding | None:
    """Compare an installed package with a requirement; None when it is not installed."""
    try:
        own = version(needed.name)
    except PackageNotFoundError:
        return None
    if needed.specifier.contains(own, prereleases=True):
        return Finding("ok", needed.name, own)
    return Finding("wrong", needed.name, f'{own}; expected {needed.specifier}: pip install "{needed}"')


def device() -> Iterator[Finding]:
    """Say where torch can compute."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield Finding("ok", "device", f"CUDA: {', '.join(names)}")
    elif torch.backends.mps.is_available():
        yield Finding("ok", "device", "MPS (Apple)")
    else:
        built = "torch was built for CUDA, but finds no GPU" if torch.version.cuda else "torch was built without CUDA"
        yield Finding("ok", "device", f"the CPU only ({built})")


def torchvision() -> Iterator[Finding]:
    """Import torchvision when it is there: built for another torch, it breaks every CLIP class of transformers."""
    if importlib.util.find_spec("torchvision") is None:
        yield Finding("ok", "torchvision", "not installed, and not needed: pictures are prepared with Pillow")
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # noqa: BLE001  a missing operator is a RuntimeError, a missing library an OSError
        yield Finding(
            "wrong", "torchvision", f"does not work with this torch ({error}): install the one that belongs to torch "
            f"{version('torch')} from the same place, or uninstall it"
        )  # fmt: skip
    else:
        yield Finding("ok", "torchvision", version("torchvision"))


def clip_skip() -> Iterator[Finding]:
    """Look whether clip_skip of Stable Diffusion 1 and 2 still asks for a layout that CLIPTextModel has no more."""
    spec = importlib.util.find_spec("diffusers")
    if spec is None or spec.origin is None:
        return
    source = Path(spec.origin).parent / "pipelines" / "stable_diffusion" / "pipeline_stable_diffusion.py"
    if "text_encoder.text_model." in source.read_text(encoding="utf-8"):
        yield Finding(
            "note", "clip_skip", "fails for Stable Diffusion 1 and 2 in this diffusers with this transformers, whether "
            "protected or not (diffusers#14124); other pipelines are not concerned"
        )  # fmt: skip


def shipped_weights() -> Iterator[Finding]:
    """Compare every shipped file with its recorded sha256."""
    from safeencoders.pictoworld import models

    whole = True
    for name, expected in models.hashes().items():
        try:
            check_sha256(models.WEIGHTS / name, expected)
        except IntegrityError as error:
            whole = False
            state = "is missing" if error.found is None else "is truncated or was changed"
            text = f"{name} {state}: pip install --force-reinstall --no-deps {PACKAGE}"
            yield Finding("wrong", "shipped weights", text)
    if whole:
        yield Finding("ok", "shipped weights", f"{len(models.hashes())} files, each with its recorded sha256")


def cache() -> Iterator[Finding]:
    """Say where downloads and their record lie, whether the Hub may be asked, and what is there already."""
    from huggingface_hub import constants

    offline = constants.is_offline_mode()
    text = "offline mode is on (HF_HUB_OFFLINE): only what is in the cache loads" if offline else "may be asked"
    yield Finding("note" if offline else "ok", "Hub", text)
    if constants.ENDPOINT != "https://huggingface.co":
        yield Finding("note", "Hub", f"downloads come from {constants.ENDPOINT} (HF_ENDPOINT)")
    yield Finding("ok", "cache", str(constants.HF_HUB_CACHE))
    listed = [encoder.name for encoder in catalog.PUBLISHED if encoder.repo and hub.cached(encoder.repo)]
    yield Finding("ok", "cached", ", ".join(listed) or "no published encoder yet")


def lock_file() -> Iterator[Finding]:
    """Read the record of first uses, and see whether it can be written."""
    place = trust.path()
    try:
        entries = trust.entries()
    except BadInputError as error:
        yield Finding("wrong", "lock file", str(error))
        return
    held = f"records {', '.join(entries)}" if entries else "nothing downloaded yet"
    parent = next(folder for folder in (place.parent, *place.parent.parents) if folder.exists())
    writable = parent.is_dir() and os.access(parent, os.W_OK)
    why = "" if writable else f"; cannot be written: choose another folder with {trust.VARIABLE}"
    yield Finding("ok" if writable else "note", "lock file", f"{place} ({held}){why}")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    python,
    packages,
    extras,
    device,
    torchvision,
    clip_skip,
    shipped_weights,
    cache,
    lock_file,
)
