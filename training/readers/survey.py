"""The survey: what a run is about to train on, in numbers only; no text is quoted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from safeencoders.training.readers.pairs import COLUMNS, IMAGES, Column, Dropped, Pairs

_TEXTS: tuple[Column, ...] = tuple(column for column in COLUMNS if column not in IMAGES)
_LISTED = 10
_TAGS_SHOWN, _TAG_LENGTH = 20, 40
_NO_TAG, _OTHER_TAGS = "(none)", "(other)"


@dataclass(frozen=True)
class Lengths:
    """Tokens of a column's texts, start and end included; ``cut`` are longer than the context."""

    median: float
    p95: float
    longest: int
    cut: int


@dataclass(frozen=True)
class Survey:
    """What there is to train on.

    Attributes:
        source: what the pairs were read from.
        rows: rows used.
        left_out: rows left out, by reason.
        missing: for each column of the data, the rows that lack it.
        duplicates: for each column of texts, the rows that repeat an earlier row's text.
        identical: rows whose safe and unsafe texts are equal.
        context: tokens that the text tower takes, start and end included.
        lengths: of each column of texts.
        tags: rows of each category, the most frequent first.
        unreadable: pictures that cannot be decoded.
        notes: what the reader did not use or had to choose.
        warnings: what is likely a fault of the data.
    """

    source: str
    rows: int
    left_out: Mapping[str, int]
    missing: Mapping[Column, int]
    duplicates: Mapping[Column, int]
    identical: int
    context: int
    lengths: Mapping[Column, Lengths]
    tags: Mapping[str, int]
    unreadable: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def row(self) -> dict[str, Any]:
        """Return it for a JSON file."""
        return asdict(self)

    def text(self) -> str:
        """Return it as a table for the terminal."""
        return "\n".join(f"{name:<26} {value}".rstrip() for name, value in self._lines())

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "data", self.source
        yield "rows used", f"{self.rows:,}"
        for reason, count in self.left_out.items():
            yield f"left out, {reason}", f"{count:,}"
        for column, count in self.missing.items():
            yield f"missing {column}", f"{count:,}"
        for column, count in self.duplicates.items():
            yield f"repeated {column}", f"{count:,}"
        yield "identical twins", f"{self.identical:,}"
        for column, found in self.lengths.items():
            spread = f"median {found.median:g}, 95 % up to {found.p95:g}, longest {found.longest:,}"
            yield f"tokens of {column}", f"{spread}, over {self.context} (cut) {found.cut:,}"
        for tag, count in self.tags.items():
            yield f"tag {tag}", f"{count:,}"
        for path in self.unreadable[:_LISTED]:
            yield "unreadable", path
        if len(self.unreadable) > _LISTED:
            yield "unreadable", f"and {len(self.unreadable) - _LISTED:,} more"
        yield from (("note", note) for note in self.notes)
        yield from (("WARNING", warning) for warning in self.warnings)


def survey(pairs: Pairs, dropped: Dropped, count_tokens: Callable[[list[str]], list[int]], context: int) -> Survey:
    """Survey the rows a run will use.

    Args:
        pairs: the rows, as ``usable`` returned them.
        dropped: what it left out.
        count_tokens: gives the tokens of each text, start and end included and nothing cut.
        context: tokens that the text tower takes.
    """
    texts = {column: pairs.entries(column) for column in _TEXTS if column in pairs.columns}
    duplicates = {column: len(values) - len(set(values)) for column, values in texts.items()}
    lengths = {column: _lengths(count_tokens(values), context) for column, values in texts.items()}
    both = len(texts) == len(_TEXTS)
    identical = sum(a == b for a, b in zip(*texts.values(), strict=True)) if both else 0
    return Survey(
        source=pairs.source,
        rows=len(pairs),
        left_out={"a part missing": dropped.incomplete, "unreadable": dropped.undecodable},
        missing=dropped.missing,
        duplicates=duplicates,
        identical=identical,
        context=context,
        lengths=lengths,
        tags=_tags(pairs.tags),
        unreadable=dropped.unreadable,
        notes=pairs.notes,
        warnings=tuple(_warnings(pairs, duplicates, lengths, identical)),
    )


def _lengths(tokens: list[int], context: int) -> Lengths:
    median, p95 = np.percentile(tokens, (50, 95))
    return Lengths(float(median), float(p95), max(tokens), sum(count > context for count in tokens))


def _tags(tags: tuple[str | None, ...]) -> dict[str, int]:
    """Count the tags; what is too long to be one, or rare among many, is counted without its words."""
    counts = Counter(_NO_TAG if t is None else t if len(t) <= _TAG_LENGTH else _OTHER_TAGS for t in tags)
    rest = counts.pop(_OTHER_TAGS, 0)
    shown = dict(counts.most_common(_TAGS_SHOWN))
    rest += counts.total() - sum(shown.values())
    return shown | ({_OTHER_TAGS: rest} if rest else {})


def _warnings(
    pairs: Pairs, duplicates: Mapping[Column, int], lengths: Mapping[Column, Lengths], identical: int
) -> Iterator[str]:
    rows = len(pairs)
    if rows > 1 and None not in pairs.tags and len(set(pairs.tags)) == 1:
        yield "every row is of one category; what is trained will know no other."
    for column, found in lengths.items():
        if found.cut > 0.01 * rows:
            yield f"{found.cut / rows:.1%} of {column} are longer than the context and will be cut; shorten them."
    for column, count in duplicates.items():
        if count > 0.1 * rows:
            yield f"{count / rows:.1%} of {column} repeat an earlier row's; a batch may hold one text twice."
    if identical:
        yield f"{identical:,} rows have equal safe and unsafe texts; they teach to keep what is unsafe."
