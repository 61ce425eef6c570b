"""Loading: a name becomes a plain transformers tower with merged weights, ready to be assigned to a host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from safeencoders import catalog, checkpoints, deltas, hub, openclip, seal
from safeencoders.catalog import ORIGINAL, TOWERS, TowerName
from safeencoders.checkpoints import WEIGHTS
from safeencoders.errors import BadInputError, UnknownNameError
from safeencoders.files import check_sha256, read_json
from safeencoders.pictoworld import models

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import (
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPVisionModel,
        CLIPVisionModelWithProjection,
    )

    Tower = CLIPTextModel | CLIPTextModelWithProjection | CLIPVisionModel | CLIPVisionModelWithProjection

DEFAULT = "pictoworld"
PROCESSOR = "preprocessor_config.json"


def encoder_folder(name: str, tower: TowerName = "text", *, revision: str | None = None) -> Path:
    """Return the checked folder of a tower: shipped, from the catalog, a local folder, or from the Hub.

    Raises:
        UnknownNameError: none of these; it suggests the nearest name.
        BadInputError: the encoder has no such tower, or a revision was asked of what has none.
        IntegrityError: a shipped file does not have its recorded sha256.
        HubError: a published one cannot be had; its children say why.
    """
    listed, repo = catalog.find(name), "/".join(name.split("/")[:2])
    if listed is not None and listed.repo is not None:
        return _published(listed, listed.repo, tower, revision)
    if listed is not None or Path(name).is_dir():
        if revision is not None:
            raise BadInputError(f"expected no revision for {name!r}, which is not on the Hub, got {revision!r}")
        return _shipped(name, tower) if listed is not None else _local(Path(name), tower)
    if hub.is_id(repo) and repo.split("/")[0] not in catalog.encoders():  # "pictoworld/sfe-clip" is a slip
        return _from_hub(repo, tower, revision, subfolder=name[len(repo) + 1 :].strip("/"))
    raise UnknownNameError("encoder", name, catalog.list_encoders())


def _shipped(name: str, tower: TowerName) -> Path:
    if name == ORIGINAL:
        return models.checked(f"{models.GENERATOR}/text_encoder" if tower == "text" else models.CLIP)
    folder = models.WEIGHTS / models.TOWERS / name / tower
    return models.checked(f"{models.TOWERS}/{name}/{tower}") if folder.is_dir() else _no_tower(name, tower)


def _published(encoder: catalog.Encoder, repo: str, tower: TowerName, revision: str | None) -> Path:
    if encoder.tower(tower) is None:
        return _no_tower(encoder.name, tower)
    folder = _from_hub(repo, tower, revision or encoder.revision, subfolder=encoder.subfolder)
    if encoder.sha256 is not None and revision is None:
        check_sha256(folder / checkpoints.weight_files([path.name for path in folder.iterdir()])[0], encoder.sha256)
    catalog.warn_licence(encoder)
    return folder


def _from_hub(repo: str, tower: TowerName, revision: str | None, *, subfolder: str = "") -> Path:
    def choose(names: Sequence[str]) -> Sequence[str]:
        chosen = checkpoints.wanted(names, tower, subfolder=subfolder, where=repo)
        return (*chosen, *({seal.FILE} & set(names)))

    return _local(hub.fetch(repo, choose, revision=revision), tower, subfolder)


def _local(top: Path, tower: TowerName, subfolder: str = "") -> Path:
    """Find a tower's folder; a manifest at the top is compared with its files, and its licence is named."""
    folder = top / subfolder
    names = [path.relative_to(folder).as_posix() for depth in ("*", "*/*") for path in folder.glob(depth)]
    place = checkpoints.part(names, tower)
    if place is None:
        if any(checkpoints.part(names, other) is not None for other in TOWERS):
            return _no_tower(str(folder), tower)
        raise BadInputError(f"expected an encoder in {folder} (config.json and weights), found none; check the path")
    checkpoints.check_type(folder / place, tower)
    if (top / seal.FILE).is_file():
        chosen = checkpoints.wanted(names, tower, where=str(folder))
        found = seal.check(top, [(Path(subfolder) / name).as_posix() for name in chosen])
        catalog.warn_licence_of(found.encoder, found.licence)
    return folder / place


