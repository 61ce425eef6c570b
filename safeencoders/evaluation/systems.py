"""What is compared: the pipeline as it is, with a safe encoder, with the cheap baselines, and with both."""

from __future__ import annotations

from dataclasses import dataclass

from safeencoders.evaluation.sld import STRENGTHS


@dataclass(frozen=True)
class System:
    """What is done to a pipeline before it draws.

    A negative prompt and SLD's concept pass the same text encoder as the prompt: the safe one, where there is one.

    Attributes:
        encoder: the safe encoder is in.
        negative: the listed concepts are the negative prompt.
        sld: the strength of Safe Latent Diffusion, or None.
    """

    encoder: bool = False
    negative: bool = False
    sld: str | None = None

    @property
    def name(self) -> str:
        """Such as "original", "encoder", "negative", or "sld-weak+encoder"."""
        parts = ["negative" * self.negative, f"sld-{self.sld}" * bool(self.sld), "encoder" * self.encoder]
        return "+".join(filter(None, parts)) or "original"


ORIGINAL = System()


def matrix() -> tuple[System, ...]:
    """Return the rows of the published table, and the stronger configurations of SLD after them."""
    plain = [ORIGINAL, System(negative=True), *(System(sld=strength) for strength in STRENGTHS)]
    return tuple(one for each in plain for one in (each, System(True, each.negative, each.sld)))


def asked(*, encoder: bool, negative: bool, sld: str | None) -> tuple[System, ...]:
    """Return the original, and the one system that was asked for where it is another."""
    return tuple(dict.fromkeys([ORIGINAL, System(encoder, negative, sld)]))


def without_encoder(systems: tuple[System, ...]) -> tuple[System, ...]:
    """Leave out what needs a safe encoder."""
    return tuple(one for one in systems if not one.encoder)
