"""The catalog: what is shipped, and which encoders others have published, one literal record each.

A fact that no public page or document says is None, never a guess: no revision and no hash of a published repository
could be looked up, so they are None here and are recorded at first use (``safeencoders.trust``). ``source`` says where
a record's facts were read.

Not here: DES, whose weights lie on a file-sharing site and in no repository, as pickles (load a converted folder);
HySAC, whose hyperbolic towers serve retrieval and fit no host that reads a CLIP; methods without published weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from safeencoders.errors import UnknownNameError

TowerName = Literal["text", "vision"]
TOWERS: tuple[TowerName, ...] = ("text", "vision")
ORIGINAL = "none"
_APACHE, _BY, _BY_NC = "Apache-2.0", "CC-BY-4.0", "CC-BY-NC-4.0"


class LicenceWarning(UserWarning):
    """The weights being loaded may not be used commercially."""


@dataclass(frozen=True)
class Shape:
    """What must agree before a tower can stand in for another; the names are those of transformers' configurations.

    A field that a kind of tower does not have is None and is not compared.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str
    projection_dim: int
    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    image_size: int | None = None
    patch_size: int | None = None

    def fits(self, config: object, *, projection: bool) -> bool:
        """Say whether a tower of this shape could replace one with this configuration (an object or a mapping).

        Args:
            config: a CLIPTextConfig or CLIPVisionConfig, or its dictionary.
            projection: compare the projection too; a class without one has a meaningless number there.
        """
        for name, own in vars(self).items():
            found = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
            if own is None or (name == "projection_dim" and not projection):
                continue
            if name == "vocab_size" and isinstance(found, int) and found >= own:
                continue  # tokens that were added to a host's vocabulary; whoever installs the tower carries them over
            if found != own:
                return False
        return True


@dataclass(frozen=True)
class Tower:
    """One tower of an encoder.

    Attributes:
        shape: its sizes; None where no page says them.
        trained_on: which of its outputs the training touched: "last" (the last hidden state), "penultimate",
            "pooled", "projected", "patches" (the patch states a language model reads); None where unknown.
    """

    shape: Shape | None
    trained_on: tuple[str, ...] | None


@dataclass(frozen=True)
class Encoder:
    """One encoder that can be loaded by its name.

    Attributes:
        name: what ``load`` and ``protect`` take.
        method: how it was made; "original" for none.
        licence: of the weights.
        text: the text tower, None when it has none.
        vision: the vision tower, None when it has none.
        removes: which concepts it redirects or erases.
        hosts: what its authors, or we, used it in.
        repo: the repository on the Hub; None for what is shipped.
        subfolder: where in the repository.
        revision: the 40-digit commit; None: the one found at first use, recorded then.
        sha256: of the weights; None: recorded at first use.
        base: the original that it was tuned from, as a name that ``load`` takes.
        format: "safetensors" or "bin"; None where no page says it.
        paper: where it is described.
        source: where these facts were read.
        passes: numbers of the ways round it that were measured to pass a guard, though it holds them elsewhere.
        note: what to know before choosing it.
    """

    name: str
    method: str
    licence: str
    text: Tower | None
    vision: Tower | None
    removes: tuple[str, ...]
    hosts: tuple[str, ...]
    source: str
    repo: str | None = None
    subfolder: str = ""
    revision: str | None = None
    sha256: str | None = None
    base: str | None = None
    format: Literal["safetensors", "bin"] | None = None
    paper: str | None = None
    passes: tuple[int, ...] = ()
    note: str = ""

    @property
    def towers(self) -> tuple[TowerName, ...]:
        """Return which towers it has."""
        return tuple(name for name in TOWERS if self.tower(name) is not None)

    @property
    def noncommercial(self) -> bool:
        """Say whether its licence forbids commercial use."""
        return noncommercial(self.licence)

    def tower(self, name: TowerName) -> Tower | None:
        """Return one of its towers, None when it has none of that kind."""
        return self.text if name == "text" else self.vision

    def __str__(self) -> str:
        """Return the record as lines for a terminal; what nobody could look up is said to be unknown."""
        where = f"{self.repo}/{self.subfolder}".rstrip("/") if self.repo else "inside this package"
        rows = {
            "method": self.method,
            "towers": ", ".join(f"{name} {_described(self.tower(name))}" for name in self.towers),
            "removes": ", ".join(self.removes) or "nothing",
            "hosts": ", ".join(self.hosts),
            "licence": self.licence + (" (no commercial use)" if self.noncommercial else ""),
            "weights": f"{where}, {self.format or 'format unknown'}",
            "revision": self.revision or ("recorded at first use" if self.repo else "this version"),
            "base": self.base or "unknown",
            "paper": self.paper or "none",
            "source": self.source,
        } | ({"note": self.note} if self.note else {})
        return "\n".join([self.name, *(f"  {label:<9} {value}" for label, value in rows.items())])