def _no_tower(name: str, tower: TowerName) -> Path:
    raise BadInputError(f"expected an encoder with a {tower} tower, got {name!r}, which has none; choose another one")


@overload
def load(
    name: str = DEFAULT,
    *,
    tower: TowerName = "text",
    projection: bool = False,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    strength: float = 1.0,
    backend: Literal["transformers"] = "transformers",
) -> Tower: ...


@overload
def load(
    name: str = DEFAULT,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    strength: float = 1.0,
    backend: Literal["open_clip"],
) -> Any: ...  # noqa: ANN401  an open_clip.CLIP


def load(
    name: str = DEFAULT,
    *,
    tower: TowerName = "text",
    projection: bool = False,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    strength: float = 1.0,
    backend: Literal["transformers", "open_clip"] = "transformers",
) -> Any:
    """Return a tower as a plain transformers model: merged, in eval mode, gradients off.

    What is published is downloaded once; its commit and the sha256 of its files are recorded in the user's cache and
    compared from then on. A non-commercial licence is named once as a ``catalog.LicenceWarning``.

    Args:
        name: of ``list_encoders()`` ("pictoworld", "safe-clip-vit-l-14", "none" for the world's original ...), a
            folder, or a repository on the Hub, "organisation/name" or "organisation/name/subfolder".
        tower: "text" or "vision".
        projection: return the class with the projection head (SDXL's second encoder and IP-Adapter read it).
        revision: a branch, tag or commit on the Hub; the one recorded at first use when None.
        dtype: of the weights; float32 when None.
        device: where to put it; the CPU when None.
        strength: how much of what training added counts, in 0..1; 0 is the original up to rounding.
        backend: "open_clip" returns both towers as one open_clip model; a tower that the encoder has not is its base's.

    Returns:
        A ``CLIPTextModel`` (last_hidden_state (n, tokens, width)) or ``CLIPVisionModel``, or its class with projection;
        an ``open_clip.CLIP`` with that backend.

    Raises:
        UnknownNameError: the name is none of these; it suggests the nearest.
        BadInputError: the tower is not one of this encoder's, the folder holds no CLIP tower or weights that are not
            its own, or a strength below 1 was asked of an encoder without a delta or a known original; with the
            backend "open_clip", neither the encoder nor its base is a whole CLIP.
        MissingExtraError: the backend "open_clip" was asked for and is not installed.
        IntegrityError: a shipped file is missing, truncated or changed; it names both hashes.
        HubError: what is published cannot be had: OfflineError, GatedError, MissingOnHubError, DownloadError; or is
            not what it was at first use: ChangedError.

    Example:
        >>> pipe.text_encoder = safeencoders.load("pictoworld")
    """
    if tower not in TOWERS:
        raise BadInputError(f"expected tower 'text' or 'vision', got {tower!r}")
    if not 0 <= strength <= 1:
        raise BadInputError(f"expected strength in 0..1, got {strength}")
    if backend not in ("transformers", "open_clip"):
        raise BadInputError(f"expected backend 'transformers' or 'open_clip', got {backend!r}")
    import torch

    if backend == "open_clip":
        if tower != "text" or projection:
            raise BadInputError("expected neither tower nor projection with backend='open_clip', which returns both "
                                "towers with their projections; leave them out")  # fmt: skip
        both = openclip.build(whole(name, revision, strength), processor(name))
        return both.to(device or "cpu", dtype or torch.float32)
    folder = encoder_folder(name, tower, revision=revision)
    if projection and name == ORIGINAL:  # the pipeline's own text tower has no projection
        folder = models.checked(models.CLIP)
    if name in models.tower_names() and not (folder / WEIGHTS).is_file():  # shipped as adapters only
        model = _model(models.checked(models.CLIP), tower, projection=projection)
        deltas.add(model, deltas.read(folder / deltas.FILE), strength)
    else:
        model = _model(folder, tower, projection=projection)
        if strength < 1 and name != ORIGINAL:
            deltas.add(model, _delta(name, folder, tower, model, projection=projection), strength - 1)
    loaded: Tower = model.to(device or "cpu", dtype or torch.float32).eval().requires_grad_(False)
    return loaded


