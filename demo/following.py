"""Work in a thread, followed step by step by a generator: closing the generator stops the work at its next step."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
Report = Callable[[float], None]
"""Takes how much is done, 0..1; raises to end the work when nobody follows it any more."""


class StoppedError(Exception):
    """The visitor cancelled, or left; it ends the work and is seen by nobody."""


@dataclass(frozen=True)
class _End(Generic[T]):
    result: T | None = None
    error: BaseException | None = None


def follow(work: Callable[[Report], T]) -> Generator[float, None, T]:
    """Run work in a thread of its own, yield how much is done, return its result or raise its error."""
    said: queue.SimpleQueue[float | _End[T]] = queue.SimpleQueue()
    left = threading.Event()

    def report(done: float) -> None:
        if left.is_set():
            raise StoppedError
        said.put(done)

    def run() -> None:
        try:
            said.put(_End(result=work(report)))
        except StoppedError:
            return
        except BaseException as error:  # noqa: BLE001  it is raised where the work is followed
            said.put(_End(error=error))

    threading.Thread(target=run, name="demo work", daemon=True).start()
    try:
        while True:
            news = said.get()
            if not isinstance(news, _End):
                yield news
            elif news.error is not None:
                raise news.error
            else:
                result: T = news.result  # type: ignore[assignment]  # what work returned
                return result
    finally:
        left.set()
