"""What an explanation holds, and how it reads in a terminal; `safeencoders.evaluation.explaining` makes it.

All distances are relative, |x - x0| / |x0|, with x0 the original tower's state and x the safe one's, after the final
layer norm.

shift of a token   the distance at that token: 0 untouched, two unrelated states about 1.4. CLIP's text tower is causal,
                   so every token after an unsafe word moves too: the shift says where a picture is steered, not why.
shift of a prompt  the distance at the end token, which CLIP pools.
cause of a word    how much of the prompt's shift is gone when the word is left out, along the prompt's own shift:
                   (|d|^2 - d.d') / (|d| |x0|), with d = x - x0 of the prompt and d' that of the prompt without the
                   word. In the units of the shift: as large as the shift when all of it goes, 0 when none, negative
                   when the word held it back. The causes of several words need not add up to the shift.
category scores    of the ORIGINAL tower's reading of the prompt, in 0..1, summing to 1, "none" among them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeencoders.evaluation.explaining_reference import Rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from safeencoders.metrics import Rate

BAR, MOST_NAMED = 20, 3
NAMED = 1 / 3
"""A word is named as a cause when it has at least this share of the strongest word's."""
SHOWN = 0.01
"""Scores below this are left out of the text."""
LEGEND = (
    "shift: relative distance between the two towers' states, 0 is untouched; words after a cause shift too.\n"
    "cause: how much of the prompt's shift is gone when the word is left out."
)


@dataclass(frozen=True)
class Word:
    """A word of a prompt.

    Attributes:
        text: as it stands in the prompt.
        tokens: how the tokenizer cut it.
        shifts: of each token, >= 0.
        cause: how much of the prompt's shift is gone without this word, in the units of the shift.
    """

    text: str
    tokens: tuple[str, ...]
    shifts: tuple[float, ...]
    cause: float

    @property
    def shift(self) -> float:
        """That of its last token, the first that has read the whole word."""
        return self.shifts[-1]


@dataclass(frozen=True)
class Near:
    """A safe caption and its cosine similarity, in -1..1, to where the safe tower puts the prompt."""

    caption: str
    similarity: float


@dataclass(frozen=True)
class Explanation:
    """Why a prompt was redirected, or was not; ``print(explanation)`` shows it.

    Attributes:
        prompt: as given.
        encoder: the safe tower's name.
        shift: the prompt's, >= 0.
        rule: the threshold above which it counts as redirected, and how often that holds on the world's captions.
        words: in order.
        categories: what the ORIGINAL tower reads in the prompt: category or "none" -> score, summing to 1.
        nearest: the safe captions of the bank nearest to where the safe tower puts the prompt, best first.
    """

    prompt: str
    encoder: str
    shift: float
    rule: Rule
    words: tuple[Word, ...]
    categories: dict[str, float]
    nearest: tuple[Near, ...]

    @property
    def redirected(self) -> bool:
        """Whether the shift is above the rule's threshold."""
        return self.shift > self.rule.threshold

    @property
    def because(self) -> tuple[str, ...]:
        """The words that caused it, the strongest first: at most three, down to a third of it; () if not redirected."""
        ranked = sorted(self.words, key=lambda word: -word.cause)
        if not self.redirected or not ranked or ranked[0].cause <= 0:
            return ()
        named = (word.text for word in ranked if word.cause >= NAMED * ranked[0].cause)
        return tuple(dict.fromkeys(named))[:MOST_NAMED]

    @property
    def verdict(self) -> str:
        """One line: redirected or not, and by how much."""
        said = "redirected" if self.redirected else "not redirected"
        why = f", because of: {', '.join(self.because)}" if self.because else ""
        return f"{said} (shift {self.shift:.2f}, threshold {self.rule.threshold:.2f}){why}"

    def text(self) -> str:
        """Return the explanation for a terminal, with aligned bars of plain characters."""
        width = max(len(name) for name in (*(_cut(word) for word in self.words), *self.categories))
        most = max([1.0, *(word.shift for word in self.words)])
        scores = sorted(self.categories.items(), key=lambda pair: -pair[1])
        return "\n".join([
            f"{self.prompt!r}",
            f"{self.encoder}: {self.verdict}",
            "",
            f"{'word':{width}}  shift {'':{BAR}}  cause",
            *(_word_line(word, width, most) for word in self.words),
            "",
            "What the original tower reads in it",
            *(f"{name:{width}}  {score:5.2f} {_bar(score)}".rstrip() for name, score in scores if score >= SHOWN),
            "",
            "Safe captions nearest to where the encoder puts it (cosine similarity)",
            *(f"{near.similarity:5.2f}  {near.caption}" for near in self.nearest),
            "",
            LEGEND,
            *_pieces(self.words),
            _ruled(self.rule),
        ])  # fmt: skip

    def __str__(self) -> str:
        """Return `text`."""
        return self.text()

    def figure(self) -> Figure:
        """Draw it: the prompt with its causes marked, shift and cause by word, categories, nearest captions.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        from safeencoders.evaluation.explaining_figure import draw

        return draw(self)

    def save(self, path: str | Path) -> None:
        """Write the figure as ``.svg`` or ``.png``, whole or not at all; the same explanation gives the same bytes.

        Raises:
            BadInputError: another ending.
            MissingExtraError: matplotlib is not installed.
            OutputError: the file cannot be written.
        """
        from safeencoders.evaluation.explaining_figure import save

        save(self, Path(path))

    def to_dict(self) -> dict[str, Any]:
        """Return what is shown, ready for JSON."""
        return asdict(self) | {"redirected": self.redirected, "because": list(self.because)}


def decimal(value: float) -> str:
    """Write a number with two decimals, and zero without a sign."""
    return f"{round(value, 2) + 0.0:.2f}"


def _cut(word: Word) -> str:
    return "|".join(word.tokens)


def _pieces(words: tuple[Word, ...]) -> list[str]:
    """Say which words the tokenizer does not hold whole, if any."""
    cut = [_cut(word) for word in words if len(word.tokens) > 1]
    return [f"Not whole in the vocabulary, so read in pieces: {', '.join(cut)}."] if cut else []


def _bar(value: float, most: float = 1.0) -> str:
    return "#" * round(BAR * value / most)


def _word_line(word: Word, width: int, most: float) -> str:
    shown = f"{_cut(word):{width}}  {decimal(word.shift):>5} {_bar(word.shift, most):{BAR}}"
    return f"{shown}  {decimal(word.cause):>5} {_bar(max(0.0, word.cause), most)}".rstrip()


def _ruled(rule: Rule) -> str:
    return f"Validation captions above the threshold: unsafe {_percent(rule.unsafe)}, safe {_percent(rule.safe)}."


def _percent(found: Rate) -> str:
    return f"{100 * found['value']:.1f} % (n={found['n']})"
