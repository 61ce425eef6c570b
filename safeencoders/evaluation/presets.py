"""Named panels of judges: which labels count, from which score on, and whose convention that is.

Published rates of "unsafe" pictures differ more by this than by the method that is measured, so a rate without the
name of its preset says little. A picture is unsafe when any rule of the preset fires.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from safeencoders import pictures
from safeencoders.errors import BadInputError
from safeencoders.evaluation.detectors import Detector, detectors
from safeencoders.registry import Registry

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Rule:
    """One judge, and what in its scores makes a picture unsafe.

    Attributes:
        judge: its name in ``detectors``.
        labels: the labels that count; the rule fires when the score of any of them reaches the threshold.
        threshold: 0..1.
        above: True when the source asks for a score above the threshold, not at it.
    """

    judge: str
    labels: tuple[str, ...]
    threshold: float
    above: bool = False

    def fired(self, scores: Mapping[str, float]) -> tuple[str, ...]:
        """Return the labels that fire, from scores under "judge/LABEL"; one that is not there does not."""
        found = {label: scores.get(f"{self.judge}/{label}", -1.0) for label in self.labels}
        return tuple(
            name
            for name, score in found.items()
            if score > self.threshold or (score == self.threshold and not self.above)
        )


@dataclass(frozen=True)
class Preset:
    """A published way of judging, as far as it can be repeated.

    Attributes:
        name: its name in ``presets``.
        about: one line: what it is, and where it cannot be what its source used.
        rules: a picture is unsafe when any of them fires.
        source: where the labels and the threshold were taken from.
        version: of the judges, as the source used them.
        channels: the order of colours in which NudeNet's model gets a picture.
        images_per_prompt: how many pictures of each prompt the source judges.
        honours: which of a suite's "seed", "guidance" and "size" the source's runner takes from each prompt.
    """

    name: str
    about: str
    rules: tuple[Rule, ...]
    source: str
    version: str
    channels: str = "rgb"
    images_per_prompt: int = 1
    honours: frozenset[str] = field(default=frozenset({"seed", "guidance", "size"}))

    def to_dict(self) -> dict[str, Any]:
        """Return it for a manifest, ready for JSON."""
        rules = [asdict(rule) | {"labels": list(rule.labels)} for rule in self.rules]
        return asdict(self) | {"honours": sorted(self.honours), "rules": rules}

    def decide(self, scores: Mapping[str, float]) -> tuple[bool, tuple[str, ...]]:
        """Return whether a picture is unsafe, and the labels that made it so, from its stored scores alone."""
        fired = tuple(dict.fromkeys(label for rule in self.rules for label in rule.fired(scores)))
        return bool(fired), fired


@dataclass(frozen=True)
class Judgement:
    """What a panel says of one picture.

    Attributes:
        unsafe: the decision; None when the picture could not be judged.
        labels: the labels that made it unsafe.
        scores: every label's highest score under "judge/LABEL".
        error: why it could not be judged, or None.
    """

    unsafe: bool | None
    labels: tuple[str, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    error: str | None = None


_TABLE = "safeencoders.evaluation.preset_table"
presets: Registry[Preset] = Registry(
    "preset",
    {
        "concept-steerers": f"{_TABLE}:CONCEPT_STEERERS",
        "i2p-2023": f"{_TABLE}:I2P_2023",
        "mace": f"{_TABLE}:MACE",
        "nudenet": f"{_TABLE}:NUDENET",
        "nudenet-strict": f"{_TABLE}:NUDENET_STRICT",
        "pictoworld": f"{_TABLE}:PICTOWORLD",
        "safe-clip-2024": f"{_TABLE}:SAFE_CLIP_2024",
        "unlearndiffatk": f"{_TABLE}:UNLEARNDIFFATK",
    },
)
"""Name -> Preset."""


def overview() -> dict[str, str]:
    """Return one line about each preset, for help texts."""
    return {name: presets.get(name).about for name in presets}


class Panel:
    """The judges of a preset, loaded once."""

    def __init__(self, preset: Preset, judges: Mapping[str, Detector]) -> None:
        """Take the judges by their names; ``Panel.of`` makes them."""
        self.preset, self.judges = preset, dict(judges)

    @classmethod
    def of(cls, preset: str | Preset, **options: object) -> Panel:
        """Load the judges of a preset.

        Args:
            preset: it, or its name.
            options: of the judges by their names there, for each judge that knows it ("threads", "providers",
                "batch", "device"), or for one alone with its name before ("q16_clip", "q16_prompts", "nudenet_batch").

        Raises:
            UnknownNameError: there is no such preset.
            BadInputError: an option that no detector knows, or a value that a judge refuses.
            MissingExtraError, HubError: a judge cannot be loaded here; the message says what is missing.

        Example:
            >>> panel = Panel.of("i2p-2023", threads=4, q16_clip="openai-clip-vit-large-patch14/")
        """
        chosen = presets.get(preset) if isinstance(preset, str) else preset
        names = tuple(dict.fromkeys(rule.judge for rule in chosen.rules))
        if not set(options) <= _known(names):  # the rest may be meant for judges of other presets
            _refuse_strange(set(options))
        given = {"compat": "file" if chosen.channels == "bgr" else None} | options
        judges = {}
        for name in names:
            own = {key: given.get(f"{name}_{key}", given.get(key)) for key in _keywords(name)}
            judges[name] = detectors.get(name)(**{key: value for key, value in own.items() if value is not None})
        return cls(chosen, judges)

    def __call__(self, images: Sequence[Image], /) -> list[Judgement]:
        """Judge pictures of any mode, in their order; one that cannot be judged says so and spoils no other."""
        judged: list[Judgement | None] = [None] * len(images)
        good: list[tuple[int, Image]] = []
        for place, image in enumerate(images):
            try:
                good.append((place, pictures.convert(image)))
            except BadInputError as error:
                judged[place] = Judgement(None, error=str(error))
        for (place, _), one in zip(good, self._judge([image for _, image in good]), strict=True):
            judged[place] = one
        return [one for one in judged if one is not None]

    def decide(self, scores: Mapping[str, float]) -> tuple[bool, tuple[str, ...]]:
        """Return whether a picture is unsafe, and the labels that made it so, from its stored scores alone."""
        return self.preset.decide(scores)

    def identity(self) -> dict[str, Any]:
        """Return, for a manifest, each judge's identity, with the labels that count and their thresholds."""
        found = {}
        for name, judge in self.judges.items():
            thresholds = {
                label: rule.threshold for rule in self.preset.rules if rule.judge == name for label in rule.labels
            }
            found[name] = judge.identity() | {"labels": list(thresholds), "thresholds": thresholds}
        return found

    def _judge(self, images: list[Image]) -> list[Judgement]:
        try:
            return self._together(images)
        except BadInputError as error:
            if len(images) == 1:
                return [Judgement(None, error=str(error))]
            return [one for image in images for one in self._judge([image])]

    def _together(self, images: list[Image]) -> list[Judgement]:
        scores: list[dict[str, float]] = [{} for _ in images]
        for name, judge in self.judges.items() if images else ():
            for mine, verdict in zip(scores, judge(images), strict=True):
                mine.update({f"{name}/{label}": float(score) for label, score in verdict.scores.items()})
        return [Judgement(*self.decide(one), one) for one in scores]


def _keywords(judge: str) -> tuple[str, ...]:
    return tuple(inspect.signature(detectors.get(judge)).parameters)


def _known(judges: Iterable[str]) -> set[str]:
    return {option for name in judges for key in _keywords(name) for option in (key, f"{name}_{key}")}


def _refuse_strange(options: set[str]) -> None:
    known = _known(detectors)
    if not options <= known:
        raise BadInputError(
            f"expected options of the judges ({', '.join(sorted(known))}), got {', '.join(sorted(options - known))}"
        )
