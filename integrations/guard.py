"""The guard: what keeps a swap honest while the host is used.

Only the instance is touched: its class becomes a subclass of the same name that asks the guard before it acts, so the
host still saves, reloads and derives as its plain class. The rules:

- what replaces or changes a tower or its tokenizer is measured, and passes when redirection holds (towers.py);
- embeddings that are handed in must be the host's own (ownership.py);
- the policy "warn" lets pass and says so, "strict" raises BypassError with the host as it was; a textual inversion or
  LoRA that fails is taken back under both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from safeencoders.integrations.arguments import asks_to_push_away, embeddings, shows_something, tensors
from safeencoders.integrations.towers import Towers

if TYPE_CHECKING:
    from torch import Tensor, nn

_NEGATIVE = (
    "a negative prompt came in: a safe tower redirects unsafe words in it too, and guidance then pushes away from what "
    "is safe; leave it empty or harmless (`evaluate generation --concept-encoder original` shows the alternative)"
)


class Guard(Towers):
    """Watches one host: its towers, and what is handed in."""

    @property
    def inside(self) -> bool:
        """Say whether this thread is in a call of a model already, which was checked with all that it was given."""
        return self.model and getattr(self._local, "clean", None) is not None

    @contextmanager
    def calling(self, host: Any, arguments: Mapping[str, Any], call: str = "__call__") -> Iterator[None]:  # noqa: ANN401
        """Check a call of the host with its arguments by name, and remember for its length whether all was well."""
        clean = self._examine(host, arguments, call)
        self.screen(arguments)
        outer, self._local.clean = getattr(self._local, "clean", None), clean
        try:
            yield
        finally:
            self._local.clean = outer

    def encoding(self, host: Any, arguments: Mapping[str, Any], encode: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Run one of the host's encode functions and remember its result, if nothing was wrong with tower or inputs."""
        clean: bool | None = getattr(self._local, "clean", None)  # None: not inside of a call on this thread
        own = all(self._finding(value) == "own" for _, value in embeddings(arguments))
        if clean is None:
            clean = self._examine(host, arguments)
            self.screen(arguments)
        found = encode()
        if own and clean:
            for tensor in tensors(found):
                self.ledger.record(self._item(tensor))
        return found

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # what surrounds it may be compiled
    def _examine(self, host: Any, arguments: Mapping[str, Any], call: str = "__call__") -> bool:  # noqa: ANN401
        """Report what is wrong with the towers and with how they are asked to run; say whether nothing was."""
        self._local.told = False
        pictures = not self.model or shows_something(arguments)
        with self._lock:
            for name in self.slots:
                self._still_good(host, name, asked=pictures or name not in self.vision)
            self._adapter_scale(arguments)
        trained = [set(slot.trained_on or ()) for slot in self.slots.values()]
        for layer in self.kind.layers(host, call, arguments):
            if layer not in self.usual and not all(layer in known for known in trained):
                self.report(3, None, f"{layer} was asked for, which reads a layer the encoder may not be trained on")
        if asks_to_push_away(arguments) and self._first("negative prompt"):
            self.report(9, None, _NEGATIVE, noted=True)
        scales = [value for name, value in arguments.items() if name.endswith(("guidance_scale", "cfg_scale"))]
        if any(isinstance(value, int | float) and value < 0 for value in scales):
            self.report(14, None, "a negative guidance scale was asked for, which draws what the negative prompt says")
        return not self._local.told

    def watched_callback(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """Return a callback at the end of a step whose embeddings are looked at when it changes them."""

        def call(host: Any, step: int, time: Any, values: dict[str, Any]) -> Any:  # noqa: ANN401
            given = dict(values)
            found = callback(host, step, time, values)
            changed = {k: v for k, v in found.items() if v is not given.get(k)} if isinstance(found, Mapping) else {}
            self.screen(changed)
            return found

        return call

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def screen(self, arguments: Mapping[str, Any]) -> None:
        """Report every argument with embeddings that are not the host's own."""
        told: set[str] = set()
        for name, value in embeddings(arguments):
            image, negative = self.model or "image" in name, name.startswith("negative")
            if image and not any(slot in self.vision for slot in self.slots):
                continue  # no safe image tower: open, and said so in the coverage
            verdict = "own" if name in told else self._finding(value)
            if verdict != "own":
                told.add(name)
            if verdict == "foreign":
                hole = 13 if image else 14 if negative else 1
                self.report(hole, None, f"the argument {name} holds embeddings that this host's towers did not make")
            elif verdict == "amplified":
                self.report(
                    13 if self.model else 2,
                    None,
                    f"the argument {name} holds the host's own embeddings, amplified beyond use",
                )

    def _item(self, value: Tensor) -> Tensor:
        """Return (tokens, width), the features of one picture as a model gives them, as an item of its own."""
        return value[None] if self.model and value.ndim == 2 else value

    def _finding(self, value: object) -> str:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():  # no tower puts out anything else
            return "foreign"
        value = self._item(value)
        value = value.flatten(0, -3) if value.ndim > 3 else value
        found = self.ledger.find(value)
        if found.verdict != "foreign":
            return found.verdict
        widths = [w for name, slot in self.slots.items() if name not in self.vision and (w := _width(slot.tower))]
        if sum(widths) != value.shape[-1] or len(widths) < 2:
            return "foreign"
        parts = torch.split(value, widths, dim=-1)
        verdicts = {self.ledger.find(part).verdict for part in parts}
        return next(verdict for verdict in ("foreign", "amplified", "own") if verdict in verdicts)


def _width(tower: nn.Module) -> int | None:
    found: int | None = getattr(getattr(tower, "config", None), "hidden_size", None)
    return found
