"""Alignment: how far a tower moves what a language model reads of benign pictures, and what it would say next.

The projector behind a tower was trained on the original's states and is not trained again. So two numbers are taken on
the same benign inputs with the tower and without it: the relative error of what the projector reads, and the total
variation between the distributions of the next token, all along the answer that the host gives without it. Both are 0
for the original itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from safeencoders.errors import BadInputError
from safeencoders.integrations.llava import LlavaHost, place

if TYPE_CHECKING:
    from torch import nn

FEATURES_LIMIT = 0.1
NEXT_TOKEN_LIMIT = 0.1
"""Above these means a warning is given: a tower trained to keep benign pictures stays well below both."""
_PROJECTOR = "multi_modal_projector"
ANSWER_TOKENS = 16


class AlignmentWarning(UserWarning):
    """Benign pictures reach the language model changed by more than the stated limit."""


@dataclass(frozen=True)
class Alignment:
    """How far towers moved what a host makes of benign inputs.

    Attributes:
        features: mean over inputs of |x - x0| / |x0|, x being all that the projector reads of an input; NaN for a host
            without one that can be found.
        next_token: mean total variation, 0..1, between the distributions of the next token.
        worst_next_token: the largest of them.
        same_next_token: share of tokens for which the most probable one stayed the same.
        n: number of inputs.
    """

    features: float
    next_token: float
    worst_next_token: float
    same_next_token: float
    n: int

    @property
    def alarm(self) -> bool:
        """Say whether a mean is above its limit."""
        return self.features > FEATURES_LIMIT or self.next_token > NEXT_TOKEN_LIMIT

    def __str__(self) -> str:
        """Say it in a sentence, for a coverage's notes."""
        verdict = (
            f"above the limits of {FEATURES_LIMIT:.0%} and {NEXT_TOKEN_LIMIT}: expect other answers on benign pictures"
            if self.alarm
            else "within the limits"
        )
        return (
            f"alignment on {self.n} benign inputs: what the projector reads moved by {self.features:.1%}, the next "
            f"token's distribution by {self.next_token:.3f} (total variation, worst {self.worst_next_token:.3f}); "
            f"{verdict}"
        )


def align(host: Any, towers: Mapping[str, nn.Module], inputs: Sequence[Mapping[str, Tensor]]) -> Alignment:  # noqa: ANN401
    """Compare a host as it is with the host that has other towers in its slots; afterwards it is as before.

    Call it before the swap with the safe towers, or after it with the originals: the numbers differ little.

    Args:
        host: a model that `LlavaHost` accepts.
        towers: by slot, as they would be put in: same device and number format.
        inputs: batches for the host's ``generate``, such as a processor makes of benign pictures and their prompts,
            padded on the left.

    Raises:
        BadInputError: there is no input, or the host does not generate.
        FitError, HostError: as `LlavaHost.check`.
    """
    if not inputs:
        raise BadInputError("expected at least one batch of benign pictures with their prompts, got none")
    LlavaHost.check(host, towers)
    if not hasattr(host, "generate"):
        raise BadInputError(f"expected a host that generates, got {type(host).__name__}; pass the model with its head")
    batches = [(_answered(host, batch), batch["input_ids"].shape[1]) for batch in inputs]
    before = [_run(host, *batch) for batch in batches]
    own = {name: host.get_submodule(name) for name in towers}
    try:
        for name, tower in towers.items():
            place(host, name, tower)
        after = [_run(host, *batch) for batch in batches]
    finally:
        for name, tower in own.items():
            place(host, name, tower)
    moved = torch.cat([_relative(now.read, then.read) for now, then in zip(after, before, strict=True)])
    now, then = (torch.cat([run.next_token for run in runs]) for runs in (after, before))
    distance = (now - then).abs().sum(-1) / 2
    found = Alignment(
        features=float(moved.mean()) if len(moved) else float("nan"),
        next_token=float(distance.mean()),
        worst_next_token=float(distance.max()),
        same_next_token=float((now.argmax(-1) == then.argmax(-1)).double().mean()),
        n=sum(len(batch["input_ids"]) for batch in inputs),
    )
    if found.alarm:
        warnings.warn(str(found), AlignmentWarning, stacklevel=2)
    return found


@torch.no_grad()
def _answered(host: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ANN401
    """Return a batch with the host's own greedy answers behind the prompts."""
    places = [getattr(host.config, name, None) for name in ("image_token_id", "video_token_id")]
    never = [token for token in places if token is not None]  # in an answer they would ask for another picture
    options = {"max_new_tokens": ANSWER_TOKENS, "do_sample": False, "suppress_tokens": never or None}
    said: Tensor = host.generate(**batch, **options)
    new = said[:, batch["input_ids"].shape[1] :]
    mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
    padding = host.generation_config.pad_token_id
    ended = torch.zeros_like(new, dtype=torch.bool) if padding is None else new == padding
    return {**batch, "input_ids": said, "attention_mask": torch.cat([mask, (~ended).to(mask.dtype)], dim=1)}


@dataclass(frozen=True)
class _Run:
    """What one pass gave: what the projector read, (n, ...) or None, and the next tokens' distributions, (m, words)."""

    read: Tensor | None
    next_token: Tensor


@torch.no_grad()
def _run(host: Any, batch: Mapping[str, Tensor], prompt: int) -> _Run:  # noqa: ANN401
    """Run a host on prompts with their answers, from token ``prompt`` on, and listen at its projector."""
    heard: list[Tensor] = []
    projectors = [part for name, part in host.named_modules() if name.endswith(_PROJECTOR)]
    hooks = [
        part.register_forward_pre_hook(lambda _module, given: heard.append(given[0].detach().float().cpu()))
        for part in projectors
    ]
    try:
        logits: Tensor = host(**batch).logits
    finally:
        for hook in hooks:
            hook.remove()
    said = batch["attention_mask"][:, prompt:].bool().cpu()
    chosen = logits[:, prompt - 1 : -1].float().cpu()[said]
    return _Run(torch.cat(heard) if heard else None, chosen.softmax(-1))


def _relative(now: Tensor | None, then: Tensor | None) -> Tensor:
    """Return |x - x0| / |x0| for each row; nothing where nothing was heard."""
    if now is None or then is None:
        return torch.empty(0)
    moved: Tensor = (now - then).flatten(1).norm(dim=1)
    size: Tensor = then.flatten(1).norm(dim=1)
    return moved / size.clamp_min(1e-12)
