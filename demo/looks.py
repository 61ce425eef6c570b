"""How the page looks: system fonts, one accent, light and dark; nothing is fetched from anywhere."""

from __future__ import annotations

from typing import Any

import gradio as gr

FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MONO = ["ui-monospace", "Consolas", "monospace"]


def theme() -> Any:  # noqa: ANN401  a gradio theme
    """Return the theme: contrast of at least 4.5 : 1 for every text, in light and in dark."""
    base = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        font=FONT,
        font_mono=MONO,
    )
    return base.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_300",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        slider_color="*primary_700",
        slider_color_dark="*primary_500",
    )


CSS = """
.gradio-container { max-width: 72rem !important; margin: 0 auto; }
.se-head h1 { font-size: 1.6rem; margin: .2rem 0; }
.se-head p, .se-note { max-width: 46rem; margin: .35rem 0; overflow-wrap: anywhere; }
.se-scroll { overflow-x: auto; contain: inline-size; margin: .6rem 0; }
.se-scroll:focus-visible, .se-link:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px; }
table.se { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; width: auto; }
table.se caption { text-align: left; font-weight: 600; padding: .2rem 0; }
.prose table.se, .prose table.se :is(th, td, tr, caption) { border: 0; }
.prose table.se :is(th, td) { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--border-color-primary); color: var(--body-text-color); }
table.se tbody th { font-weight: 400; }
.se-bar { display: inline-block; width: 5.5rem; height: .6rem; margin-right: .5rem; border-radius: .3rem;
  background: var(--background-fill-secondary); box-shadow: inset 0 0 0 1px var(--border-color-primary); }
.se-bar i { display: block; height: 100%; border-radius: .3rem; background: #0f766e; }
.se-bar.bad i { background: #d55e00; }
.se-chip { display: inline-block; padding: 0 .5rem; border-radius: .8rem; font-size: .85rem; font-weight: 600;
  color: #1b1f24; background: #d7dce2; white-space: nowrap; }
.se-chip.safe, .se-chip.closed, .se-chip.protected, .se-chip.stopped { background: #9be3c8; }
.se-chip.unsafe, .se-chip.open, .se-chip.got-through { background: #ffb49a; }
.se-chip.watched, .se-chip.redirected, .se-chip.warned { background: #ffd98a; }
.se-words { font-size: 1.1rem; line-height: 2; margin: .4rem 0; }
.se-word { padding: .1rem .3rem; border-radius: .3rem; border-bottom: .25rem solid
  color-mix(in srgb, #d55e00 calc(var(--cause) * 100%), transparent); }
.se-link { display: inline-block; margin: .3rem 1rem .3rem 0; text-decoration: underline; }
.se-log { font-size: .92rem; } .se-log li { margin: .35rem 0; }
.gradio-container :is(.column, .row, .block, .form, .tabitem, .html-container, .prose) { min-width: 0; }
.se-holes { display: flex; flex-wrap: wrap; gap: .4rem; }
.se-holes button { flex: 1 1 9rem; min-width: 0 !important; }
button[role="tab"].selected { color: var(--link-text-color) !important; }
.gallery-container, .grid-wrap { min-height: 0 !important; }
.caption-label { max-width: 100% !important; }
@media (max-width: 500px) {
  .gradio-container, .gradio-container main { padding: .3rem !important; }
  .gradio-container :is(.column, .block, .form, .tabitem) { min-width: 0 !important; max-width: 100%; }
  .gallery-item.gallery-item { white-space: normal; text-align: left; }
  .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)) !important; }
  .se-bar { width: 3rem; display: block; }
  table.se.stacks :is(tbody, tr, th, td) { display: block; }
  table.se.stacks thead { display: none; }
  .prose table.se.stacks tbody th { font-weight: 600; border-bottom: 0; }
  .prose table.se.stacks td { border-bottom: 0; }
  table.se.stacks td:not(:empty)::before { content: attr(data-head) ": "; color: var(--body-text-color-subdued); }
}
@media (prefers-reduced-motion: reduce) { * { transition: none !important; animation: none !important; } }
"""
