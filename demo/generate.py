"""The tab *Generate*: one prompt drawn twice from the same noise, without and with the safe encoder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import gradio as gr

from safeencoders.demo import limits, markup
from safeencoders.demo.following import follow
from safeencoders.demo.handlers import PRIVATE, QUEUED, SESSION_SECONDS, told
from safeencoders.demo.studio import SLD, Pair, Studio, Wanted
from safeencoders.demo.veil import png
from safeencoders.errors import BadInputError

EXAMPLES = (
    "a red dog with a gun in the park at noon",
    "an orange woman with a guitar at the harbour at evening",
    "a blue cat with a syringe in the city at night",
    "a green horse amid an explosion at the beach at noon",
    "a yellow owl with a ball in the desert at night",
)
REAL_EXAMPLES = ("a dog in a park", "a bowl of fruit on a table, oil painting", "a city street at night in the rain")
SHOW, HIDE = "Show what is blurred", "Blur it again"
# The address bar becomes the link: nothing is sent anywhere.
_LINK = """(prompt, seed, steps, guidance, strength, negative, sld, both) => {
  const given = {tab: "generate", prompt, seed, steps, guidance, strength, negative, sld, both};
  history.replaceState(null, "", "?" + new URLSearchParams(given));
}"""
_COPY = """async () => {
  try { await navigator.clipboard.writeText(location.href); } catch { prompt("The link", location.href); }
}"""


@dataclass(frozen=True)
class Controls:
    """The inputs, in the order of ``Wanted``'s fields."""

    prompt: gr.Textbox
    seed: gr.Number
    steps: gr.Slider
    guidance: gr.Slider
    strength: gr.Slider
    negative: gr.Textbox
    sld: gr.Radio
    both: gr.Checkbox

    def all(self) -> list[Any]:
        """Return them in order."""
        return list(vars(self).values())


def build(studio: Studio) -> Controls:
    """Make the tab; returns what a link's settings are put into."""
    pair = gr.State(None, time_to_live=SESSION_SECONDS)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            controls = _controls(studio)
            with gr.Row():
                draw = gr.Button("Draw", variant="primary", min_width=80, elem_id="draw")
                stop = gr.Button("Stop", min_width=80, elem_id="stop")
            gr.Examples(
                [[text] for text in (EXAMPLES if studio.is_world else REAL_EXAMPLES)],
                [controls.prompt],
                label="Examples",
                api_visibility="private",
            )
        with gr.Column(scale=2, min_width=300):
            slider = gr.ImageSlider(
                label="Before (left) and after (right)", format="png", interactive=False, buttons=[], elem_id="pair"
            )
            with gr.Row():
                veil = gr.Button(SHOW, visible=False, size="md", elem_id="veil")
                copy = gr.Button("Copy the link to these settings", size="md", elem_id="copy")
            said = gr.HTML(label="What the judge saw", elem_id="said")
            downloads = gr.HTML(elem_id="downloads")
            with gr.Accordion("Why: what the encoder does with this prompt", open=True):
                why = gr.HTML(elem_id="why")
                explain = gr.Button("Explain the prompt (takes minutes at first)", visible=not studio.is_world)

    seen = [pair, slider, veil, said, downloads]
    drawing = draw.click(
        told(_drawer(studio, len(seen))), controls.all(), seen, api_name="draw", show_progress_on=[slider],
        **QUEUED | {"api_visibility": "public"},
    )  # fmt: skip
    stop.click(None, cancels=[drawing], **PRIVATE)
    drawing.success(None, controls.all(), None, js=_LINK, **PRIVATE)
    if studio.is_world:
        drawing.success(told(_explainer(studio)), [controls.prompt], [why], **QUEUED)
    explain.click(told(_explainer(studio)), [controls.prompt], [why], **QUEUED)
    veil.click(told(_toggle), [pair], seen, **PRIVATE)
    copy.click(None, js=_COPY, **PRIVATE)
    return controls


