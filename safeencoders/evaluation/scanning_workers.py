"""Who judges the units of a scan: processes on this machine, or Ray on many. The verdicts are the same.

Both take lines and give ``(line, verdicts)`` in the order in which they are done, and hold few of them at a time.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import Any

from safeencoders.errors import MissingExtraError, SafeEncodersError

Judge = Callable[[str], bytes]
Done = Iterator[tuple[str, bytes]]

WAVE = 4096
"""Units that Ray is given at once: half a million pictures, so that it never holds a plan of any length."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")

_mine: list[Judge] = []  # of a worker process


def in_processes(lines: Iterable[str], judge: Judge, workers: int) -> Done:
    """Judge in processes of this machine, each with its own judges and one thread.

    Raises:
        SafeEncodersError: whatever the judge raises; or a process died.
    """
    waiting = iter(lines)
    with ProcessPoolExecutor(workers, get_context("spawn"), _prepare, (judge,)) as pool:
        running: dict[Future[bytes], str] = {}
        try:
            while True:
                for line in islice(waiting, 2 * workers - len(running)):  # one to do and one to come for each
                    running[pool.submit(_judge, line)] = line
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            raise SafeEncodersError("a worker process died: killed, out of memory, or by a damaged picture. What was "
                                    "judged is kept; run the same command again to go on") from error  # fmt: skip
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _prepare(judge: Judge) -> None:
    """Set up a worker process; before torch is imported, which reads the number of threads once."""
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops, and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _mine[:] = [judge]


def _end_with_parent() -> None:
    """End when the parent was killed: a worker would wait for its next unit for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _judge(line: str) -> bytes:
    return _mine[0](line)


def _actor(judge: Judge) -> type:
    """Return the class of Ray's workers; the judge in it loads its panel at the first unit."""

    class Actor:
        def __init__(self) -> None:
            os.environ.update(dict.fromkeys(_THREADS, "1"))

        def __call__(self, row: dict[str, str]) -> dict[str, Any]:
            try:
                return {"line": row["line"], "verdicts": judge(row["line"]), "error": b""}
            except SafeEncodersError as error:  # Ray would bring its text only
                return {"line": row["line"], "verdicts": b"", "error": pickle.dumps(error)}

    return Actor


def with_ray(lines: Iterable[str], judge: Judge, workers: int) -> Done:
    """Judge with Ray Data, on the cluster that RAY_ADDRESS names, or on one that is started here.

    Every machine must see the pictures under the same path. Of a cluster that is started here, usage statistics and
    the dashboard are off; Ray still asks the machine's own cloud, at a link-local address, which one it is.

    Raises:
        MissingExtraError: Ray is not installed.
        SafeEncodersError: whatever the judge raises.
    """
    for name, value in (("RAY_USAGE_STATS_ENABLED", "0"), ("RAY_BACKEND_LOG_LEVEL", "fatal")):
        os.environ.setdefault(name, value)  # read when ray is imported
    try:
        ray, data = import_module("ray"), import_module("ray.data")
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    here = "RAY_ADDRESS" not in os.environ
    options: dict[str, Any] = {"address": "local", "num_cpus": workers, "include_dashboard": False} if here else {}
    begun = not ray.is_initialized()
    if begun:
        ray.init(log_to_driver=False, logging_level="ERROR", **options)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    data.DataContext.get_current().enable_progress_bars = False
    try:
        waiting = iter(lines)
        while wave := list(islice(waiting, WAVE)):
            units = data.from_items([{"line": line} for line in wave], override_num_blocks=len(wave))
            actors = data.ActorPoolStrategy(size=workers)
            judged = units.map(_actor(judge), compute=actors, num_cpus=1)
            for row in judged.iter_rows():
                if row["error"]:
                    raise pickle.loads(row["error"])  # noqa: S301  of our own worker
                yield row["line"], row["verdicts"]
    finally:
        if begun:
            ray.shutdown()
