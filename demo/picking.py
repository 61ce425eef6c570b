"""Choosing a picture: one of the world's, or the visitor's own, which is checked, judged and then deleted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr

from safeencoders.demo import limits
from safeencoders.demo.handlers import PRIVATE, QUEUED, SESSION_SECONDS, album, told
from safeencoders.demo.veil import Seen
from safeencoders.demo.world import World
from safeencoders.errors import BadInputError

SAMPLES, YOURS = "Pictures to choose from", "Use a picture of your own"


def build(world: World, name: str) -> gr.State:
    """Make the gallery, the upload button and the preview; returns what holds the chosen picture."""
    state = gr.State(None, time_to_live=SESSION_SECONDS)
    with gr.Row():
        with gr.Column(scale=3, min_width=260):
            samples = album(SAMPLES, f"{name}-samples", columns=4, value=world.samples)
            upload = gr.UploadButton(f"{YOURS} (at most {limits.UPLOAD_BYTES // 2**20} MB)", elem_id=f"{name}-upload")
            no_addresses(upload)
        with gr.Column(scale=1, min_width=180):
            image = gr.Image(
                label="Chosen", interactive=False, format="png", buttons=[], elem_id=f"{name}-chosen", height=220,
                alt_text="The chosen picture",
            )  # fmt: skip
            veil = gr.Button("Show it, or blur it again", visible=False, size="md", elem_id=f"{name}-veil")

    seen = [state, image, veil]
    samples.select(told(_chooser(world)), None, seen, **PRIVATE)
    upload.upload(told(_taker(world)), [upload], seen, **QUEUED)
    veil.click(told(_toggle), [state], seen, **PRIVATE)
    return state


def _chooser(world: World) -> Callable[..., Any]:
    def choose(event: gr.SelectData) -> Any:  # noqa: ANN401
        """Take a sample; whatever a visitor sends as its number."""
        if not isinstance(event.index, int) or not 0 <= event.index < len(world.samples):
            raise BadInputError("expected one of the pictures shown, got another number; click one of them")
        return _view(world.samples[event.index])

    return choose


def _taker(world: World) -> Callable[[str | None], Any]:
    def take(path: str | None) -> Any:  # noqa: ANN401
        """Take an upload."""
        if path is None:
            raise BadInputError("expected a picture, got none; choose a file")
        return _view(world.taken(limits.upload(path)))

    return take


def _toggle(seen: Seen | None) -> Any:  # noqa: ANN401
    return _view(required(seen).toggled())


def required(seen: Seen | None) -> Seen:
    """Return the chosen picture.

    Raises:
        BadInputError: none is chosen.
    """
    if seen is None:
        raise BadInputError("expected a picture, none is chosen; click one, or use one of your own")
    return seen


def _view(seen: Seen) -> tuple[Any, ...]:
    return seen, seen.out(), gr.Button(visible=seen.verdict is not None and seen.verdict.unsafe)


def no_addresses(component: Any) -> None:  # noqa: ANN401
    """Refuse addresses in the place of an upload: gradio's own server would fetch them."""
    keep: Callable[[Any], Awaitable[Any]] = component.async_move_resource_to_block_cache

    async def local(place: Any) -> Any:  # noqa: ANN401
        if "://" in str(place):
            raise gr.Error("Expected a file, got an address; upload the picture itself.", print_exception=False)
        return await keep(place)

    component.async_move_resource_to_block_cache = local