def _controls(studio: Studio) -> Controls:
    first = Wanted(EXAMPLES[0] if studio.is_world else REAL_EXAMPLES[0])
    prompt = gr.Textbox(first.prompt, label="Prompt", lines=2, max_length=limits.PROMPT, elem_id="prompt")
    strength = gr.Slider(
        0, 1, first.strength, step=0.1, label="Strength of the safe encoder", info="0 is the original encoder",
        elem_id="strength",
    )  # fmt: skip
    with gr.Accordion("Other ways to be safe, to compare or combine", open=False):
        negative = gr.Textbox("", label="Negative prompt: what should not be drawn", max_length=limits.PROMPT)
        sld = gr.Radio(list(SLD), value=first.sld, label="Safe Latent Diffusion")
        both = gr.Checkbox(False, label="In the picture before, too")
    with gr.Accordion("Sampler", open=False):
        seed = gr.Number(first.seed, label="Seed of the noise", precision=0, minimum=0, maximum=limits.SEED[1])
        steps = gr.Slider(*limits.STEPS, first.steps, step=1, label="Steps")
        guidance = gr.Slider(*limits.GUIDANCE, first.guidance, step=0.5, label="Guidance")
    return Controls(prompt, seed, steps, guidance, strength, negative, sld, both)


def _drawer(studio: Studio, outputs: int) -> Any:  # noqa: ANN401
    def draw(  # gradio finds the progress by its place, and names the parameters of the public call by ours
        prompt: str,
        seed: int,
        steps: int,
        guidance: float,
        strength: float,
        negative: str,
        sld: str,
        both: bool,  # noqa: FBT001
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Iterator[Any]:
        """Draw a pair."""
        wanted = Wanted.of(prompt=prompt, seed=seed, steps=steps, guidance=guidance, strength=strength,
                           negative=negative, sld=sld, both=both)  # fmt: skip
        work = follow(lambda report: studio.draw(wanted, report))
        while True:
            try:
                done = next(work)
            except StopIteration as end:
                yield view(end.value)
                return
            progress(done, desc="drawing")
            yield (gr.skip(),) * outputs  # a visitor who cancels is noticed here

    return draw


def _explainer(studio: Studio) -> Any:  # noqa: ANN401
    def explain(prompt: str) -> str:
        """Explain a prompt."""
        return markup.explanation(studio.explanation(limits.prompt(prompt)))

    return explain


def _toggle(pair: Pair | None) -> Any:  # noqa: ANN401
    """Show the two pictures sharp, or veil them again."""
    if pair is None:
        raise BadInputError("expected a picture to show, found none; draw one first")
    shown = not pair.after.shown
    return view(replace(pair, before=replace(pair.before, shown=shown), after=replace(pair.after, shown=shown)))


def view(pair: Pair) -> tuple[Any, ...]:
    """Return the outputs of a pair: itself for the session, and what may leave the server."""
    unsafe = any(replace(one, shown=False).veiled for one in (pair.before, pair.after))
    button = gr.Button(HIDE if pair.after.shown else SHOW, visible=unsafe)
    return pair, (pair.before.out(), pair.after.out()), button, markup.pair(pair), downloads(pair)


def downloads(pair: Pair) -> str:
    """Return links to what is on the page: the pictures, blurred ones blurred, and the settings."""
    found = []
    for one in (pair.before, pair.after):
        picture = png(one.out() if one.veiled else one.image)
        found.append(markup.link(picture, "image/png", f"{one.caption}.png", f"Picture {one.caption}"))
    settings = json.dumps(asdict(pair.wanted), indent=2).encode()
    return "".join([*found, markup.link(settings, "application/json", "settings.json", "Settings")])


def restored(query: dict[str, str]) -> Wanted | None:
    """Return the settings of a link; None when it has none, or one is out of its limits."""
    if not query.get("prompt"):
        return None
    numbers = ("seed", "steps", "guidance", "strength")
    try:
        given: dict[str, Any] = {name: query[name] for name in ("prompt", "negative", "sld") if name in query}
        given |= {name: float(query[name]) for name in numbers if name in query}
        return Wanted.of(**given, both=query.get("both") == "true")
    except ValueError:  # BadInputError is one
        return None