def _delta(name: str, folder: Path, tower: TowerName, model: nn.Module, *, projection: bool) -> deltas.Delta:
    """Return what training added to a merged tower: from its file, or as the difference to its original."""
    if (folder / deltas.FILE).is_file():
        return deltas.read(folder / deltas.FILE)
    listed = catalog.find(name)
    if listed is None or listed.base is None:
        raise BadInputError(f"expected {deltas.FILE} in {folder} for a strength below 1, found none; load it at 1")
    base = models.checked(models.CLIP) if listed.base == ORIGINAL else encoder_folder(listed.base, tower)
    return deltas.between(model, _model(base, tower, projection=projection))


def _model(folder: Path, tower: TowerName, *, projection: bool) -> Any:  # noqa: ANN401
    """Load through from_pretrained, which keeps the keys' prefix when the tower is saved again."""
    import torch
    import transformers

    config = checkpoints.configuration(folder, tower)
    kind = getattr(transformers, f"CLIP{tower.capitalize()}Model{'WithProjection' if projection else ''}")
    state = checkpoints.of_tower(checkpoints.read(folder, tower), tower, projection=projection)
    if projection and checkpoints.PROJECTIONS[tower] not in state:
        raise BadInputError(
            f"expected {checkpoints.PROJECTIONS[tower]} in {folder}, found none; load it with projection=False"
        )
    checkpoints.check(state, kind, config, tower, folder)
    return models.quiet(kind, None, config=config, state_dict=state, dtype=torch.float32)


# --- both towers as one CLIP -----------------------------------------------------------------------------------------
def whole(name: str, revision: str | None = None, strength: float = 1.0, *, base: str | None = None) -> Any:  # noqa: ANN401  a CLIPModel
    """Return an encoder's towers as one CLIPModel; what it does not have itself is its base's.

    Args:
        name: as in ``load``.
        revision: as in ``load``.
        strength: as in ``load``.
        base: whose projections and logit scale to take when the encoder has none and is not in the catalog.

    Raises:
        BadInputError: neither the encoder nor its base is a whole CLIP.
    """
    import torch
    import transformers

    listed = catalog.find(name)
    state: dict[str, Tensor] = {}
    configs: dict[str, Any] = {}
    try:
        for tower in TOWERS:
            if listed is None or tower in listed.towers:
                model = load(name, tower=tower, revision=revision, strength=strength)
            else:
                model = load(_base(listed), tower=tower)
            configs[f"{tower}_config"] = model.config.to_dict()
            state |= {f"{tower}_model.{key}": value for key, value in model.state_dict().items()}
        state |= _heads(name, revision, base)
    except BadInputError as error:
        raise BadInputError(
            f"expected an encoder that is a whole CLIP, or whose base is one, for backend='open_clip': {error}. "
            "safeencoders.protect(model) puts single towers into an open_clip model"
        ) from error
    config = transformers.CLIPConfig(**configs, projection_dim=len(state[checkpoints.PROJECTIONS["text"]]))
    return models.quiet(transformers.CLIPModel, None, config=config, state_dict=state, dtype=torch.float32)


def _heads(name: str, revision: str | None, base: str | None = None) -> dict[str, Tensor]:
    """Return the two projections and the logit scale of an encoder, or of its base."""
    listed = catalog.find(name)
    state: dict[str, Tensor] = {}
    shipped = listed is not None and listed.repo is None
    for tower in TOWERS if listed is None else listed.towers:
        folder = models.checked(models.CLIP) if shipped else encoder_folder(name, tower, revision=revision)
        state |= checkpoints.read(folder, tower)
    names = {*checkpoints.PROJECTIONS.values(), "logit_scale"}
    found = {key: state[key] for key in names & set(state)}
    if found.keys() == names:
        return found
    if base is None:
        if listed is None:
            raise BadInputError(f"{name} has no {', '.join(sorted(names - set(found)))}")
        base = _base(listed)
    return _heads(base, None) | found


def _base(listed: catalog.Encoder) -> str:
    if listed.base is None:
        raise BadInputError(f"{listed.name} has no known base")
    return listed.base


def processor(name: str) -> dict[str, Any] | None:
    """Return how an encoder's pictures are prepared: as its folder says, as the world's, or None: as CLIP's own."""
    listed = catalog.find(name)
    path = (models.WEIGHTS / models.CLIP if listed is not None and listed.repo is None else Path(name)) / PROCESSOR
    return dict(read_json(path)) if path.is_file() else None
