"""The 17 ways round a safe text encoder in a pipeline, and how each stands in a host under a policy.

The list is that of the ways known to the authors when the guard was written; each has an attack and a benign twin in
safeencoders/cli/bypasses.py. "Closed" means refused, or measured and taken back; "watched" means an event is logged
and handed to the callback; "open" means nothing happens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from safeencoders import catalog
from safeencoders.integrations.coverage import HoleReport, SlotReport, Status
from safeencoders.integrations.events import Policy


@dataclass(frozen=True)
class Facts:
    """What of a host the rules need.

    Attributes:
        policy: None when the host is not protected.
        parameters: names its calls take.
        methods: names of its public methods.
        pipeline: whether it is a pipeline with a denoiser; a CLIP or a language model is none.
        clip_skip_broken: whether this stack's ``clip_skip`` fails in this host before any tower is asked.
    """

    policy: Policy | None
    parameters: frozenset[str]
    methods: frozenset[str]
    pipeline: bool
    clip_skip_broken: bool


def facts(host: Any, policy: Policy | None, calls: Sequence[str] = ("__call__",)) -> Facts:  # noqa: ANN401  any host
    """Look at a host's class and towers; ``calls`` are the functions by which it is used."""
    kind = type(host)
    functions = [getattr(kind, name) for name in calls if hasattr(kind, name)]
    parameters = frozenset(name for function in functions for name in inspect.signature(function).parameters)
    if hasattr(host, "blocks"):  # a modular pipeline says in its blocks what it takes
        parameters |= {given.name for given in host.blocks.inputs if given.name}
    methods = frozenset(name for name in dir(kind) if not name.startswith("_"))
    encode = getattr(kind, "encode_prompt", None)
    broken = (
        encode is not None
        and "clip_skip" in parameters
        and "text_encoder.text_model" in _source(encode)
        and not hasattr(getattr(host, "text_encoder", None), "text_model")
    )
    return Facts(policy, parameters, methods, hasattr(host, "components"), broken)


def _source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(inspect.unwrap(function))
    except (OSError, TypeError):  # no source is at hand
        return ""


Rule = Callable[[Facts, SlotReport], tuple[Status, str]]


@dataclass(frozen=True)
class Hole:
    """One hole: its number and title, what it concerns, and how it stands.

    Attributes:
        concerns: "text" or "vision" slots, or "host".
        rule: how it stands there.
        seen: how it stands in a vision tower of a host that is no pipeline, where it is a way round that tower too.
    """

    number: int
    title: str
    concerns: str
    rule: Rule
    seen: Rule | None = None


def _guarded(warn: Status, strict: Status, why: str) -> Rule:
    """Return a rule for what only the guard can see."""

    def rule(facts: Facts, _slot: SlotReport) -> tuple[Status, str]:
        if facts.policy in (None, "off"):
            return "open", "no guard is installed"
        return (strict if facts.policy == "strict" else warn), why

    return rule


def _if(condition: Callable[[Facts, SlotReport], bool], rule: Rule, otherwise: str) -> Rule:
    return lambda facts, slot: rule(facts, slot) if condition(facts, slot) else ("does not apply", otherwise)


def _always(status: Status, why: str) -> Rule:
    return lambda _facts, _slot: (status, why)


def _takes(*endings: str) -> Callable[[Facts, SlotReport], bool]:
    return lambda facts, _slot: any(name.endswith(endings) for name in facts.parameters)


def _clip_skip(facts: Facts, slot: SlotReport) -> tuple[Status, str]:
    if _chooses_layer(facts, slot):
        return _guarded("watched", "closed", _SEEN_LAYER)(facts, slot)
    if "clip_skip" not in facts.parameters:
        return "does not apply", "the host has no clip_skip"
    if facts.clip_skip_broken:
        return "broken upstream", "clip_skip fails in this host with the installed transformers, whatever the tower"
    if slot.trained_on and any(field.startswith(("penultimate", "hidden")) for field in slot.trained_on):
        return _guarded("watched", "closed", "a layer the encoder was not trained on is reported, or refused")(
            facts, slot
        )
    why = "the encoder was not trained on the layers clip_skip reads; its use is reported, or refused"
    return _guarded("watched", "closed", why)(facts, slot)


