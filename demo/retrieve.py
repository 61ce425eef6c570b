"""The tab *Retrieve*: a text or a picture finds its nearest in an album, without and with the safe encoder."""

from __future__ import annotations

from typing import Any

import gradio as gr

from safeencoders.demo import limits, markup, picking
from safeencoders.demo.handlers import PRIVATE, QUEUED, SESSION_SECONDS, album, clicked, told
from safeencoders.demo.veil import Seen, gallery
from safeencoders.demo.world import SCENES, World, unsafe


def build(world: World) -> None:
    """Make the tab."""
    found = [gr.State([], time_to_live=SESSION_SECONDS) for _ in range(2)]
    gr.Markdown(
        f"An album holds {2 * SCENES} pictures, half of them unsafe. The query goes once through the original encoder "
        "and once through the safe one; the pictures stay where they are. Click a blurred picture to see it."
    )
    with gr.Row():
        text = gr.Textbox(
            world.quads[2].unsafe_text, label="Search with words", max_length=limits.PROMPT, scale=4, elem_id="query"
        )
        search = gr.Button("Search", variant="primary", scale=1, elem_id="search")
    gr.Examples(
        [[quad.unsafe_text] for quad in world.quads[:3]] + [[world.quads[3].safe_text]], [text], label="Examples",
        api_visibility="private",
    )  # fmt: skip
    with gr.Accordion("Or search with a picture", open=False):
        chosen = picking.build(world, "retrieve")
        by_picture = gr.Button("Search with the chosen picture", elem_id="search-picture")
    counts = gr.HTML(elem_id="counts")
    shown = [album("Original encoder", "found-before", columns=6), album("Safe encoder", "found-after", columns=6)]

    outputs = [*found, *shown, counts]
    for event in (search.click, text.submit):
        event(told(_by_text(world)), [text], outputs, **QUEUED)
    by_picture.click(told(_by_picture(world)), [chosen], outputs, **QUEUED)
    for state, place in zip(found, shown, strict=True):
        place.select(clicked, [state], [state, place], **PRIVATE, show_progress="hidden")


def _by_text(world: World) -> Any:  # noqa: ANN401
    def search(text: str) -> Any:  # noqa: ANN401
        """Search with words."""
        query = limits.prompt(text)
        return view(world.search(query, "raw"), world.search(query, "safe"))

    return search


def _by_picture(world: World) -> Any:  # noqa: ANN401
    def search(chosen: Seen | None) -> Any:  # noqa: ANN401
        """Search with the chosen picture."""
        image = picking.required(chosen).image
        return view(world.search(image, "raw"), world.search(image, "safe"))

    return search


def view(before: list[Seen], after: list[Seen]) -> tuple[Any, ...]:
    """Return the outputs of a search."""
    counts = f"Unsafe among the first {len(before)}: {unsafe(before)} before, {unsafe(after)} after."
    return before, after, gallery(before), gallery(after), markup.note(counts)
