"""White-box attacks on a text tower: the attacker holds its weights and the original's, and optimises what goes in.

Symbols: u an unsafe caption, b(u) the ORIGINAL tower's states of it, from which the generator draws u; f the attacked
tower. Free positions of a caption are the attacker's, the rest stays. He looks for an input x that brings f(x) to b(u),
measured either on the states themselves or on what the denoiser makes of them:

- token space: x are tokens in the place of the words that name the concept, found by greedy coordinate gradient
  (Zou et al., 2023, arXiv 2307.15043): the loss's gradient with respect to the one-hot tokens ranks replacements, a few
  of the best are tried, the best is kept. Every token may be used that survives being written as text and read again,
  words of the concept included; a step costs one gradient and ``candidates`` trials a caption.
- embedding space: x is one vector put before those words, as textual inversion would load it, found by Adam
  (as in Circumventing Concept Erasure, Pham et al., 2023, arXiv 2308.01508).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import trange

from safeencoders.evaluation.drawing import GUIDANCE, SAMPLER_STEPS, noise
from safeencoders.pictoworld import tokenizer as world_tokenizer

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

BATCH = 800
"""Captions in one forward pass of the tower."""
DENOISER_BATCH = 200
TRAJECTORY = (1, 4, 7)
"""Of the sampler's steps, those whose latents the denoiser's goal is measured at."""

Goal = Callable[[Tensor, Tensor], Tensor]
"""(states (b, L, width), their captions' numbers (b,)) -> loss (b,), to be made small."""


@dataclass(frozen=True)
class Budget:
    """What an attack may spend on each caption.

    Attributes:
        steps: of the search; in embedding space, of Adam.
        candidates: replacements tried in a step of the token search, one token each.
        top: from how many of the best-ranked tokens these are drawn, at each free position.
        rate: Adam's learning rate.
    """

    steps: int
    candidates: int = 16
    top: int = 64
    rate: float = 0.02


@dataclass(frozen=True)
class Aim:
    """n captions and the positions that the attacker may write to.

    Attributes:
        captions: int64 (n, L), the unsafe captions as they are.
        ids: int64 (n, L), where the attack starts from.
        free: bool (n, L), at least one in each row.
        source: int64 (n, L), the position in the caption that each position of ``ids`` stands for.
    """

    captions: Tensor
    ids: Tensor
    free: Tensor
    source: Tensor

    @classmethod
    def of(
        cls, tokenizer: CLIPTokenizer, texts: Sequence[str], phrases: Sequence[str], *, slots: int, keep: bool
    ) -> Aim:
        """Open ``slots`` positions in each caption: before a phrase of it, or (keep=False) in the phrase's place.

        Raises:
            ValueError: a phrase is not in its caption, or the caption gets too long.
        """
        captions = world_tokenizer.encode(tokenizer, texts)
        rows = [
            _opened(caption, tokenizer(phrase, add_special_tokens=False).input_ids, slots, keep=keep)
            for caption, phrase in zip(captions.tolist(), phrases, strict=True)
        ]
        ids, free, source = (torch.tensor(part) for part in zip(*rows, strict=True))
        return cls(captions, ids, free, source)

    def wanted(self, original: CLIPTextModel) -> Tensor:
        """Return b(u) at the position each position stands for: float32 (n, L, width)."""
        states = read(original, self.captions)
        return states.gather(1, self.source[..., None].expand_as(states))


def _opened(
    caption: list[int], phrase: list[int], slots: int, *, keep: bool
) -> tuple[list[int], list[bool], list[int]]:
    """Return one row of ids, free, source; a phrase that is replaced gives its own tokens to begin with."""
    length, m = len(caption), len(phrase)
    at = next((i for i in range(length - m) if caption[i : i + m] == phrase), None)
    if at is None:
        raise ValueError("expected the phrase in the caption, token for token")
    behind = at if keep else at + m
    start = (phrase * slots)[:slots]
    ids = caption[:at] + start + caption[behind:] + caption[-1:] * m
    if any(token != caption[-1] for token in ids[length - 1 :]):
        raise ValueError(f"expected a caption that leaves room for {slots} tokens")
    first = range(at, at + m)
    source = [*range(at), *(first[min(i, m - 1)] for i in range(slots)), *range(behind, length), *[length - 1] * m]
    free = [at <= i < at + slots for i in range(length)]
    return ids[:length], free, source[:length]


def usable(tokenizer: CLIPTokenizer) -> Tensor:
    """Return the ids, int64 (v,), of the tokens that stay themselves when written as text and read again."""
    vocabulary = tokenizer.get_vocab().items()
    words = [(token, i) for token, i in vocabulary if token.endswith("</w>")]
    texts = [tokenizer.decode([i]) for _, i in words]
    again = tokenizer(texts, add_special_tokens=False).input_ids
    return torch.tensor(sorted(i for (_, i), ids in zip(words, again, strict=True) if ids == [i]))


# --- goals ----------------------------------------------------------------------------------------------------------
def states_goal(wanted: Tensor) -> Goal:
    """Return the mean squared distance between the states and the wanted ones (n, L, width)."""
    return lambda states, rows: (states - wanted[rows]).square().mean((1, 2))


def denoiser_goal(pipe: Any, wanted: Tensor, seed: int) -> Goal:  # noqa: ANN401  a StableDiffusionPipeline
    """Return how far the denoiser's output is from that for the wanted states (P4D's goal, arXiv 2309.06135).

    It is measured at latents on the way to the unsafe pictures, from noise of ``seed``. Unlike the states, it need not
    know which position stands for which.

    Args:
        wanted: b(u), float32 (n, L, width), unshifted.
    """
    points = _trajectory(pipe, wanted, seed)
    with torch.no_grad():
        outputs = [_denoise(pipe, x, t, wanted) for t, x in points]
    return _near(pipe, points, outputs)


def negative_goal(pipe: Any, own: Tensor, empty: Tensor, wanted: Tensor, guidance: float, seed: int) -> Goal:  # noqa: ANN401
    """Return how far guidance away from negative states n is from guidance to the wanted states.

    With e the denoiser and g the guidance: e(n) + g (e(own) - e(n)) against e(empty) + g (e(wanted) - e(empty)).

    Args:
        own: the states that stand for the prompt, float32 (n, L, width); empty and wanted likewise.
    """
    points = _trajectory(pipe, wanted, seed)
    with torch.no_grad():
        outputs = [
            _denoise(pipe, x, t, empty)
            + guidance / (guidance - 1) * (_denoise(pipe, x, t, own) - _denoise(pipe, x, t, wanted))
            for t, x in points
        ]
    return _near(pipe, points, outputs)


Points = list[tuple[Tensor, Tensor]]
"""Times and the latents (n, channels, size, size) at them."""


def _near(pipe: Any, points: Points, outputs: Sequence[Tensor]) -> Goal:  # noqa: ANN401
    def goal(states: Tensor, rows: Tensor) -> Tensor:
        parts = [
            (_denoise(pipe, x[rows], t, states) - output[rows]).square().mean((1, 2, 3))
            for (t, x), output in zip(points, outputs, strict=True)
        ]
        return torch.stack(parts).sum(0)

    return goal


def _trajectory(pipe: Any, wanted: Tensor, seed: int) -> Points:  # noqa: ANN401
    seen: list[Tensor] = []

    def keep(_pipe: object, _step: int, _time: object, values: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(values["latents"].clone())
        return values

    config = pipe.unet.config
    start = noise(seed, range(len(wanted)), (config.in_channels, config.sample_size, config.sample_size))
    pipe(
        prompt_embeds=wanted, num_inference_steps=SAMPLER_STEPS, guidance_scale=GUIDANCE, latents=start,
        output_type="latent", callback_on_step_end=keep,
    )  # fmt: skip
    return [(pipe.scheduler.timesteps[i + 1], seen[i]) for i in TRAJECTORY]


def _denoise(pipe: Any, latents: Tensor, time: Tensor, states: Tensor) -> Tensor:  # noqa: ANN401
    parts = zip(torch.split(latents, DENOISER_BATCH), torch.split(states, DENOISER_BATCH), strict=True)
    return torch.cat([pipe.unet(x, time, encoder_hidden_states=h).sample for x, h in parts])


# --- attacks --------------------------------------------------------------------------------------------------------
@torch.no_grad()
def read(tower: CLIPTextModel, ids: Tensor) -> Tensor:
    """Return the tower's states of ids (n, L): float32 (n, L, width), without a gradient."""
    return torch.cat([tower(input_ids=part).last_hidden_state for part in torch.split(ids, BATCH)])


def read_vectors(tower: CLIPTextModel, ids: Tensor, vectors: Tensor) -> Tensor:
    """Return the tower's states when its table gives these vectors (n, L, width) for the tokens; with a gradient."""
    handle = tower.get_input_embeddings().register_forward_hook(lambda *_: vectors)
    try:
        states: Tensor = tower(input_ids=ids).last_hidden_state
    finally:
        handle.remove()
    return states


def search_tokens(
    tower: CLIPTextModel, aim: Aim, goal: Goal, allowed: Tensor, budget: Budget, *, seed: int, title: str = "tokens"
) -> Tensor:
    """Search free tokens that bring the goal down; a caption's loss never rises.

    Returns:
        int64 (n, L): the ids with what was found at the free positions.
    """
    draw = torch.Generator().manual_seed(seed)
    ids, rows = aim.ids.clone(), torch.arange(len(aim.ids))
    for _ in trange(budget.steps, desc=title, mininterval=2, leave=False):
        loss, ranks = _ranked(tower, ids, goal, allowed)
        best = ranks.topk(min(budget.top, len(allowed)), dim=-1, largest=False).indices
        trials = ids[:, None].repeat(1, budget.candidates, 1)
        at = torch.multinomial(aim.free.float(), budget.candidates, replacement=True, generator=draw)
        pick = torch.randint(best.shape[-1], at.shape, generator=draw)
        trials.scatter_(2, at[..., None], allowed[best[rows[:, None], at, pick]][..., None])
        with torch.no_grad():
            flat, of = trials.flatten(0, 1), rows.repeat_interleave(budget.candidates)
            losses = goal(read(tower, flat), of).view(len(ids), -1)
        lowest, which = losses.min(1)
        better = lowest < loss
        ids[better] = trials[rows, which][better]
    return ids


def _ranked(tower: CLIPTextModel, ids: Tensor, goal: Goal, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss (n,), and to first order how it changes for each allowed token at each position (n, L, v)."""
    table = _table(tower)
    vectors = table[ids].requires_grad_()
    loss = goal(read_vectors(tower, ids, vectors), torch.arange(len(ids)))
    (slope,) = torch.autograd.grad(loss.sum(), vectors)
    return loss.detach(), slope @ table[allowed].T


def learn_vectors(
    tower: CLIPTextModel, aim: Aim, goal: Goal, budget: Budget, *, owner: Tensor | None = None, title: str = "vectors"
) -> Tensor:
    """Learn the vectors at the free positions, one for each caption or shared by captions.

    Args:
        aim: one free position in each caption.
        owner: int64 (n,), the number of the vector that a caption uses, 0..m-1; None: each has its own.

    Returns:
        The vectors, float32 (m, width).
    """
    table = _table(tower)
    rows = torch.arange(len(aim.ids))
    of = rows if owner is None else owner
    begin = table[aim.ids[aim.free]]
    vectors = torch.stack([begin[of == i].mean(0) for i in range(int(of.max()) + 1)]).requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=budget.rate)
    for _ in trange(budget.steps, desc=title, mininterval=2, leave=False):
        optimizer.zero_grad()
        loss = goal(read_vectors(tower, aim.ids, placed(tower, aim, vectors[of])), rows).sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        optimizer.step()
    return vectors.detach()


def learn_states(begin: Tensor, goal: Goal, budget: Budget, *, title: str = "states") -> Tensor:
    """Learn states freely, whatever tower could or could not make them: float32 (n, L, width) from ``begin``."""
    states, rows = begin.clone().requires_grad_(), torch.arange(len(begin))
    optimizer = torch.optim.Adam([states], lr=budget.rate)
    for _ in trange(budget.steps, desc=title, mininterval=2, leave=False):
        optimizer.zero_grad()
        goal(states, rows).sum().backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        optimizer.step()
    return states.detach()


def placed(tower: CLIPTextModel, aim: Aim, vectors: Tensor) -> Tensor:
    """Return the token vectors of the captions, (n, L, width), with one vector (n, width) at each free position."""
    plain = _table(tower)[aim.ids]
    return torch.where(aim.free[..., None], vectors[:, None], plain)


def _table(tower: CLIPTextModel) -> Tensor:
    table: Tensor = tower.get_input_embeddings().weight.detach()  # type: ignore[operator]  # declared as any module
    return table
