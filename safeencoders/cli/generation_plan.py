"""What a run of `evaluate generation` is going to do: everything that decides a picture or a verdict, and its cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from safeencoders.catalog import ORIGINAL
from safeencoders.cli.calibrate import Recorded, read_calibration
from safeencoders.cli.generation_encoder import SafeEncoder
from safeencoders.cli.generation_utility import original_clip
from safeencoders.cli.options import judge_options
from safeencoders.cli.pipelines import WORLD, open_pipeline
from safeencoders.errors import BadInputError
from safeencoders.evaluation import baselines, sharding, systems
from safeencoders.evaluation.drawing import BATCH, GUIDANCE, SAMPLER_STEPS
from safeencoders.evaluation.presets import Panel, Preset, presets
from safeencoders.evaluation.runner_drawing import Concept, default_of, discreet, too_long
from safeencoders.evaluation.sharding import BENIGN, UNSAFE, Block, Prompts, Settings
from safeencoders.evaluation.sld import CONCEPT, check_pipeline, encode, strength_named
from safeencoders.evaluation.suites import Suite, read_suite, world_suite
from safeencoders.evaluation.systems import System
from safeencoders.evaluation.world_data import DATA, parse_data
from safeencoders.fingerprint import fingerprint
from safeencoders.provenance import versions

if TYPE_CHECKING:
    import torch

    from safeencoders.cli.generation import Asked
    from safeencoders.evaluation.utility import OriginalClip

WORLD_PROMPTS = 500
BENIGN_PROMPTS = 300
SMALL_BATCH = 8  # of pictures that are not the world's
NOISE = (
    "picture k of a prompt with seed s: CPU generator seeded (1000003 s + k) mod 2^63; s without one: 1000003 r + row"
)


@dataclass
class Plan:
    """What is drawn and judged, and how.

    Attributes:
        pipe: the pipeline with its ORIGINAL encoders.
        encoder: the safe one.
        systems: what is compared.
        suites: group -> the prompts.
        preset: of the judges.
        panel: the judges.
        recorded: how often they err, or None.
        settings: see ``Settings``.
        images: group -> how many pictures of each prompt.
        steps: of the sampler.
        concept: the negative prompt, and what SLD steers away from.
        name: of the pipeline.
        world: the seed of the world's scenes.
        clip: the original CLIP that measures what benign prompts lose, or None.
    """

    pipe: Any
    encoder: SafeEncoder
    systems: tuple[System, ...]
    suites: dict[sharding.Group, Suite]
    preset: Preset
    panel: Panel
    recorded: Recorded | None
    settings: Settings
    images: dict[sharding.Group, int]
    steps: int
    concept: Concept
    name: str
    world: int
    clip: OriginalClip | None

    @property
    def dtype(self) -> str:
        """The number format of the pipeline."""
        return str(self.pipe.dtype).removeprefix("torch.")

    @property
    def own(self) -> bool:
        """Whether the pipeline is the world's."""
        return self.name == WORLD

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The work."""
        groups = [Prompts(group, suite.items, self.images[group]) for group, suite in self.suites.items()]
        return sharding.blocks(groups, self.settings)

    @property
    def data(self) -> dict[str, str]:
        """The sha256 of every file and set of prompts that takes part."""
        files = {} if self.recorded is None else {self.recorded.name: self.recorded.sha256}
        return files | {suite.name: suite.sha256 for suite in self.suites.values()}

    @property
    def pictures(self) -> int:
        """How many pictures are drawn and judged."""
        return sum(len(block.jobs) for block in self.blocks) * len(self.systems)

    @property
    def unet_passes(self) -> int:
        """How often the denoiser looks at one picture, over the whole run."""
        return sum(len(block.jobs) * self.passes(block, system) for block in self.blocks for system in self.systems)

    def passes(self, block: Block, system: System) -> int:
        """How often the denoiser looks at one picture of a block: twice a step with guidance, and for SLD once more."""
        if block.shape.guidance <= 1:
            return self.steps
        if system.sld is None:
            return 2 * self.steps
        strength = strength_named(system.sld)
        return 2 * self.steps + self.steps - (0 if strength.momentum else strength.warmup_of(self.steps))

    @cached_property
    def weights(self) -> dict[str, str]:
        """The sha256 of every model that takes part."""
        import torch

        parts = {name: part for name, part in self.pipe.components.items() if isinstance(part, torch.nn.Module)}
        own = {f"{self.name} ({part})": fingerprint(module) for part, module in parts.items()}
        judges = {f"judge {name}": one["sha256"] for name, one in self.panel.identity().items() if one.get("sha256")}
        return own | self.encoder.weights() | judges

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the result, as JSON; a run is resumed only when all of it is the same."""
        return {
            "pipeline": {"name": self.name, "class": type(self.pipe).__name__, "scheduler": _scheduler(self.pipe)},
            "dtype": self.dtype,
            "device": self.pipe.device.type,
            "encoder": self.encoder.name,
            "systems": [system.name for system in self.systems],
            "prompts": {group: self._prompts(group) for group in self.suites},
            "world_seed": self.world,
            "preset": self.preset_row(),
            "seed": self.settings.seed,
            "noise": NOISE,
            "batch": self.settings.batch,
            "steps": self.steps,
            "guidance": self.settings.guidance,
            "concept": self.concept.text,
            "concept_encoder": "safe" if self.concept.encoded is None else "original",
            "utility": None if self.clip is None else dict(self.clip.identity),
            "sld": {
                one.sld: strength_named(one.sld).identity(self.steps) for one in self.systems if one.sld is not None
            },
            "weights": self.weights,
            "versions": versions(),
        }

    def preset_row(self) -> dict[str, Any]:
        """Return the preset with the identities of its judges, as JSON."""
        return self.preset.to_dict() | {"judges": self.panel.identity()}

    def _prompts(self, group: sharding.Group) -> dict[str, Any]:
        suite = self.suites[group]
        return {
            "name": suite.name,
            "sha256": suite.sha256,
            "prompts": len(suite.items),
            "images_per_prompt": self.images[group],
            "truncated": list(too_long(self.pipe, suite.items)),
        }


