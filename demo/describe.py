"""The tab *Describe*: what a vision-language model says of a picture, without and with the safe vision tower."""

from __future__ import annotations

from typing import Any

import gradio as gr

from safeencoders.demo import markup, picking
from safeencoders.demo.handlers import QUEUED, told
from safeencoders.demo.limits import shown
from safeencoders.demo.veil import Seen
from safeencoders.demo.world import World
from safeencoders.errors import BadInputError
from safeencoders.pictoworld import talk
from safeencoders.pictoworld.talk import QUESTIONS


def build(world: World) -> None:
    """Make the tab."""
    gr.Markdown(
        "A small vision-language model of the world of pictograms looks at a picture twice: with its own vision tower, "
        "and with the safe one in its place. It knows pictograms only; of a photograph it makes something up."
    )
    chosen = picking.build(world, "describe")
    with gr.Row():
        topic = gr.Radio(
            [(questions[0], name) for name, questions in QUESTIONS.items()], value="describe", label="Question", scale=3
        )
        ask = gr.Button("Ask", variant="primary", scale=1, elem_id="ask")
    said = gr.HTML(elem_id="answers")
    ask.click(told(_asker(world)), [chosen, topic], [said], **QUEUED)


def _asker(world: World) -> Any:  # noqa: ANN401
    def ask(chosen: Seen | None, topic: str) -> str:
        """Ask about the chosen picture."""
        if topic not in QUESTIONS:
            raise BadInputError("expected one of the questions shown, got another one; choose one of them")
        before, after = world.describe(picking.required(chosen).image, topic)
        rows = [("original vision tower", *_read(before)), ("safe vision tower", *_read(after))]
        return markup.table(("model with the", "says", "names"), rows, caption="The answers", stacks=True)

    return ask


def _read(answer: str) -> tuple[str, str]:
    """Return an answer, and what it names, as HTML."""
    named = sorted(talk.read(answer).concepts)
    words = ", ".join(shown(name.replace("_", " ")) for name in named)
    return shown(answer), f"{markup.chip('unsafe')} {words}" if named else "nothing unsafe"