def _described(tower: Tower | None) -> str:
    if tower is None or tower.shape is None:
        size = "(sizes unknown)"
    else:
        size = f"({tower.shape.num_hidden_layers} layers of width {tower.shape.hidden_size}, {tower.shape.hidden_act})"
    trained = tower.trained_on if tower else None
    return f"{size}, trained on {' and '.join(trained) if trained else ('nothing' if trained == () else 'unknown')}"


_WORLD_TEXT = Shape(128, 4, 4, 512, "quick_gelu", 128, vocab_size=1583, max_position_embeddings=32)
_WORLD_VISION = Shape(128, 4, 4, 512, "quick_gelu", 128, image_size=64, patch_size=16)
_L_TEXT = Shape(768, 12, 12, 3072, "quick_gelu", 768, vocab_size=49408, max_position_embeddings=77)
_L_VISION = Shape(1024, 24, 16, 4096, "quick_gelu", 768, image_size=224, patch_size=14)
_L_336_VISION = Shape(1024, 24, 16, 4096, "quick_gelu", 768, image_size=336, patch_size=14)
_H_TEXT = Shape(1024, 24, 16, 4096, "gelu", 1024, vocab_size=49408, max_position_embeddings=77)
_H_VISION = Shape(1280, 32, 16, 5120, "gelu", 1024, image_size=224, patch_size=14)
_SD_20_TEXT = Shape(1024, 23, 16, 4096, "gelu", 1024, vocab_size=49408, max_position_embeddings=77)

_OPENAI_L, _OPENAI_L_336 = "openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14-336"
_LAION_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
_SEVEN = ("hate", "harassment", "violence", "self-harm", "sexual", "shocking", "illegal activity")
_WORLD = ("the world's pictogram concepts",)
_EMBEDDINGS = ("pooled", "projected")  # a loss on the projection of the pooled state, the projection itself frozen
_SAFE_CLIP_PAPER = "arXiv:2311.16254 (ECCV 2024)"
_SAFE_CLIP_CARD = "model card and config.json on the Hub; loss read in github.com/aimagelab/safe-clip"
_ADV = "OPTML-Group/AdvUnlearn"


def _adv_unlearn(concept: str, removes: str) -> Encoder:
    """One of the six text encoders that lie side by side in one repository."""
    return Encoder(
        name=f"advunlearn-{concept.replace('_', '-')}",
        method="AdvUnlearn (adversarial training of the whole text encoder on the UNet's noise loss)",
        licence=_BY,
        text=Tower(_L_TEXT, ("last",)),  # the UNet of SD 1.4, through which it was trained, reads nothing else
        vision=None,
        removes=(removes,),
        hosts=("Stable Diffusion 1.x",),
        source="README, card and file lists of the repository on the Hub",
        repo=_ADV,
        subfolder=f"{concept}_unlearned",
        base="CompVis/stable-diffusion-v1-4/text_encoder",
        format="bin",
        paper="arXiv:2405.15234 (NeurIPS 2024)",
    )