def _negative(facts: Facts, slot: SlotReport) -> tuple[Status, str]:
    if not any(name.startswith("negative_prompt") and "embed" not in name for name in facts.parameters):
        return "does not apply", "the host takes one prompt"
    return _guarded("watched", "watched", _AWAY)(facts, slot)


def _image(facts: Facts, slot: SlotReport) -> tuple[Status, str]:
    if not facts.pipeline:
        return _guarded("watched", "closed", _SEEN_FEATURES)(facts, slot)
    if slot.state == "empty":
        why = "no image encoder is loaded; one that comes later is reported, or refused"
        return _guarded("watched", "closed", why)(facts, slot)
    return _guarded("watched", "closed", "image embeddings the safe tower did not make are reported, or refused")(
        facts, slot
    )


_LORA = "measured with the canaries at loading and fusing, and taken back when redirection falls"
_TOKEN = "each new token is measured in safe sentences, and taken back when it leads to something unsafe"  # noqa: S105
_FOREIGN = "embeddings that the host's own towers did not make are reported, or refused"
_WEIGHTS = "weights and blends of own embeddings pass; amplification beyond 4 is reported, or refused"
_REPLACED = "what takes its place is measured at once; a sample of its weights is compared before each call"
_DERIVED = "they hold the safe tower, not the guard: reported when made by from_pipe or saved; protect them again"
_CACHE = "embeddings from before a restart count as foreign; removing a checker is reported, or refused"
_CHANGED = "a changed tower or tokenizer is measured with the canaries before the next call"
_AWAY = (
    "they pass the same safe tower, which redirects a negative prompt too, and guidance then pushes away from what is "
    "safe: noted when the first one comes in; leave it empty or harmless"
)
_SEEN_REPLACED = "its equal passes; anything else is reported, or refused, at once or before the next call"
_SEEN_CHANGED = "a change cannot be measured and is reported once, or refused, before the next picture"
_SEEN_LAYER = "a call that reads a layer the encoder was not trained on is reported, or refused"
_SEEN_FEATURES = "embeddings and features that this host did not make itself are reported, or refused"
_SEEN_CRAFTED = "pictures too can be made to pass a tower, and nothing stops it"
_KEYS = "keys and values (past_key_values) from before the swap are not looked at"
_SAVED = "what is saved holds the safe tower, not the guard: reported; protect it again where it runs"
_STATE = "what is saved of it holds the safe tower and no guard, and nothing tells: protect it again where it runs"
_DENOISER = "no encoder can hold back a denoiser that was taught the concept"
_TEXT = "nothing stops it; redteam measures how often it succeeds"
_IMPLICIT = "an encoder redirects what it was trained on (see its card), and nothing stops the rest"
_START = "what a picture or latents bring passes no text tower"
_NO_EMBEDS = "the host takes no such embeddings"
_NO_PIPELINE = "the host is no pipeline"
_NO_DENOISER = "the host has no denoiser; nothing holds back a language model that was taught the concept"


def _has(method: str) -> Callable[[Facts, SlotReport], bool]:
    return lambda facts, _slot: method in facts.methods


def _is_pipeline(facts: Facts, _slot: SlotReport) -> bool:
    return facts.pipeline


def _conditions_images(facts: Facts, slot: SlotReport) -> bool:
    if not facts.pipeline:
        return bool(facts.parameters & {"inputs_embeds", "image_embeds", "mm_encoder_outputs", "encoder_outputs"})
    return slot.state != "empty" or "load_ip_adapter" in facts.methods


def _chooses_layer(facts: Facts, _slot: SlotReport) -> bool:
    return any(name.startswith(("vision_feature_layer", "intermediates_only")) for name in facts.parameters)


def _derived(facts: Facts, slot: SlotReport) -> tuple[Status, str]:
    if "save_pretrained" not in facts.methods:
        return "open", _STATE
    return _guarded("watched", "watched", _DERIVED if facts.pipeline else _SAVED)(facts, slot)


def _cache(facts: Facts, slot: SlotReport) -> tuple[Status, str]:
    if "past_key_values" in facts.parameters and not facts.pipeline:
        return "open", _KEYS
    return _if(_is_pipeline, _guarded("watched", "closed", _CACHE), _NO_PIPELINE)(facts, slot)