def make_plan(asked: Asked, device: torch.device) -> Plan:
    """Read the suites, open the pipeline and the judges, and check that all of it goes together.

    Raises:
        BadInputError, UnknownNameError: it does not, or a name is in no table.
        MissingExtraError, HubError: something cannot be loaded here.
    """
    name = asked.pipeline or WORLD
    own = name == WORLD
    chosen = _systems(asked)
    suites = _suites(asked, own)
    preset = presets.get(asked.judges or _default_judges(name))
    panel = Panel.of(preset, **judge_options(asked.judge_option))
    recorded = None if asked.calibration is None else read_calibration(asked.calibration, panel)
    pipe = _opened(name, device, asked.dtype)
    negative = ["negative_prompt", "negative_prompt_embeds"] if any(system.negative for system in chosen) else []
    for option in ("guidance_scale", "generator", *negative):
        default_of(pipe, option)
    if any(system.sld for system in chosen):
        check_pipeline(pipe)
    settings = Settings(
        asked.seed,
        asked.batch or (BATCH if own else SMALL_BATCH),
        GUIDANCE if own else float(default_of(pipe, "guidance_scale")),
        preset.honours,
    )
    return Plan(
        pipe,
        SafeEncoder.of(pipe, asked.encoder),
        chosen,
        suites,
        preset,
        panel,
        recorded,
        settings,
        {UNSAFE: asked.images_per_prompt or preset.images_per_prompt, BENIGN: 1},
        asked.steps or (SAMPLER_STEPS if own else int(default_of(pipe, "num_inference_steps"))),
        _concept(asked, pipe, chosen, baselines.NEGATIVE_PROMPT if own else CONCEPT),
        name,
        asked.world_seed or 0,
        original_clip(pipe, world=own),
    )


def _default_judges(pipeline: str) -> str:
    if pipeline != WORLD:
        raise BadInputError(f"expected --judges, one of {', '.join(presets)}; a rate means nothing without them")
    return WORLD


def _systems(asked: Asked) -> tuple[System, ...]:
    safe = asked.encoder != ORIGINAL
    if asked.matrix:
        if asked.negative_prompt or asked.sld:
            raise BadInputError("expected --matrix, or --negative-prompt and --sld: the matrix has them all")
        return systems.matrix() if safe else systems.without_encoder(systems.matrix())
    if asked.sld:
        strength_named(asked.sld)
    return systems.asked(encoder=safe, negative=asked.negative_prompt, sld=asked.sld)


def _suites(asked: Asked, own: bool) -> dict[sharding.Group, Suite]:
    """Return the unsafe prompts, and benign ones: the world's safe captions where no others are named."""
    world = asked.world_seed or 0
    if asked.prompts is None and not own:
        raise BadInputError("expected --prompts, the name of a suite or a file; `safeencoders suites` lists them")
    data = asked.prompts or asked.data
    if data in DATA or data.startswith(f"{WORLD}:"):
        unsafe = world_suite(parse_data(data), asked.n or WORLD_PROMPTS, world)
    else:
        unsafe = _first(read_suite(data, asked.prompts_file, on_error=asked.on_error), asked.n)
    if asked.benign is not None and not asked.benign.startswith(f"{WORLD}:"):
        benign = _first(read_suite(asked.benign, asked.benign_file, on_error=asked.on_error), asked.n)
    else:
        split = parse_data(asked.benign or (data if data in DATA else "pictoworld:test"))
        count = len(unsafe.items) if data in DATA else min(asked.n or BENIGN_PROMPTS, BENIGN_PROMPTS)
        benign = world_suite(split, count, world, benign=True)
    return {UNSAFE: unsafe, BENIGN: benign}


def _first(suite: Suite, n: int | None) -> Suite:
    return replace(suite, items=suite.items[:n])


def _opened(name: str, device: torch.device, dtype: str | None) -> Any:  # noqa: ANN401  any pipeline
    """Open a pipeline without what blacks pictures out: a checker would be measured instead of the encoder."""
    pipe = open_pipeline(name, dtype)
    if getattr(pipe, "safety_checker", None) is not None:
        pipe.register_modules(safety_checker=None)
    return pipe.to(device)


def _concept(asked: Asked, pipe: Any, chosen: tuple[System, ...], text: str) -> Concept:  # noqa: ANN401
    """Return the concept, read by the original encoder for systems with the safe one, unless asked otherwise."""
    import torch

    both = any(system.encoder and (system.negative or system.sld) for system in chosen)
    if asked.concept_encoder == "safe" or not both:
        return Concept(text)
    with torch.inference_mode(), discreet():
        return Concept(text, encode(pipe, text))


def _scheduler(pipe: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the sampler's settings as JSON; some have infinite bounds, or tensors."""
    plain = {"class": type(pipe.scheduler).__name__}
    for key, value in pipe.scheduler.config.items():
        if not key.startswith("_"):
            finite = isinstance(value, bool | int | str | None) or (isinstance(value, float) and math.isfinite(value))
            plain[key] = value if finite else str(value)
    return plain
