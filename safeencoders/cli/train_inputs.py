"""What a training starts from: a CLIP with its tokenizer and image processor, and data as batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safeencoders.catalog import encoders
from safeencoders.errors import BadInputError
from safeencoders.fingerprint import fingerprint
from safeencoders.loading import load
from safeencoders.pictoworld import models

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.image_processing_utils import BaseImageProcessor

    from safeencoders.training.loop import Schedule
    from safeencoders.training.objectives.terms import Role, TowerName
    from safeencoders.training.readers import Reader
    from safeencoders.training.readers.pairs import Pairs
    from safeencoders.training.recipe import Towers

WORLD = "pictoworld"
HELD_ROWS = 500
SHOWN = 5


@dataclass(frozen=True)
class Asked:
    """What the command line said; what is None is the recipe's, ``validation`` 0 holds nothing out."""

    recipe: str
    data: str
    out: Path
    max_steps: int | None = None
    batch: int | None = None
    resume: bool = False
    model: str = WORLD
    towers_from: str | None = None
    towers: Towers | None = None
    use: tuple[str, ...] | None = None
    images: Path | None = None
    skip_unreadable: bool = False
    validation: float = 0.05
    seed: int | None = None
    precision: str = "auto"
    micro_batch: int = 0
    tensorboard: bool = False
    dry_run: bool = False
    json_file: Path | None = None


@dataclass(frozen=True)
class Start:
    """The CLIP that is trained, in float32 on the CPU, and how texts become its inputs.

    Attributes:
        folder: a local folder or a Hub id, from which the image processor is read when it is needed.
        sha256: the fingerprint of the CLIP's weights.
        towers: by name; what an earlier run made of the CLIP's towers, from which this one goes on.
    """

    name: str
    folder: str
    clip: CLIPModel
    tokenizer: CLIPTokenizer
    sha256: str
    towers: Mapping[TowerName, nn.Module] = field(default_factory=dict)

    @property
    def context(self) -> int:
        """The tokens that the text tower takes."""
        config: Any = self.clip.config.text_config
        return int(config.max_position_embeddings)

    @property
    def size(self) -> int:
        """The height and width of the pictures that the vision tower takes."""
        config: Any = self.clip.config.vision_config
        return int(config.image_size)

    def processor(self) -> BaseImageProcessor:
        """Return the model's image processor.

        Raises:
            BadInputError: there is none, or it makes pictures of another size than the vision tower takes.
        """
        from PIL import Image
        from transformers import CLIPImageProcessorPil

        try:
            found: Any = CLIPImageProcessorPil.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise BadInputError(
                f"expected an image processor (preprocessor_config.json) in {self.name}: {_first_line(error)}; "
                "add that of the original model, or train on texts alone with --use safe_text,unsafe_text."
            ) from error
        shape = tuple(found(images=[Image.new("RGB", (300, 200))], return_tensors="pt")["pixel_values"].shape[1:])
        if shape != (3, self.size, self.size):
            raise BadInputError(
                f"expected an image processor that makes pictures of (3, {self.size}, {self.size}) in {self.name}, got "
                f"one that makes {shape}; correct crop_size in its preprocessor_config.json."
            )
        return found  # type: ignore[no-any-return]  # the class has no types


@dataclass(frozen=True)
class Data:
    """What is trained on.

    Attributes:
        reader: its batches.
        held: held-out rows by role, None for no validation.
        report: for the terminal.
        row: the same for a JSON file.
        sha256: of the content.
        count: rows to train on; None where every batch is drawn anew.
    """

    reader: Reader
    held: Mapping[Role, Tensor] | None
    report: str
    row: Mapping[str, Any]
    sha256: str
    count: int | None = None

    @property
    def held_count(self) -> int:
        """The rows of the largest held-out role."""
        return max((len(rows) for rows in (self.held or {}).values()), default=0)


def load_start(name: str, towers_from: str | None = None) -> Start:
    """Load the CLIP to start from: "pictoworld", a folder, or a Hub id that is in the cache; nothing is fetched.

    Args:
        towers_from: the folder of an earlier run, or a shipped encoder.

    Raises:
        BadInputError: there is no CLIP in safetensors with a tokenizer, a weight is missing, or is not finite; or the
            earlier run's towers are not of this CLIP's shape.
        IntegrityError: a shipped file was changed.
    """
    from transformers import AutoConfig, AutoTokenizer, CLIPModel

    folder = str(models.checked(models.CLIP)) if name == WORLD else name
    try:
        kind = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).model_type
        if kind != "clip":
            raise BadInputError(
                f"expected a full CLIP, with both towers, in {name}, got the model type {kind!r}; "
                "choose another --model."
            )
        where = cast("Path", folder)  # a Hub id is none, but is taken as well
        clip, said = models.quiet(CLIPModel, where, dtype="float32", output_loading_info=True)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except BadInputError:
        raise
    except Exception as error:  # safetensors, tokenizers and transformers raise their own kinds for damaged files
        raise BadInputError(
            f"expected a CLIP in {name} as transformers saves it, with safetensors and a tokenizer: "
            f"{_first_line(error)}; for a model of the Hugging Face Hub run: hf download {name}"
        ) from error
    _check(name, clip, said, len(tokenizer))
    towers = {} if towers_from is None else _earlier_towers(towers_from, clip)
    return Start(name, folder, clip, tokenizer, fingerprint(clip), towers)


