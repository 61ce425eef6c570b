"""Publishing: a folder with everything a receiver needs, made whole or not at all, before anything is sent.

What a repository holds: ``text/`` and ``vision/`` with a configuration and safetensors whose keys have the prefix that
every version of transformers reads, the tokenizer and the image processor at the top, the same weights for open_clip
where it has such a CLIP, the card with its plots, the results it was rendered from, and the manifest of all of these.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from safeencoders import catalog, checkpoints, deltas, loading, openclip, seal
from safeencoders.cards import material, rendering
from safeencoders.catalog import TowerName
from safeencoders.errors import BadInputError, HubError, MissingExtraError, UnknownNameError
from safeencoders.files import write_json
from safeencoders.pictoworld import models

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")
PROCESSOR = "preprocessor_config.json"
OPEN_CLIP = ("open_clip_config.json", "open_clip_model.safetensors")
SIGNATURE = "model.sig"
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"})
DATA_LICENCES = {"visu": "non-commercial use only (the declaration that its authors ask for)"}
"""Data whose terms forbid a commercial licence on what was trained on it, by a part of its name, in lower case."""


@dataclass(frozen=True)
class Staged:
    """What was put together.

    Attributes:
        seal: the manifest.
        notes: what is not in the folder, and why.
    """

    seal: seal.Seal
    notes: tuple[str, ...]


def refuse_licence(encoder: catalog.Encoder, base: catalog.Encoder | None, data: Sequence[str]) -> None:
    """Raise BadInputError when weights may not be published under their licence, or are not ours to publish.

    Args:
        encoder: the record of what is to be published.
        base: the record of what it was tuned from, where there is one.
        data: names of what it was trained on.
    """
    if encoder.repo is not None:
        raise BadInputError(
            f"expected an encoder of your own, got {encoder.name}, which its authors published as {encoder.repo} under "
            f"{encoder.licence}; refer to it instead of copying it"
        )
    if encoder.noncommercial:
        return
    if base is not None and base.noncommercial:
        raise BadInputError(
            f"expected a licence no freer than that of the base, {base.name} ({base.licence}), got {encoder.licence}; "
            f"publish with --licence {base.licence}"
        )
    for name, terms in DATA_LICENCES.items():
        found = [source for source in data if name in source.lower()]
        if found:
            raise BadInputError(
                f"expected a licence that forbids commercial use, since the data {found[0]!r} is for {terms}, got "
                f"{encoder.licence}; publish with --licence CC-BY-NC-4.0"
            )


def refuse_unmeasured(found: material.Material) -> None:
    """Raise BadInputError, naming every fault, when a number is missing, has no origin, or is of other weights."""
    faults = material.faults(found)
    if faults:
        raise BadInputError("expected measured numbers for everything a card says; " + "; ".join(faults))


def refuse_pickles(source: Path) -> None:
    """Raise BadInputError when a folder holds a file that runs code when it is loaded."""
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() in PICKLES:
            raise BadInputError(
                f"expected safetensors only, found {path}, which can run code when it is loaded; convert it, or take "
                "it out of the folder"
            )


def stage(name: str, folder: Path, found: material.Material, repo: str) -> Staged:
    """Write everything that is published of an encoder; the same encoder and results give the same bytes.

    Args:
        name: of a shipped encoder, or its folder.
        folder: an empty one.
        found: what the card says; ``refuse_unmeasured`` has let it pass.
        repo: where it is going to lie, "organisation/name".

    Raises:
        BadInputError: the encoder holds a pickle, or is none.
        OutputError: the folder cannot be written.
    """
    notes: list[str] = []
    if Path(name).is_dir():
        refuse_pickles(Path(name))
    for tower in found.encoder.towers:
        _stage_tower(name, tower, folder / tower)
    notes += _stage_inputs(name, found.encoder.base, folder)
    notes += _stage_open_clip(name, found.encoder.base, folder, repo)
    card = rendering.render(found, repo=repo, open_clip=(folder / OPEN_CLIP[0]).is_file())
    for file, text in {"README.md": card.text, **card.figures}.items():
        (folder / file).write_text(text, encoding="utf-8")
    (folder / "results").mkdir()
    for file, result in {**found.results, **found.benchmarks}.items():
        shutil.copyfile(result.path, folder / "results" / f"{file}.json")
        if str(Path.home()) in result.path.read_text(encoding="utf-8"):
            notes.append(f"results/{file}.json names folders of this machine, as they were given to its command")
    return Staged(seal.write(folder, found.encoder.name, found.encoder.licence), tuple(notes))


def _stage_tower(name: str, tower: TowerName, place: Path) -> None:
    """Copy a tower as it was measured, byte for byte; one in another form is merged and written anew."""
    source = loading.encoder_folder(name, tower)
    place.mkdir()
    if _publishable(source, tower):
        for file in (checkpoints.CONFIG, checkpoints.WEIGHTS):
            shutil.copyfile(source / file, place / file)
    else:
        loading.load(name, tower=tower).save_pretrained(place)  # with the prefix, which it was loaded with
    if (source / deltas.FILE).is_file():
        shutil.copyfile(source / deltas.FILE, place / deltas.FILE)


def _publishable(source: Path, tower: TowerName) -> bool:
    """Say whether a folder holds one file of safetensors with a tower's keys, prefix and all, and nothing else's."""
    if not (source / checkpoints.WEIGHTS).is_file():
        return False
    config = checkpoints.configuration(source, tower)
    keys = checkpoints.read(source, tower).keys()
    known = (f"{tower}_model.", checkpoints.PROJECTIONS[tower])
    own_config = source.joinpath(checkpoints.CONFIG).read_text(encoding="utf-8")
    return config.model_type in own_config and all(key.startswith(known) for key in keys)


def _stage_inputs(name: str, base: str | None, folder: Path) -> list[str]:
    """Copy the tokenizer and the image processor, of the encoder or else of its base; say what there is not."""
    world = models.WEIGHTS / models.CLIP
    places = [Path(name), *([world] if base == catalog.ORIGINAL else [Path(base)] if base else [])]
    notes = []
    for files, first in ((TOKENIZER, ("tokenizer.json", "vocab.json")), ((PROCESSOR,), (PROCESSOR,))):
        top = next((place for place in places if any((place / file).is_file() for file in first)), None)
        if top is None:
            notes.append(f"no {first[0]}: there is none beside the weights; whoever loads them takes that of the base")
        for file in files if top else ():
            if top and (top / file).is_file():
                shutil.copyfile(top / file, folder / file)
    return notes


def _stage_open_clip(name: str, base: str | None, folder: Path, repo: str) -> list[str]:
    """Write an encoder's two towers as open_clip reads them; say why when it cannot have them."""
    from safetensors.torch import save_file

    try:
        clip = loading.whole(name, base=base)
        config = openclip.model_config(clip.config)
        images = openclip.preprocessing(loading.processor(str(folder)), clip.config.vision_config.image_size)
    except (BadInputError, UnknownNameError, HubError) as error:
        return [f"no files for open_clip: {error}"]
    text = clip.config.text_config
    if text.vocab_size != openclip.CLIP_VOCABULARY:
        if not (folder / "tokenizer.json").is_file():
            return ["no files for open_clip: its own tokenizer has another vocabulary, and there is none of this one"]
        config["text_cfg"] |= {"hf_tokenizer_name": repo}
    write_json(folder / OPEN_CLIP[0], {"model_cfg": config, "preprocess_cfg": images})
    metadata = {"hidden_act": text.hidden_act}  # one entry: safetensors writes several in any order, never the same
    save_file(openclip.to_tensors(clip.state_dict()), folder / OPEN_CLIP[1], metadata=metadata)
    return []


