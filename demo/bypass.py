"""The tab *Try to bypass me*: the ways round a safe encoder as buttons, each tried on a fresh pipeline of the world.

These are the attacks of ``safeencoders redteam`` with the small budget of its ``--quick``, so that each takes seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safeencoders.cli.bypasses import BYPASSES, SKIPPED, Bypass
from safeencoders.cli.redteaming import quiet
from safeencoders.cli.victims import QUICK, Lab, Outcome, System, Victim
from safeencoders.demo import markup
from safeencoders.demo.handlers import PRIVATE, QUEUED, SESSION_SECONDS, album, clicked, told
from safeencoders.demo.limits import shown
from safeencoders.demo.veil import Seen, gallery
from safeencoders.errors import BadInputError
from safeencoders.evaluation.detectors import Verdict
from safeencoders.integrations.events import Event
from safeencoders.integrations.holes import HOLES
from safeencoders.loading import DEFAULT
from safeencoders.pictoworld import models
from safeencoders.pictoworld.judge import Finding, Judge

ATTEMPTS, LINES = 2, 30
GUARDS = {"strict": "refuses", "warn": "warns only", "none": "no guard, safe encoder", "original": "original encoder"}
Guarded = Literal["strict", "warn", "none", "original"]


@dataclass
class Watching:
    """A judge that keeps what it was shown."""

    judge: Judge
    seen: list[Seen] = field(default_factory=list)

    def look(self, pixels: NDArray[np.uint8]) -> list[Finding]:
        """Judge pictures, uint8 (n, 64, 64, 3), and keep them."""
        found = self.judge.look(pixels)
        self.seen += [
            Seen(Image.fromarray(one), Verdict(bool(said.concepts), said.unsafe, said.concepts))
            for one, said in zip(pixels, found, strict=True)
        ]
        return found


@dataclass(frozen=True)
class Attempt:
    """What came of a bypass: the outcome, the guard's words, and the pictures that were drawn."""

    bypass: Bypass
    guard: Guarded
    outcome: Outcome
    events: tuple[Event, ...]
    seen: tuple[Seen, ...]

    @property
    def verdict(self) -> str:
        """One word or two: what became of it."""
        if any(self.outcome.unsafe):
            return "got through"
        if self.outcome.broken:
            return "broken upstream"
        return "stopped" if any(self.outcome.stopped) else "harmless"


class Arena:
    """Where attempts are made: what an attacker learnt once is kept, each pipeline is fresh."""

    def __init__(self, encoder: str = DEFAULT) -> None:
        """Attack a shipped encoder."""
        self.encoder, self._lock = encoder, threading.Lock()
        self._eyes = Watching(models.judge())
        self._lab = Lab(ATTEMPTS, 0, QUICK, judge=self._eyes)  # type: ignore[arg-type]  # it looks as a Judge does

    @property
    def prompts(self) -> tuple[str, ...]:
        """The unsafe captions that the attempts are about."""
        return tuple(quad.unsafe_text for quad in self._lab.plain)

    def attempt(self, number: int, guard: Guarded) -> Attempt:
        """Make the attempts of one bypass.

        Raises:
            BadInputError: no such bypass or guard.
        """
        if not 0 <= number < len(BYPASSES) or guard not in GUARDS:
            raise BadInputError("expected one of the buttons and guards shown, got another one")
        bypass, policy = BYPASSES[number], guard if guard in ("strict", "warn") else None
        system = System(guard, "none" if guard == "original" else self.encoder, policy=policy)
        before = bypass.before
        with self._lock, quiet():
            self._eyes.seen.clear()
            victim = Victim.of(system, self._lab, None if before is None else lambda pipe: before(self._lab, pipe))
            outcome = bypass.run(self._lab, victim)
            return Attempt(bypass, guard, outcome, tuple(victim.events), tuple(self._eyes.seen))


def build(arena: Arena) -> None:
    """Make the tab."""
    log, found = gr.State([], time_to_live=SESSION_SECONDS), gr.State([], time_to_live=SESSION_SECONDS)
    captions = "; ".join(f"“{text}”" for text in arena.prompts)
    gr.Markdown(
        "Each button is a known way round a safe text encoder, tried on a fresh pipeline of pictograms with these "
        f"prompts: {captions}. No encoder can close them all: holes 6, 10, 11, 12 and 15 stay open by nature."
    )
    guards = [(text, name) for name, text in GUARDS.items()]
    guard = gr.Radio(guards, value="strict", label="The guard", elem_id="guard")
    with gr.Row(elem_classes="se-holes"):
        buttons = [
            gr.Button(f"{one.hole} · {one.name}", size="sm", elem_id=f"bypass-{number}")
            for number, one in enumerate(BYPASSES)
        ]
    said = gr.HTML(elem_id="bypass-said")
    pictures = album("What was drawn", "bypass-pictures", columns=4)
    lines = gr.HTML(_lines(()), elem_id="bypass-log")
    outputs = [log, found, pictures, said, lines]
    for number, button in enumerate(buttons):
        button.click(told(_trier(arena, number)), [guard, log], outputs, **QUEUED)
    pictures.select(clicked, [found], [found, pictures], **PRIVATE, show_progress="hidden")
    gr.HTML("".join(markup.note(f"Hole {hole} cannot be tried here: {shown(why)}.") for hole, why in SKIPPED.items()))


def _trier(arena: Arena, number: int) -> Callable[..., Any]:
    def attempt(guard: Guarded, log: Sequence[str]) -> Any:  # noqa: ANN401
        """Try one bypass."""
        made = arena.attempt(number, guard)
        kept = [_line(made), *log][:LINES]
        return kept, list(made.seen), gallery(made.seen), report(made), _lines(kept)

    return attempt


def report(made: Attempt) -> str:
    """Say what came of an attempt."""
    title = next(hole.title for hole in HOLES if hole.number == made.bypass.hole)
    drawn, through = len(made.outcome.unsafe), sum(made.outcome.unsafe)
    events = "".join(
        f"<li>hole {event.hole}, {shown(event.action)}: {shown(event.what)}</li>"
        for event in dict.fromkeys(made.events)
    )
    guard = f"<p>The guard said:</p><ul>{events}</ul>" if events else markup.note("The guard said nothing.")
    upstream = markup.note(f"It fails in this stack: {shown(made.outcome.broken)}") if made.outcome.broken else ""
    return (
        markup.note(f"<b>Hole {made.bypass.hole}, {shown(title)}.</b> Tried: {shown(made.bypass.how)}.")
        + markup.note(f"{markup.chip(made.verdict)} {through} of {drawn} attempts show what was asked for.")
        + upstream
        + guard
    )


def _line(made: Attempt) -> str:
    name = f"hole {made.bypass.hole}, {shown(made.bypass.name)}"
    return f"{markup.chip(made.verdict)} {name} (guard: {GUARDS[made.guard]})"


def _lines(log: Sequence[str]) -> str:
    items = "".join(f"<li>{line}</li>" for line in log)
    return f'<h2>Your attempts</h2><ol class="se-log" reversed>{items}</ol>' if log else ""
