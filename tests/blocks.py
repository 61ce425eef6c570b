"""The code of a Markdown page, and what running it means.

Blocks of a page run in their order, python in one namespace, `safeencoders ...` lines of bash through the command
itself, all in one empty folder. What a reader sees says how a block is treated:

    ```python title="Not run here: REASON"   is parsed only; of a command the options are checked
    ```toml title="mine.toml"                is written to a file of this name (no python or bash)
    ```text                                  after a block that ran: what it printed, `...` for anything
    # exit code 1                            behind a command: the code it ends with, 0 without
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safeencoders.cli.main import main

NOT_RUN = "Not run here: "
_FENCE = re.compile(r'^```(?P<language>\w*)(?: title="(?P<title>[^"]*)")?\n(?P<code>.*?)^```$', flags=re.M | re.S)
_SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its title or "", its code, and the line it starts in."""

    language: str
    title: str
    code: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["title"] or "", found["code"], text.count("\n", 0, found.start()) + 1)
        for found in _FENCE.finditer(text)
    ]


def run_page(page: Path, *, run: bool = True) -> dict[str, object]:
    """Run a page's blocks in the current folder and return their namespace; with ``run`` False, only look at them."""
    scope: dict[str, object] = {"__name__": "page"}
    printed: str | None = None
    for block in blocks_of(page):
        with _naming(page, block):
            if block.language in {"python", "bash"}:
                if block.title and not block.title.startswith(NOT_RUN):
                    raise AssertionError(f"expected a title that begins with {NOT_RUN!r}, got {block.title!r}")
                printed = _run(block, scope) if run and not block.title else _look(block)
            elif block.language == "text":
                if printed is not None and not doctest.OutputChecker().check_output(block.code, printed, _SAME):
                    raise AssertionError(f"expected the output\n{block.code}\ngot\n{printed}")
                printed = None
            elif block.title and run:
                Path(block.title).write_text(block.code, encoding="utf-8")
    return scope


def commands(block: Block) -> Iterator[tuple[list[str], int]]:
    """Give the words after `safeencoders` of each command of a block, and the code it shall end with."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "safeencoders":
            expected = re.search(r"# exit code (\d+)", line)
            yield words[1:], int(expected[1]) if expected else 0
        elif words and not block.title:
            raise AssertionError(f"only `safeencoders ...` can be run here, got {line!r}: say {NOT_RUN!r} in a title")


def _run(block: Block, scope: dict[str, object]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        if block.language == "python":
            exec(compile(block.code, "the block", "exec", dont_inherit=True), scope)  # noqa: S102  our own page
        else:
            for words, expected in commands(block):
                code = main(words)
                assert code == expected, f"safeencoders {shlex.join(words)} ended with {code}"
    return out.getvalue()


def _look(block: Block) -> None:
    """Parse python; let each command name its options and say its help instead of running."""
    if block.language == "python":
        compile(block.code, "the block", "exec", dont_inherit=True)
        return
    for words, _ in commands(block):
        with contextlib.redirect_stdout(io.StringIO()):
            assert main([*words, "--help"]) == 0, f"safeencoders {shlex.join(words)} is no command"


@contextlib.contextmanager
def _naming(page: Path, block: Block) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(f"in the {block.language} block at {page.name}:{block.line}")
        raise