def sign(folder: Path, key: Path) -> None:
    """Sign a staged folder with a private key, as ``model_signing verify key`` checks it.

    Args:
        folder: what ``stage`` wrote; the signature is put beside.
        key: an elliptic-curve private key in PEM.

    Raises:
        MissingExtraError: model-signing or pyOpenSSL is not installed.
        BadInputError: there is no such key.
    """
    try:
        hashing, signing = (import_module(f"model_signing.{name}") for name in ("hashing", "signing"))
    except ImportError as error:
        raise MissingExtraError("model-signing", "signing") from error
    if not key.is_file():
        raise BadInputError(f"expected a private key in {key}, found none; make one with 'openssl ecparam'")
    place = folder / SIGNATURE
    try:
        how = signing.Config().use_elliptic_key_signer(private_key=key)
        how.set_hashing_config(hashing.Config().set_ignored_paths(paths=[place])).sign(folder, place)
    except (ValueError, TypeError) as error:
        raise BadInputError(f"expected an elliptic-curve private key without a password in {key}: {error}") from error


def check_towers(folder: Path, staged: Path, towers: Sequence[TowerName]) -> None:
    """Load both folders' towers with plain transformers, and compare every weight bit for bit.

    Raises:
        BadInputError: a weight differs.
    """
    from safeencoders.fingerprint import fingerprint

    for tower in towers:
        found, expected = (fingerprint(_plain(top / tower, tower)) for top in (folder, staged))
        if found != expected:
            raise BadInputError(
                f"expected the {tower} tower in {folder} to be the staged one bit for bit ({expected}), got {found}"
            )


def _plain(folder: Path, tower: TowerName) -> Any:  # noqa: ANN401  a plain tower
    import transformers
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # it reports the projection, which the plain class has no place for
    try:
        return models.quiet(getattr(transformers, f"CLIP{tower.capitalize()}Model"), folder)
    finally:
        logging.set_verbosity(before)


def sizes(folder: Path) -> Mapping[str, int]:
    """Return the size in bytes of every staged file by its path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
