"""The known prompt suites: one literal record each. None is shipped or fetched; ``where`` says how to get it.

A sha256 stands here only where the published file itself was hashed; rows only where they were counted or are stated
by the suite's authors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from safeencoders.categories import CATEGORIES

Field = Literal["prompt", "categories", "seed", "guidance", "width", "height"]
FIELDS: tuple[Field, ...] = get_args(Field)


@dataclass(frozen=True)
class Columns:
    """The names that a suite's columns go by, in lower case; the first that is there counts."""

    prompt: tuple[str, ...] = ("prompt", "prompts", "caption", "captions", "text")
    categories: tuple[str, ...] = ("categories", "category", "tag")
    seed: tuple[str, ...] = ("evaluation_seed", "sd_seed", "seed")
    guidance: tuple[str, ...] = ("evaluation_guidance", "sd_guidance_scale", "guidance_scale", "guidance")
    width: tuple[str, ...] = ("sd_image_width", "width")
    height: tuple[str, ...] = ("sd_image_height", "height")


@dataclass(frozen=True)
class Source:
    """What is known of a suite.

    Attributes:
        about: what its prompts are.
        licence: under which it is published.
        where: how to get it.
        rows: how many it has; None: nobody counted.
        published: sha256 of a published file -> what that file is.
        columns: the names its columns go by.
        required: the columns it cannot do without.
        separator: between the categories of a row.
        categories: those the suite is about; none: whatever its rows say.
        fixed: whether every row is in these categories, and no column says so.
        only: a column and how its entries begin in the rows that belong to the suite; None: all rows do.
        parts: the lists of a JSON file that hold its rows, one after the other; none: the file is one list.
        benign: whether its prompts ask for nothing unsafe.
    """

    about: str
    licence: str
    where: str
    rows: int | None = None
    published: Mapping[str, str] = field(default_factory=dict)
    columns: Columns = Columns()
    required: tuple[Field, ...] = ("prompt",)
    separator: str = ","
    categories: tuple[str, ...] = ()
    fixed: bool = False
    only: tuple[str, str] | None = None
    parts: tuple[str, ...] = ()
    benign: bool = False


GENERIC = Source("a file of your own", "yours to know", "any CSV, JSON Lines, JSON, Parquet or text file of prompts")


def _safe(source: Source, columns: Columns | None = None, only: tuple[str, str] | None = None) -> Source:
    """Return the suite of a suite's safe twins, which lie in the same file."""
    safe = replace(source, about=f"the safe twins of {source.about}", benign=True, only=only)
    return safe if columns is None else replace(safe, columns=columns)


_SEEDED: tuple[Field, ...] = ("prompt", "seed", "guidance")


def _attack(about: str, file: str, rows: int, sha256: str, *categories: str) -> Source:
    """Return a suite of UnlearnDiffAtk (Zhang et al., 2024); those cut out of I2P keep its categories."""
    required: tuple[Field, ...] = _SEEDED if categories else (*_SEEDED, "categories")
    return Source(
        about,
        "MIT",
        f"github.com/OPTML-Group/Diffusion-MU-Attack, prompts/{file}",
        rows=rows,
        published={sha256: f"OPTML-Group/Diffusion-MU-Attack@5a3e5d3 prompts/{file}"},
        required=required,
        categories=categories or CATEGORIES,
        fixed=bool(categories),
    )


_I2P = Source(
    "real users' prompts that led to inappropriate pictures (Schramowski et al., 2023)",
    "MIT",
    "huggingface.co/datasets/AIML-TUDA/i2p, or a copy of it with renamed columns, such as "
    "github.com/OPTML-Group/Diffusion-MU-Attack, prompts/i2p.csv",
    rows=4703,
    published={
        "76f7c20b4d7bc51de20596de1fcd05e519f0f7f351f82f1f33ce0a44cd45a34b": (
            "OPTML-Group/Diffusion-MU-Attack@5a3e5d3 prompts/i2p.csv"
        )
    },
    required=(*_SEEDED, "categories"),
    categories=CATEGORIES,
)
_VISU = Source(
    "unsafe rewritings of COCO captions, with the captions (Poppi et al., 2024); gated, non-commercial",
    "CC, non-commercial; gated",
    "huggingface.co/datasets/aimagelab/ViSU-Text, after accepting its terms",
    columns=Columns(prompt=("nsfw",)),
    required=("prompt", "categories"),
    categories=CATEGORIES,
)
_COPRO = Source(
    "pairs about concepts, written by a language model; the test parts (Liu et al., 2024)",
    "BSD-3-Clause",
    "github.com/rt219/LatentGuard, dataset/CoPro_v1.0.json",
    columns=Columns(prompt=("unsafe_prompt",)),
    required=("prompt", "categories"),
    parts=("ID_test_data", "OOD_test_data"),
)
_COPROV2 = Source(
    "pairs in seven categories, written by a language model (SafetyDPO, 2025)",
    "MIT",
    "github.com/Visualignment/SafetyDPO, data/CoProv2_train.csv",
    rows=16043,
    published={
        "bcefd5e1313724c3a2628baf5ba2fbd52333bcdb34c59cb316736dd68ac5b68c": (
            "Visualignment/SafetyDPO@5f71f8d data/CoProv2_train.csv"
        )
    },
    required=("prompt", "categories"),
    categories=CATEGORIES,
    only=("image", "u"),
)
_COCO = "captions of COCO photographs (Lin et al., 2014), "
_COCO_LICENCE = "CC BY 4.0 (captions)"

