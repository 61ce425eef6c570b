"""What the handlers of the page share: a queue for the models, a session's time, errors in words, a click."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from safeencoders.demo.limits import shown
from safeencoders.demo.veil import Seen, gallery, toggle
from safeencoders.errors import SafeEncodersError

PRIVATE: dict[str, Any] = {"api_visibility": "private"}
WORKER = "models"
QUEUED: dict[str, Any] = PRIVATE | {"concurrency_limit": 1, "concurrency_id": WORKER}
"""Of every event that uses a model: one at a time, whoever asks."""
SESSION_SECONDS = 3600
"""How long the server keeps what a visitor drew or chose."""
logger = logging.getLogger("safeencoders.demo")
FAULT = "This is a fault of the demo. It is in the server's log; the page goes on."


def told(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a handler of the page so that its errors reach the visitor as a message in plain words."""

    @functools.wraps(handler)
    def call(*given: Any, **named: Any) -> Any:  # noqa: ANN401
        try:
            return handler(*given, **named)
        except Exception as error:
            raise message(error) from error

    @functools.wraps(handler)
    def steps(*given: Any, **named: Any) -> Any:  # noqa: ANN401
        try:
            yield from handler(*given, **named)
        except Exception as error:
            raise message(error) from error

    return steps if inspect.isgeneratorfunction(handler) else call


def message(error: Exception) -> gr.Error:
    """Return an error as the page shows it, which renders HTML."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, SafeEncodersError):
        return gr.Error(shown(str(error)), title="That did not work", print_exception=False)
    logger.error("a handler of the page failed", exc_info=error)
    return gr.Error(FAULT, print_exception=False)


def album(label: str, name: str, *, columns: int, value: Sequence[Seen] = ()) -> gr.Gallery:
    """Return a gallery whose pictures leave the server veiled, and are clicked to be chosen or seen."""
    return gr.Gallery(
        gallery(value) or None, label=label, elem_id=name, columns=columns, fit_columns=False, height="auto",
        object_fit="contain", format="png", allow_preview=False, interactive=False, buttons=[],
    )  # fmt: skip


def clicked(seen: list[Seen], event: gr.SelectData) -> Any:  # noqa: ANN401
    """Show the clicked picture of a gallery sharp, or blur it again."""
    changed = toggle(seen, event.index if isinstance(event.index, int) else -1)
    return changed, gallery(changed)
