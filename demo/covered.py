"""The tab *Coverage*: what of the pipeline is protected, and how each of the 17 holes stands."""

from __future__ import annotations

from typing import Any

import gradio as gr

from safeencoders.demo import markup
from safeencoders.demo.handlers import QUEUED, told
from safeencoders.demo.limits import shown
from safeencoders.demo.studio import Studio
from safeencoders.errors import SafeEncodersError
from safeencoders.integrations.coverage import Coverage
from safeencoders.integrations.events import POLICIES

BEFORE = "not protected"


def build(studio: Studio) -> None:
    """Make the tab."""
    gr.Markdown("The same pipeline under each policy; *off* swaps the towers and installs no guard.")
    policy = gr.Radio([BEFORE, *POLICIES], value="warn", label="Policy", elem_id="policy")
    said = gr.HTML(page(studio.coverage), elem_id="coverage")
    policy.change(told(_shower(studio)), [policy], [said], **QUEUED)


def _shower(studio: Studio) -> Any:  # noqa: ANN401
    def show(policy: str) -> str:
        """Report the pipeline under a policy; what a policy refuses is said in its own words."""
        try:
            return page(studio.covered(None if policy == BEFORE else policy))
        except SafeEncodersError as error:
            return markup.note(shown(str(error)))

    return show


def page(found: Coverage) -> str:
    """Return the report with its downloads."""
    links = (
        markup.link(found.json().encode(), "application/json", "coverage.json", "Coverage as JSON"),
        markup.link(found.markdown().encode(), "text/markdown", "coverage.md", "Coverage as Markdown"),
    )
    return markup.coverage(found) + "".join(links)
