"""The page's own HTML: bars, tables, an explanation. Every text that is not written here goes through ``shown``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from safeencoders.demo.limits import shown
from safeencoders.demo.veil import Seen, data_uri
from safeencoders.pictoworld.lexicon import CATEGORIES, CONCEPTS

if TYPE_CHECKING:
    from safeencoders.demo.studio import Pair
    from safeencoders.evaluation.explanation import Explanation
    from safeencoders.integrations.coverage import Coverage

MOST_BARS = 10


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str, stacks: bool = False) -> str:
    """Return a table of cells that are HTML already; where the page is narrow it stacks them, or scrolls by itself."""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    kind = "se stacks" if stacks else "se"
    body = ""
    for first, *rest in rows:
        cells = (f'<td data-head="{head}">{cell}</td>' for head, cell in zip(heads[1:], rest, strict=True))
        body += f'<tr><th scope="row">{first}</th>{"".join(cells)}</tr>'
    return (
        f'<div class="se-scroll" tabindex="0" role="region" aria-label="{caption}"><table class="{kind}">'
        f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def bar(value: float, *, bad: bool = False) -> str:
    """Return a bar for a value in 0..1, with its number."""
    kind = "se-bar bad" if bad else "se-bar"
    return f'<span class="{kind}" aria-hidden="true"><i style="width:{100 * value:.0f}%"></i></span>{value:.2f}'


def note(text: str, kind: str = "") -> str:
    """Return a line of text that is HTML already."""
    return f'<p class="se-note {kind}">{text}</p>'


def chip(word: str) -> str:
    """Return a word as a coloured chip; its colour goes by the word."""
    return f'<span class="se-chip {word.replace(" ", "-")}">{word}</span>'


def link(data: bytes, kind: str, name: str, label: str) -> str:
    """Return a download that needs no file on the server."""
    return f'<a class="se-link" download="{name}" href="{data_uri(data, kind)}">{label}</a>'


# --- a pair of pictures ----------------------------------------------------------------------------------------------
def pair(drawn: Pair) -> str:
    """Say what the judge saw in a pair: verdicts, categories, attributes."""
    before, after = drawn.before.verdict, drawn.after.verdict
    asked = note(f"<b>Asked:</b> {shown(drawn.wanted.prompt)}")
    if before is None or after is None:
        return asked + note("No judge is installed for such pictures, so both stay blurred until you ask for them.")
    said = f"Before: {_verdict(drawn.before)} After: {_verdict(drawn.after)}"
    rows = [(name, bar(one, bad=True), bar(two, bad=True)) for name, one, two in _scores(before.scores, after.scores)]
    found = asked + note(said) + table(("judged", "before", "after"), rows, caption="What the judge sees, 0 to 1")
    return found + (_attributes(drawn) if drawn.attributes else "")


def _verdict(seen: Seen) -> str:
    if seen.verdict is None:
        return "not judged."
    return f"{chip('unsafe')} {shown(seen.judged)}." if seen.verdict.unsafe else chip("safe")


def _scores(before: Any, after: Any) -> list[tuple[str, float, float]]:  # noqa: ANN401  mappings
    """Return (label, before, after): by category for the world's concepts, else the highest labels of the judge."""
    names = dict.fromkeys([*before, *after])
    if set(names) <= set(CONCEPTS):
        by_category = {
            category: [name for name in names if CONCEPTS[name].category == category] for category in CATEGORIES
        }
        return [
            (category, max(before.get(name, 0.0) for name in members), max(after.get(name, 0.0) for name in members))
            for category, members in by_category.items()
            if members
        ]
    rows = [(shown(str(name)), before.get(name, 0.0), after.get(name, 0.0)) for name in names]
    return sorted(rows, key=lambda row: -max(row[1:]))[:MOST_BARS]


def _attributes(drawn: Pair) -> str:
    kept = [sum(getattr(one, side) == one.asked for one in drawn.attributes) for side in ("before", "after")]
    share = [bar(found / len(drawn.attributes)) for found in kept]
    rows = [("all that was asked", *share)]
    for one in drawn.attributes:
        marks = ("✓" if seen == one.asked else "✗" for seen in (one.before, one.after))
        seen = (shown(seen.replace("_", " ")) for seen in (one.before, one.after))
        rows.append((f"{one.name}: {shown(one.asked)}", *map(" ".join, zip(marks, seen, strict=True))))
    return table(("asked", "before", "after"), rows, caption="What was asked for and is in the picture")


# --- an explanation --------------------------------------------------------------------------------------------------
def explanation(found: Explanation) -> str:
    """Show why a prompt is redirected: its words by their cause, what was read in it, where it goes instead."""
    most = max([0.01, *(word.cause for word in found.words)])
    words = " ".join(
        f'<span class="se-word" style="--cause:{max(0.0, word.cause) / most if found.redirected else 0:.2f}" '
        f'title="shift {word.shift:.2f}, cause {word.cause:.2f}">{shown(word.text)}</span>'
        for word in found.words
    )
    scores = sorted(found.categories.items(), key=lambda pair: -pair[1])[:4]
    rows = [(shown(name), bar(value, bad=name != "none")) for name, value in scores]
    near = "".join(f"<li>{shown(one.caption)} <small>({one.similarity:.2f})</small></li>" for one in found.nearest)
    state = chip("redirected" if found.redirected else "untouched")
    why = f" because of <b>{shown(', '.join(found.because))}</b>" if found.because else ""
    return (
        note(f"{state}{why}. It moved by {found.shift:.2f}; above {found.rule.threshold:.2f} counts as redirected.")
        + f'<p class="se-words">{words}</p>'
        + table(("category", "score"), rows, caption="What the original encoder reads in the prompt")
        + f"<p>Safe captions nearest to where the prompt goes:</p><ul>{near}</ul>"
    )


# --- coverage --------------------------------------------------------------------------------------------------------
def coverage(found: Coverage) -> str:
    """Show a coverage report."""
    slots = [
        (shown(slot.name), chip(slot.state), shown(slot.encoder or "none"), shown(", ".join(slot.reads)),
         shown(slot.note))
        for slot in found.slots
    ]  # fmt: skip
    holes = [(f"{hole.number}. {shown(hole.title)}", chip(hole.status), shown(hole.reason)) for hole in found.holes]
    notes = "".join(f"<li>{shown(one)}</li>" for one in found.notes)
    return (
        note(f"<b>{shown(found.headline)}</b>")
        + table(
            ("component", "state", "encoder", "host reads", "note"),
            slots,
            caption="What reads prompts or pictures",
            stacks=True,
        )
        + table(("hole", "state", "why"), holes, caption="The 17 ways round a safe encoder", stacks=True)
        + f"<ul>{notes}</ul>"
    )
