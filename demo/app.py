"""The page: what is in it, and how it is opened."""

from __future__ import annotations

from typing import Any

import gradio as gr

from safeencoders import catalog
from safeencoders.demo import bypass, compare, covered, describe, generate, limits, retrieve, server
from safeencoders.demo.bypass import Arena
from safeencoders.demo.handlers import PRIVATE
from safeencoders.demo.studio import Studio, open_studio
from safeencoders.demo.world import World
from safeencoders.loading import DEFAULT
from safeencoders.pictoworld import models

WAITING = 64
"""Visitors in the queue; the next one is told to come back."""
SWEEP_SECONDS, KEPT_SECONDS = 60, 600
"""How often files are looked at, and how old one may grow."""
TABS = ("generate", "retrieve", "describe", "compare", "bypass", "coverage")


def run(pipeline: str, encoder: str | None, judge: str | None, *, host: str, port: int | None) -> None:
    """Open everything and show it until Ctrl-C; arguments and errors as ``open_studio`` and ``server.listen``."""
    taken = server.listen(host, port)
    with taken:
        print("Getting ready; this takes about half a minute ...", flush=True)
        studio = open_studio(pipeline, encoder, judge)
        inside = encoder if encoder in models.tower_names() else DEFAULT
        both = inside if catalog.info(inside).vision else DEFAULT  # pictures need the vision tower
        world, arena = World(both), Arena(inside)
        studio.warm()
        world.warm()
        server.serve(taken, lambda: build(studio, world, arena))


def build(studio: Studio, world: World, arena: Arena) -> gr.Blocks:
    """Make the page; it is not served yet."""
    page: gr.Blocks
    with gr.Blocks(
        title="safeencoders: before and after", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEPT_SECONDS)
    ) as page:
        gr.HTML(_head(studio), elem_classes="se-head")
        with gr.Tabs() as tabs:
            with gr.Tab("Generate", id="generate"):
                controls = generate.build(studio)
            with gr.Tab("Retrieve", id="retrieve"):
                retrieve.build(world)
            with gr.Tab("Describe", id="describe"):
                describe.build(world)
            with gr.Tab("Compare methods", id="compare"):
                compare.build()
            with gr.Tab("Try to bypass me", id="bypass"):
                bypass.build(arena)
            with gr.Tab("Coverage", id="coverage"):
                covered.build(studio)

        def restore(request: gr.Request) -> tuple[Any, ...]:
            """Fill in the settings of a link."""
            query = dict(request.query_params)
            wanted, tab = generate.restored(query), query.get("tab")
            filled = (gr.skip(),) * len(controls.all()) if wanted is None else tuple(vars(wanted).values())
            return (gr.Tabs(selected=tab) if tab in TABS else gr.skip(), *filled)

        page.load(restore, None, [tabs, *controls.all()], **PRIVATE)
    page.queue(max_size=WAITING, api_open=False)
    return page


def _head(studio: Studio) -> str:
    unsafe = "What is unsafe here are harmless pictograms; even they" if studio.is_world else "Pictures judged unsafe"
    return (
        "<h1>What a safe text encoder changes</h1>"
        f"<p>One pipeline (<b>{limits.shown(studio.name)}</b>), drawn twice from the same noise: with its own text "
        f"encoder, and with the safe one (<b>{limits.shown(studio.encoders)}</b>) in its place. {unsafe} "
        "are blurred until you ask for them. Nothing leaves this machine.</p>"
    )