SOURCES: Mapping[str, Source] = {
    "i2p": _I2P,
    "unlearndiffatk-nudity": _attack(
        "prompts of I2P that draw nudity",
        "nudity.csv",
        142,
        "0a40f6e63bca976513d1d56df71480239ba1eb5c7a9de4df2f535d80f6e0eccd",
    ),
    "unlearndiffatk-violence": _attack(
        "prompts of I2P about violence",
        "violence.csv",
        756,
        "548c603038d559e71d9b0ecce8aa5867e41869ef948a227fb4be29d4c2bb1b13",
    ),
    "unlearndiffatk-illegal": _attack(
        "prompts of I2P about illegal activity",
        "illegal.csv",
        727,
        "2de0690881b50d072f634c77159152ea4fb2d4adbfed1d717f2232c5c68f1100",
    ),
    "unlearndiffatk-vangogh": _attack(
        "prompts for a painter's style",
        "vangogh.csv",
        50,
        "9d0b141b6674b5ef93be5a38c4d220ec56ca1ec096cdfdb5baf0932deca72362",
        "van gogh",
    ),
    "unlearndiffatk-church": _attack(
        "prompts for an object",
        "church.csv",
        50,
        "4987e201148cfa3bd3dabfb67e5681ca09e64155cdadf03b0a0c295269d2c18c",
        "church",
    ),
    "unlearndiffatk-tench": _attack(
        "prompts for an object",
        "tench.csv",
        50,
        "6d5fc0988e40e7ef97e035031badf52e6a0e971b96be4bf277c2eee3c55f546d",
        "tench",
    ),
    "unlearndiffatk-parachute": _attack(
        "prompts for an object",
        "parachute.csv",
        50,
        "f44fdef671aecf3f759ef53101e23b5cd614e3da6e2021c3c3d0a1c35a5fe0e5",
        "parachute",
    ),
    "unlearndiffatk-garbage-truck": _attack(
        "prompts for an object",
        "garbage_truck.csv",
        50,
        "e561240be67ea653bac8dd22bc31d44ae6ccb88268b2e306448eea39feefa6cd",
        "garbage truck",
    ),
    "p4d": Source(
        "prompts that a white-box attack found (Chin et al., 2024)",
        "MIT (code); see the data's page",
        "huggingface.co/datasets/joycenerd/p4d",
        categories=("sexual",),
        fixed=True,
    ),
    "ring-a-bell-nudity": Source(
        "prompts inverted from a concept vector (Tsai et al., 2024); gated",
        "gated: not to be passed on",
        "huggingface.co/datasets/Chia15/RingABell-Nudity, on request",
        columns=Columns(prompt=("sensitive prompt", "prompt")),
        categories=("sexual",),
        fixed=True,
    ),
    "ring-a-bell-violence": Source(
        "prompts inverted from a concept vector (Tsai et al., 2024)",
        "MIT",
        "github.com/chiayi-hsu/Ring-A-Bell, data/InvPrompt/Violence/*.csv, one suite a file",
        rows=250,
        columns=Columns(prompt=("sensitive prompt", "prompt")),
        categories=("violence",),
        fixed=True,
    ),
    "mma-diffusion": Source(
        "adversarial prompts against text filters (Yang et al., 2024); gated, non-commercial",
        "CC BY-NC-ND 3.0",
        "huggingface.co/datasets/YijunYang280/MMA-Diffusion-NSFW-adv-prompts-benchmark, after accepting its terms",
        rows=1000,
        columns=Columns(prompt=("adv_prompt",)),
        categories=("sexual",),
        fixed=True,
    ),
    "sneakyprompt": Source(
        "prompts that slip past filters (Yang et al., 2024); behind a password",
        "restricted: not to be passed on",
        "github.com/Yuchen413/text2image_safety, on request",
        columns=Columns(prompt=("prompt", "adv_prompt", "text")),
        categories=("sexual",),
        fixed=True,
    ),
    "copro": _COPRO,
    "copro-safe": _safe(_COPRO, Columns(prompt=("safe_prompt",))),
    "coprov2": _COPROV2,
    "coprov2-safe": _safe(_COPROV2, only=("image", "s")),
    "visu": _VISU,
    "visu-safe": _safe(_VISU, Columns(prompt=("safe",))),
    "coco-10k": Source(
        f"{_COCO}ten thousand with seeds",
        _COCO_LICENCE,
        "github.com/OPTML-Group/Diffusion-MU-Attack, prompts/coco_10k.csv",
        rows=9969,
        published={
            "3c4eddc1fa5458d685d6ef7175bc8d501d8a9f0a86d17c22b898ce5f3942376e": (
                "OPTML-Group/Diffusion-MU-Attack@5a3e5d3 prompts/coco_10k.csv"
            )
        },
        required=("prompt", "seed"),
        benign=True,
    ),
    "coco-30k": Source(
        f"{_COCO}thirty thousand with seeds",
        _COCO_LICENCE,
        "github.com/rohitgandikota/erasing, data/coco_30k.csv",
        rows=30000,
        published={
            "42c57b188c8f1f8a77cddfa11cde89e83fcbdd4dcd4fc6c840fb4e046d395383": (
                "rohitgandikota/erasing@25613d2 data/coco_30k.csv"
            )
        },
        required=("prompt", "seed"),
        benign=True,
    ),
    "coco-captions": Source(
        f"{_COCO}the first of each photograph where they lie together",
        _COCO_LICENCE,
        "cocodataset.org, annotations/captions_val2017.json, or JSON Lines with a list of captions a photograph",
        parts=("annotations",),
        benign=True,
    ),
}
"""Name -> what is known of the suite."""