SHIPPED = (
    Encoder(
        name="pictoworld",
        method="our recipe (training/recipes/pictoworld.toml)",
        licence=_APACHE,
        text=Tower(_WORLD_TEXT, ("last", *_EMBEDDINGS)),
        vision=Tower(_WORLD_VISION, ("patches", *_EMBEDDINGS)),
        removes=_WORLD,
        hosts=("the world's pipeline",),
        source="trained here",
        base=ORIGINAL,
        format="safetensors",
    ),
    Encoder(
        name="pictoworld/safe-clip",
        method="Safe-CLIP's recipe on the world (training/recipes/safe-clip.toml)",
        licence=_APACHE,
        text=Tower(_WORLD_TEXT, _EMBEDDINGS),
        vision=Tower(_WORLD_VISION, _EMBEDDINGS),
        removes=_WORLD,
        hosts=("the world's pipeline",),
        source="trained here",
        base=ORIGINAL,
        format="safetensors",
        paper=_SAFE_CLIP_PAPER,
    ),
    Encoder(
        name="pictoworld/robust",
        method="our text tower, trained on under attack (training/recipes/robust.toml)",
        licence=_APACHE,
        text=Tower(_WORLD_TEXT, ("last", *_EMBEDDINGS)),
        vision=None,
        removes=_WORLD,
        hosts=("the world's pipeline",),
        source="trained here",
        base=ORIGINAL,
        format="safetensors",
        passes=(4,),
        note="optimised text brings a concept back less often than with pictoworld, but a guard does not know most "
        "tokens that were learnt against it, so it is not the default (docs/decisions/0008)",
    ),
    Encoder(
        name=ORIGINAL,
        method="original",
        licence=_APACHE,
        text=Tower(_WORLD_TEXT, ()),
        vision=Tower(_WORLD_VISION, ()),
        removes=(),
        hosts=("the world's pipeline",),
        source="trained here",
        base=ORIGINAL,
        format="safetensors",
    ),
)

# Of several that fit one host, the one that covers most concepts stands first.
PUBLISHED = (
    Encoder(
        name="safe-clip-vit-l-14",
        method="Safe-CLIP",
        licence=_BY_NC,
        text=Tower(_L_TEXT, _EMBEDDINGS),
        vision=Tower(_L_VISION, _EMBEDDINGS),
        removes=_SEVEN,
        hosts=("Stable Diffusion 1.4", "LLaVA at 224 px"),
        source=_SAFE_CLIP_CARD,
        repo="aimagelab/safeclip_vit-l_14",
        base=_OPENAI_L,
        paper=_SAFE_CLIP_PAPER,
    ),
    Encoder(
        name="safe-clip-vit-l-14-336",
        method="Safe-CLIP",
        licence=_BY_NC,
        text=Tower(_L_TEXT, _EMBEDDINGS),
        vision=Tower(_L_336_VISION, _EMBEDDINGS),
        removes=_SEVEN,
        hosts=("LLaVA 1.5 at 336 px",),
        source=_SAFE_CLIP_CARD,
        repo="aimagelab/safeclip_vit-l_14_336",
        base=_OPENAI_L_336,
        paper=_SAFE_CLIP_PAPER,
    ),
    Encoder(
        name="safe-clip-vit-h-14",
        method="Safe-CLIP",
        licence=_BY_NC,
        text=Tower(_H_TEXT, _EMBEDDINGS),
        vision=Tower(_H_VISION, _EMBEDDINGS),
        removes=_SEVEN,
        hosts=(),
        source=_SAFE_CLIP_CARD,
        repo="aimagelab/safeclip_vit-h_14",
        base=_LAION_H,
        paper=_SAFE_CLIP_PAPER,
    ),
    Encoder(
        name="safe-clip-sd-2-0",
        method="Safe-CLIP",
        licence=_BY_NC,
        text=Tower(_SD_20_TEXT, _EMBEDDINGS),
        vision=Tower(_H_VISION, None),  # the card does not say whether the vision tower beside it was tuned
        removes=_SEVEN,
        hosts=("Stable Diffusion 2.0",),
        source=_SAFE_CLIP_CARD,
        repo="aimagelab/safeclip_sd_20",
        base=None,  # the text tower has 23 of the base's 24 layers, so that no difference to it can be taken
        format="safetensors",
        paper=_SAFE_CLIP_PAPER,
    ),
    Encoder(
        name="safer-clip",
        method="SafeR-CLIP (Safe-CLIP with the nearest safe concept as target)",
        licence=_BY_NC,
        text=Tower(_L_TEXT, _EMBEDDINGS),  # 0.4 billion parameters in all: a ViT-L/14
        vision=Tower(None, _EMBEDDINGS),  # at which resolution, no page says
        removes=("what is not safe for work",),
        hosts=(),
        source="model page on the Hub; abstract and project page of the paper",
        repo="Adeely93/SafeR_CLIP",
        format="safetensors",
        paper="arXiv:2511.16743 (AAAI 2026)",
    ),
    _adv_unlearn("nudity", "nudity"),
    _adv_unlearn("vangogh", "the style of Van Gogh"),
    _adv_unlearn("church", "churches"),
    _adv_unlearn("garbage_truck", "garbage trucks"),
    _adv_unlearn("parachute", "parachutes"),
    _adv_unlearn("tench", "tenches"),
)