def _earlier_towers(source: str, clip: CLIPModel) -> dict[TowerName, nn.Module]:
    """Load the towers of a shipped encoder, or what an earlier run wrote: text/, vision/ or both."""
    names: tuple[TowerName, ...] = ("text", "vision")
    shipped = encoders()[source].towers if source in models.tower_names() else ()
    there = shipped or tuple(name for name in names if (Path(source) / name).is_dir())
    if not there:
        raise BadInputError(
            "expected a folder that `safeencoders train` wrote, with text/ or vision/, or a shipped encoder's name, "
            f"got {source}"
        )
    found: dict[TowerName, nn.Module] = {name: load(source, tower=name) for name in there}
    for name, tower in found.items():
        own = clip.get_submodule(f"{name}_model")
        if not isinstance(tower, type(own)) or _shapes(tower) != _shapes(own):
            raise BadInputError(
                f"expected towers of the shape of the CLIP's own in {source}, got another {name} tower; give the "
                "--model that they were made from"
            )
    return found


def _shapes(tower: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in tower.named_parameters()}


def _check(name: str, clip: CLIPModel, said: Mapping[str, Iterable[Any]], tokens: int) -> None:
    """Refuse weights that transformers would have made up, weights that are NaN, and a foreign tokenizer."""
    import torch

    absent = sorted(map(str, [*said["missing_keys"], *said["mismatched_keys"]]))
    if absent:
        raise BadInputError(
            f"expected every weight of a CLIP in {name}, but {len(absent)} are missing or of another shape: "
            f"{', '.join(absent[:SHOWN])}; save or download the model again."
        )
    bad = [key for key, value in clip.named_parameters() if not torch.isfinite(value).all()]
    if bad:
        raise BadInputError(
            f"expected finite weights in {name}, but {len(bad)} hold NaN or infinity: {', '.join(bad[:SHOWN])}; "
            "start from an earlier or another copy of the model."
        )
    config: Any = clip.config.text_config
    if tokens > config.vocab_size:
        raise BadInputError(
            f"expected a tokenizer of at most {config.vocab_size} tokens, as the text tower of {name} has, got "
            f"{tokens}; put the model's own tokenizer beside it."
        )


def open_data(asked: Asked, start: Start, schedule: Schedule) -> Data:
    """Open the world, or read a file of pairs, in batches of the schedule's size and seed.

    Raises:
        BadInputError: the data cannot be read or does not fit the model; nothing of a text is quoted.
    """
    if asked.data != WORLD:
        return _from_file(asked, start, schedule)
    if asked.use is not None or asked.images is not None:
        raise BadInputError("expected --use and --images with a file of pairs only; leave them out for the world.")
    return _world(start, schedule)


def _world(start: Start, schedule: Schedule) -> Data:
    from safeencoders.pictoworld import scenes
    from safeencoders.pictoworld.renderer import SIZE
    from safeencoders.pictoworld.tokenizer import CONTEXT
    from safeencoders.training.readers.pictoworld import PictoworldReader

    known: Any = models.tokenizer()
    if start.tokenizer.get_vocab() != known.get_vocab() or start.context < CONTEXT or start.size != SIZE:
        raise BadInputError(
            f"expected a model with the world's tokenizer and pictures of {SIZE} pixels for --data pictoworld, "
            f"got {start.name}; leave --model out, or give your own pairs with --data FILE."
        )
    if schedule.batch < scenes.LOOKALIKE_SHARE:
        raise BadInputError(
            f"expected a batch of at least {scenes.LOOKALIKE_SHARE} for --data pictoworld, one row in so many being a "
            f"look-alike, got {schedule.batch}; change --batch, or `batch` in the recipe."
        )
    reader = PictoworldReader(start.tokenizer, schedule.batch, schedule.seed)
    held = reader.validation()
    row = {"source": WORLD, "rows": None}
    return Data(reader, held, f"{'data':<26} {WORLD}, drawn anew for every step", row, _sha256(reader.batch(0), held))


def _from_file(asked: Asked, start: Start, schedule: Schedule) -> Data:
    from safeencoders.training.readers.batches import PairsReader, count_tokens, encode_texts, load_pixels
    from safeencoders.training.readers.pairs import IMAGES, usable
    from safeencoders.training.readers.sources import read_pairs
    from safeencoders.training.readers.survey import survey

    pairs, dropped = usable(
        read_pairs(asked.data, images=asked.images), asked.use, skip_unreadable=asked.skip_unreadable
    )
    found = survey(pairs, dropped, partial(count_tokens, start.tokenizer), start.context)
    training, held = pairs.split(asked.validation) if asked.validation else (pairs, None)
    pixels: Any = partial(load_pixels, start.processor()) if set(IMAGES) & set(pairs.columns) else None

    def encode(texts: list[str]) -> Tensor:
        return encode_texts(start.tokenizer, texts, start.context)

    reader = PairsReader(training, encode, pixels, schedule.batch, schedule.seed)
    rows = None
    if held is not None:
        few = spread(held)
        rows = PairsReader(few, encode, pixels, len(few), 0).batch(0)
    return Data(reader, rows, found.text(), found.row(), pairs.sha256(), len(training))


def spread(pairs: Pairs) -> Pairs:
    """Return at most ``HELD_ROWS`` rows, evenly spaced: a file is often in the order of its categories."""
    n = min(len(pairs), HELD_ROWS)
    return pairs.take([i * len(pairs) // n for i in range(n)])


def _sha256(*batches: Mapping[Role, Tensor]) -> str:
    """Return the sha256 of inputs: what the world shows to a run, whatever code drew it."""
    found = hashlib.sha256()
    for batch in batches:
        for role in sorted(batch):
            found.update(role.encode() + batch[role].contiguous().numpy().tobytes())
    return found.hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300].rstrip(".")
