"""Coverage: what of a host is protected, and which of the 17 holes are closed, watched or open. Text, table, JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.table import Table

State = Literal["protected", "unverified", "open", "empty", "left alone"]
Status = Literal["closed", "watched", "open", "does not apply", "broken upstream"]
_WORST_FIRST: tuple[Status, ...] = ("open", "watched", "closed", "broken upstream", "does not apply")


@dataclass(frozen=True)
class SlotReport:
    """One component that reads prompts or images.

    Attributes:
        name: of the component in the host.
        kind: "text", "vision", or "judge" for a safety checker.
        class_name: of what is in it, or "nothing".
        state: "protected" by an encoder of the catalog, "unverified" when the tower is in no catalog, "open", "empty"
            when nothing is in it, "left alone" for a judge.
        encoder: what protects it, or None.
        reads: the fields of the tower's output that the host takes, as measured; ("unknown",) when it cannot be.
        trained_on: the fields the encoder was trained on, or None when nobody knows.
        note: a sentence more, or "".
    """

    name: str
    kind: Literal["text", "vision", "judge"]
    class_name: str
    state: State
    encoder: str | None = None
    reads: tuple[str, ...] = ()
    trained_on: tuple[str, ...] | None = None
    note: str = ""


@dataclass(frozen=True)
class HoleReport:
    """A hole as it stands in one slot, or in the host as a whole (slot None)."""

    number: int
    title: str
    slot: str | None
    status: Status
    reason: str


@dataclass(frozen=True)
class Coverage:
    """What is protected in a host and what stays open; print it, or take ``table()``, ``json()``, ``markdown()``.

    Attributes:
        host: the name of its class.
        policy: "warn", "strict", "off", or None when it is not protected.
        slots: everything that reads prompts or images.
        holes: the 17 holes, per slot or for the host.
        notes: what else a reader should know.
    """

    host: str
    policy: str | None
    slots: tuple[SlotReport, ...]
    holes: tuple[HoleReport, ...]
    notes: tuple[str, ...] = ()

    @property
    def open_text(self) -> tuple[str, ...]:
        """Name the text components that no safe tower protects."""
        return tuple(slot.name for slot in self.slots if slot.kind == "text" and slot.state == "open")

    @property
    def complete(self) -> bool:
        """Say whether every text component is protected; in a host without any, every image component."""
        filled = [slot for slot in self.slots if slot.kind != "judge" and slot.state != "empty"]
        asked = [slot for slot in filled if slot.kind == "text"] or filled
        return bool(asked) and all(slot.encoder for slot in asked)

    def status(self, number: int) -> Status:
        """Return a hole's status over all slots: the worst of them."""
        found = {hole.status for hole in self.holes if hole.number == number}
        return next(status for status in _WORST_FIRST if status in found)

    def count(self, *statuses: Status) -> int:
        """Count the holes whose worst status is one of these."""
        return sum(self.status(number) in statuses for number in {hole.number for hole in self.holes})

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, with ``complete``, ``open_text`` and a summary of the holes."""
        numbers = sorted({hole.number for hole in self.holes})
        summary = {str(number): self.status(number) for number in numbers}
        return {"complete": self.complete, "open_text": list(self.open_text), "summary": summary, **asdict(self)}

    def json(self) -> str:
        """Return ``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        """Return the report as plain text of some forty lines."""
        lines = [self.headline, "", "Towers", *(f"  {line}" for line in self.tower_lines()), "", "Holes"]
        lines += [
            f"  {hole.number:>2} {hole.status:<15} {hole.title}{_where(hole)}: {hole.reason}" for hole in self.holes
        ]
        if self.notes:
            lines += ["", "Notes", *(f"  {note}" for note in self.notes)]
        return "\n".join(lines)

    def tower_lines(self) -> tuple[str, ...]:
        """Return one line for each component that reads prompts or images."""
        return tuple(_slot_line(slot) for slot in self.slots)

    def table(self) -> Table:
        """Return the holes as a rich table for a terminal."""
        from rich import box
        from rich.table import Table

        table = Table(title=self.headline, box=box.SIMPLE_HEAD, title_justify="left")
        for column in ("#", "status", "hole", "why"):
            table.add_column(column)
        colours = {"closed": "green", "watched": "yellow", "open": "red"}
        for hole in self.holes:
            colour = colours.get(hole.status, "dim")
            table.add_row(str(hole.number), f"[{colour}]{hole.status}[/]", f"{hole.title}{_where(hole)}", hole.reason)
        return table

    def markdown(self) -> str:
        """Return the report as Markdown: one table of towers, one of holes, the notes."""
        lines = [f"# {self.headline}", "", "| component | class | state | encoder | host reads | trained on |",
                 "|---|---|---|---|---|---|"]  # fmt: skip
        for slot in self.slots:
            trained = "" if slot.trained_on is None else ", ".join(slot.trained_on)
            cells = (slot.name, slot.class_name, slot.state, slot.encoder or "", ", ".join(slot.reads), trained)
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", "| # | hole | slot | status | why |", "|---|---|---|---|---|"]
        lines += [f"| {hole.number} | {hole.title} | {hole.slot or ''} | {hole.status} | {hole.reason} |"
                  for hole in self.holes]  # fmt: skip
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    @property
    def headline(self) -> str:
        """Say in one line how the host stands."""
        if self.policy is None:
            return f"{self.host}: {'safe towers, no guard' if self.complete else 'not protected'}"
        kind = "text" if any(slot.kind == "text" for slot in self.slots) else "vision"
        found = [slot.name for slot in self.slots if slot.kind == kind and slot.state == "open"]
        state = f"every {kind} tower is protected" if self.complete else f"OPEN: {', '.join(found)}"
        return f"{self.host}, policy {self.policy}: {state}"


def _slot_line(slot: SlotReport) -> str:
    parts = [f"{slot.name:<22} {slot.state:<11} {slot.class_name}"]
    if slot.encoder:
        parts.append(f"encoder {slot.encoder}")
    if slot.reads:
        parts.append(f"host reads {', '.join(slot.reads)}")
    if slot.encoder:
        parts.append("trained on " + (", ".join(slot.trained_on) if slot.trained_on else "nobody knows what"))
    if slot.note:
        parts.append(slot.note)
    return "; ".join(parts)


def _where(hole: HoleReport) -> str:
    return f" ({hole.slot})" if hole.slot else ""