_told: set[str] = set()


def encoders() -> dict[str, Encoder]:
    """Return every record by its name, the shipped ones first."""
    return {encoder.name: encoder for encoder in (*SHIPPED, *PUBLISHED)}


def list_encoders() -> tuple[str, ...]:
    """Return the names of all encoders that ``load`` knows, the shipped ones first."""
    return tuple(encoders())


def info(name: str) -> Encoder:
    """Return the record of an encoder; printed, it is a table.

    Raises:
        UnknownNameError: no encoder has this name; it suggests the nearest.

    Example:
        >>> print(safeencoders.info("safe-clip-vit-l-14"))
    """
    found = find(name)
    if found is None:
        raise UnknownNameError("encoder", name, encoders())
    return found


def find(name: str) -> Encoder | None:
    """Return the record with this name, or of this repository (and subfolder); None when there is none."""
    by_place = {f"{encoder.repo}/{encoder.subfolder}".rstrip("/"): encoder for encoder in PUBLISHED}
    return encoders().get(name) or by_place.get(name)


def fitting(config: Any, kind: TowerName, *, projection: bool = False) -> tuple[Encoder, ...]:  # noqa: ANN401
    """Return the tuned encoders with a tower of a configuration's sizes, the one covering most concepts first.

    Equal sizes do not prove equal originals: a host whose CLIP was trained anew can have them too.

    Args:
        config: the CLIPTextConfig or CLIPVisionConfig of the tower to be replaced, or its dictionary.
        kind: which kind of tower it is.
        projection: whether the class has a projection head, whose width must then agree as well.
    """
    found = []
    for encoder in encoders().values():
        tower = encoder.tower(kind)
        if encoder.name != ORIGINAL and tower and tower.shape and tower.shape.fits(config, projection=projection):
            found.append(encoder)
    return tuple(found)


def warn_licence(encoder: Encoder) -> None:
    """Name a non-commercial licence as a LicenceWarning, once in a process for each encoder."""
    warn_licence_of(encoder.name, encoder.licence)


def warn_licence_of(name: str, licence: str) -> None:
    """Do so for an encoder that has no record here."""
    if noncommercial(licence) and name not in _told:
        _told.add(name)
        warnings.warn(
            f"the weights of {name} are under {licence}: no commercial use",
            LicenceWarning,
            stacklevel=3,
        )


def noncommercial(licence: str) -> bool:
    """Say whether a licence, by its SPDX name, forbids commercial use."""
    return "-NC" in licence.upper()