HOLES = (
    Hole(1, "embeddings instead of a prompt", "text",
         _if(_takes("prompt_embeds"), _guarded("watched", "closed", _FOREIGN), _NO_EMBEDS)),
    Hole(2, "prompt weighting", "text",
         _if(_takes("prompt_embeds"), _guarded("watched", "watched", _WEIGHTS), _NO_EMBEDS)),
    Hole(3, "another layer than the trained one (clip_skip)", "text", _clip_skip,
         _if(_chooses_layer, _guarded("watched", "closed", _SEEN_LAYER), "the host reads what it always reads")),
    Hole(4, "textual inversion after the swap", "text",
         _if(_has("load_textual_inversion"), _guarded("closed", "closed", _TOKEN), "the host loads none")),
    Hole(5, "LoRA in the text encoder, loaded or fused", "text",
         _if(_has("load_lora_weights"), _guarded("closed", "closed", _LORA), "the host loads none"),
         _guarded("watched", "closed", _SEEN_CHANGED)),
    Hole(6, "a denoiser taught again (LoRA, DreamBooth, another checkpoint)", "host",
         _if(_is_pipeline, _always("open", _DENOISER), _NO_DENOISER)),
    Hole(7, "the tower replaced", "text", _guarded("watched", "closed", _REPLACED),
         _guarded("watched", "closed", _SEEN_REPLACED)),
    Hole(8, "a text encoder left alone", "text", _always("closed", "a safe tower is in it")),
    Hole(9, "second and negative prompts", "text", _negative),
    Hole(10, "adversarial text", "text", _always("open", _TEXT), _always("open", _SEEN_CRAFTED)),
    Hole(11, "unsafe without an unsafe word", "text", _always("open", _IMPLICIT), _always("open", _IMPLICIT)),
    Hole(12, "pictures and latents to start from", "host",
         _if(_is_pipeline,
             _if(_takes("image", "latents", "video"), _always("open", _START), "the host starts from noise only"),
             "the host reads pictures with its tower and starts from none")),
    Hole(13, "image conditioning", "vision", _if(_conditions_images, _image, "the host has no image conditioning")),
    Hole(14, "negative embeddings", "text",
         _if(_takes("negative_prompt_embeds"), _guarded("watched", "closed", _FOREIGN), _NO_EMBEDS)),
    Hole(15, "derived, saved or exported pipelines", "text", _derived, _derived),
    Hole(16, "embeddings from a cache, the safety checker removed", "host", _cache),
    Hole(17, "quantised tower, other tokenizer", "text", _guarded("watched", "watched", _CHANGED),
         _guarded("watched", "closed", _SEEN_CHANGED)),
)  # fmt: skip


def report(facts: Facts, slots: tuple[SlotReport, ...]) -> Iterator[HoleReport]:
    """Yield how every hole stands: for each slot it concerns, or once for the host."""
    for hole in HOLES:
        concerned = [slot for slot in slots if slot.kind == hole.concerns and not (
            slot.state == "empty" and hole.concerns == "text")]  # fmt: skip
        if hole.seen and not facts.pipeline:
            concerned += [slot for slot in slots if slot.kind == "vision"]
        if hole.concerns == "host":
            status, why = hole.rule(facts, SlotReport("", "text", "", "open"))
            yield HoleReport(hole.number, hole.title, None, status, why)
        elif not concerned:
            yield HoleReport(hole.number, hole.title, None, "does not apply", f"the host has no {hole.concerns} tower")
        for slot in concerned:
            yield HoleReport(hole.number, hole.title, slot.name, *_in_slot(hole, facts, slot, slots))


def _in_slot(hole: Hole, facts: Facts, slot: SlotReport, slots: tuple[SlotReport, ...]) -> tuple[Status, str]:
    texts = sum(other.kind == "text" and other.state != "empty" for other in slots)
    if hole.number == 8 and texts == 1:
        return "does not apply", "the host has one text encoder only"
    rule = hole.seen if hole.seen and slot.kind == "vision" else hole.rule
    status, why = rule(facts, slot)
    if status == "does not apply":
        return status, why
    if slot.state == "open":
        return "open", "no safe tower is in this component"
    known = catalog.find(slot.encoder) if slot.encoder else None
    if status == "closed" and known is not None and hole.number in known.passes:
        return "open", "a guard was measured not to hold it for this encoder (see its card)"
    return status, why
