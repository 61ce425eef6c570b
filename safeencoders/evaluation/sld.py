"""Safe Latent Diffusion (Schramowski et al., CVPR 2023) as a guidance step on any pipeline with a UNet.

diffusers retired its own pipeline for it. Here a hook on the UNet asks for a third prediction, that of a safety
concept S, and takes the safety term off the conditional one, so that the pipeline's own classifier-free guidance

    e(z) + g [ (e(z, p) - e(z)) - gamma ]                                                                   (eq. 3)

comes out as in the paper, with d = e(z, p) - e(z, S) and, at step i of a call, elementwise:

    mu = min(1, s_S |d|) where d < lambda, else 0                                                           (eq. 6)
    gamma_i = mu (e(z, S) - e(z)) + s_m nu_i;   counted from step delta on                                  (eq. 4, 7)
    nu_{i+1} = beta_m nu_i + (1 - beta_m) gamma_i;   nu_0 = 0                                               (eq. 8)

A concept given as text is encoded by whatever text encoder the pipeline holds then, as its prompts are. A safe encoder
redirects it to something safe, from which SLD would then steer away: with one, give the concept as the original
encoder understands it (`encode`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from safeencoders.errors import BadInputError, UnknownNameError

CONCEPT = (
    "hate, harassment, violence, suffering, humiliation, harm, suicide, sexual, nudity, bodily fluids, blood, obscene "
    "gestures, illegal activity, drug use, theft, vandalism, weapons, child abuse, brutality, cruelty"
)
"""What the paper steers away from, every term as published (released code; the same list negates prompts for I2P)."""

PUBLISHED_STEPS = 50
"""The sampler steps for which the warm-up was published."""


@dataclass(frozen=True)
class Strength:
    """The constants of one configuration.

    Attributes:
        warmup: delta, in steps out of 50.
        scale: s_S.
        threshold: lambda.
        momentum: s_m.
        beta: beta_m.
    """

    warmup: int
    scale: float
    threshold: float
    momentum: float
    beta: float

    def warmup_of(self, steps: int) -> int:
        """Return delta for another number of steps: the same part of the way, rounded."""
        return round(self.warmup * steps / PUBLISHED_STEPS)

    def identity(self, steps: int) -> dict[str, float]:
        """Return the constants, and the warm-up that they mean at this number of steps, for a manifest."""
        return asdict(self) | {"warmup_used": self.warmup_of(steps), "steps": steps}


STRENGTHS = {
    "weak": Strength(15, 200, 0.0, 0.0, 0.0),
    "medium": Strength(10, 1000, 0.01, 0.3, 0.4),
    "strong": Strength(7, 2000, 0.025, 0.5, 0.7),
    "max": Strength(0, 5000, 1.0, 0.5, 0.7),
}
"""The paper's Hyp-Weak to Hyp-Max; the retired pipeline of diffusers had a scale of 20 for weak, which no rate that
was published belongs to."""


def strength_named(name: str) -> Strength:
    """Return a configuration; an unknown name raises UnknownNameError."""
    if name not in STRENGTHS:
        raise UnknownNameError("strength of SLD", name, STRENGTHS)
    return STRENGTHS[name]


Encoded = tuple[Tensor, Tensor | None]
"""A text as a pipeline's UNet hears it: (1, tokens, width), and (1, width) where the UNet (SDXL's) has pooled text."""


def encode(pipe: Any, text: str, device: torch.device | None = None) -> Encoded:  # noqa: ANN401  any pipeline
    """Encode a text as the pipeline would a prompt, by the text encoders it holds now."""
    skip = {"clip_skip": pipe.clip_skip} if getattr(pipe, "clip_skip", None) else {}
    found = pipe.encode_prompt(
        prompt=text, device=device or pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False, **skip
    )
    return found[0], found[2] if len(found) > 2 else None


@contextmanager
def sld(pipe: Any, strength: Strength, concept: str | Encoded = CONCEPT) -> Iterator[None]:  # noqa: ANN401  any pipeline
    """Guide every call of the pipeline inside the block away from a concept; afterwards it is as it was.

    Every call of the pipeline begins anew. Where ``guidance_rescale`` is used, it sees the changed prediction.

    Args:
        pipe: with a UNet, a scheduler and ``encode_prompt``: Stable Diffusion 1, 2 and XL, with ControlNet, from an
            image, and so on. It must be called with classifier-free guidance.
        strength: see STRENGTHS.
        concept: a text, or one that was encoded before.

    Raises:
        BadInputError: the pipeline is of another kind, or, inside the block, is called without guidance.
    """
    check_pipeline(pipe)
    guidance = _Guidance(pipe, strength, concept)
    scheduler, before = pipe.scheduler, dict(vars(pipe.scheduler))
    set_timesteps = scheduler.set_timesteps

    @wraps(set_timesteps)
    def begin(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401  every scheduler has its own
        set_timesteps(*args, **kwargs)
        guidance.begin(len(scheduler.timesteps))

    scheduler.set_timesteps = begin
    hook = pipe.unet.register_forward_hook(guidance, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        if "set_timesteps" in before:
            scheduler.set_timesteps = before["set_timesteps"]
        else:
            del scheduler.set_timesteps


def check_pipeline(pipe: Any) -> None:  # noqa: ANN401  any pipeline
    """Raise BadInputError for a pipeline on which Safe Latent Diffusion is not defined."""
    guided = hasattr(type(pipe), "encode_prompt") and hasattr(type(pipe), "do_classifier_free_guidance")
    if isinstance(getattr(pipe, "unet", None), nn.Module) and guided:
        return
    other = next((name for name in ("transformer", "prior") if getattr(pipe, name, None) is not None), None)
    raise BadInputError(
        "expected a pipeline with a UNet, a scheduler and encode_prompt, such as Stable Diffusion 1, 2 or XL, got "
        f"{type(pipe).__name__}{f', which has a {other}' if other else ''}; Safe Latent Diffusion is not defined for it"
    )


@dataclass
class _Guidance:
    """The hook, with the state of one call of the pipeline."""

    pipe: Any
    strength: Strength
    concept: str | Encoded
    step: int = -1  # no call has begun
    warmup: int = 0
    momentum: Tensor | None = None
    encoded: Encoded | None = field(default=None, repr=False)

    def begin(self, steps: int) -> None:
        """Start a call of so many steps."""
        self.step, self.warmup = 0, self.strength.warmup_of(steps)
        self.momentum = self.encoded = None

    def __call__(self, unet: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:  # noqa: ANN401  of a hook
        """Take the safety term off the conditional half of what the UNet predicted."""
        predicted: Tensor = output[0]
        given = dict(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False)) | kwargs
        if self.step <= 0:
            self._check_call(given["sample"], predicted)
        begun = self.step >= self.warmup
        self.step += 1
        if not begun and not self.strength.momentum:
            return None  # nothing of this step is ever used
        plain, asked = predicted.chunk(2)
        away = unet.forward(**self._conditions(given, len(predicted)))[0]
        term = self._term(plain, asked, away)
        if not begun:
            return None
        changed = torch.cat([plain, asked - term])
        return (changed, *output[1:]) if isinstance(output, tuple) else type(output)(sample=changed)

    def _term(self, plain: Tensor, asked: Tensor, away: Tensor) -> Tensor:
        """Return gamma, and move the momentum on (equations 4 to 8)."""
        s, difference = self.strength, asked - away
        mu = torch.where(difference >= s.threshold, 0.0, (difference.abs() * s.scale).clamp(max=1.0))
        momentum = torch.zeros_like(mu) if self.momentum is None else self.momentum
        term = mu * (away - plain) + s.momentum * momentum
        self.momentum = s.beta * momentum + (1 - s.beta) * term
        return term

    def _conditions(self, given: dict[str, Any], rows: int) -> dict[str, Any]:
        """Return the arguments of the third prediction: the conditional half of all, with the concept as the text."""
        hidden = given["encoder_hidden_states"]
        text, pooled = self._encoded(hidden)
        kept: dict[str, Any] = _half(given, rows)
        added = dict(kept.get("added_cond_kwargs") or {})
        if pooled is not None and "text_embeds" in added:
            added["text_embeds"] = pooled.expand(len(added["text_embeds"]), -1)
            kept["added_cond_kwargs"] = added
        return kept | {"encoder_hidden_states": text.expand(len(hidden) // 2, -1, -1)}

    def _encoded(self, like: Tensor) -> Encoded:
        """Return the concept, encoded once a call, as the UNet takes it."""
        if self.encoded is None:
            given = self.concept if isinstance(self.concept, tuple) else encode(self.pipe, self.concept, like.device)
            self.encoded = (given[0].to(like), None if given[1] is None else given[1].to(like))
        return self.encoded

    def _check_call(self, latents: Tensor, predicted: Tensor) -> None:
        if self.step < 0:
            raise BadInputError("expected the scheduler the block began with; exchange it before, not inside")
        if not self.pipe.do_classifier_free_guidance:
            raise BadInputError("expected classifier-free guidance, got none: call with a guidance_scale above 1")
        halves = latents.chunk(2)
        if len(latents) % 2 or not torch.equal(*halves) or predicted.shape[1] > latents.shape[1]:
            raise BadInputError(
                "expected a UNet that is asked twice about the same latents, without and with the prompt, and "
                f"predicts noise alone; {type(self.pipe).__name__} does otherwise"
            )


def _half(value: Any, rows: int) -> Any:  # noqa: ANN401  nested arguments of a UNet
    """Return the conditional half of every tensor with that many rows, in lists and dictionaries too."""
    if isinstance(value, Tensor):
        return value.chunk(2)[1] if value.ndim and len(value) == rows else value
    if isinstance(value, dict):
        return {name: _half(one, rows) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_half(one, rows) for one in value)
    return value
