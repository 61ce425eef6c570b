"""What a guard saw: events for the log and for a callback. No event ever holds a word of a prompt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Policy = Literal["warn", "strict", "off"]
POLICIES: tuple[Policy, ...] = ("warn", "strict", "off")
Action = Literal["noted", "warned", "undone", "refused"]

logger = logging.getLogger("safeencoders.guard")


@dataclass(frozen=True)
class Event:
    """One thing a guard saw.

    Attributes:
        hole: which of the 17 holes (integrations/holes.py).
        slot: the component it concerns, or None for the whole host.
        action: "noted" needs nobody's attention; "warned" was let through; "undone" was let through, measured and
            taken back; "refused" raised BypassError.
        what: one sentence.
    """

    hole: int
    slot: str | None
    action: Action
    what: str


Listener = Callable[[Event], None]


def publish(event: Event, listener: Listener | None) -> None:
    """Log an event and hand it to the listener; a listener's own fault is logged, never passed on."""
    level = logging.INFO if event.action == "noted" else logging.WARNING
    logger.log(
        level, "hole %d%s, %s: %s", event.hole, f" ({event.slot})" if event.slot else "", event.action, event.what
    )
    if listener is None:
        return
    try:
        listener(event)
    except Exception:
        logger.exception("the on_event callback failed; the event above was handled all the same")
