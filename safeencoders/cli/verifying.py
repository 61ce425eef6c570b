"""Checks of results: what one says, how numbers are compared, and results whose recorded command is run again."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safeencoders.errors import BadInputError
from safeencoders.files import read_json

TOLERANCE = 1e-9
"""Numbers closer than this are the same: rounding, far below what any interval could tell apart."""
SHOWN = 5
RUN_AGAIN = ("retrieval", "generation", "description", "calibrate")
_OUTPUTS = ("--json", "--report", "--out")
_RUN = "import sys; from safeencoders.cli.main import main; sys.exit(main())"


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: what.
        holds: None where it could not be checked.
        detail: what was found.
    """

    name: str
    holds: bool | None
    detail: str

    def line(self, word: str) -> str:
        """Return it as text, after a word for whether it holds."""
        return f"{word:<14} {self.name}: {self.detail}"


def compared(name: str, stored: object, found: object) -> Check:
    """Compare what a file says with what was found, to the last number."""
    other = list(differences(stored, json.loads(json.dumps(found))))
    if not other:
        return Check(name, True, f"{_count(stored):,} values are the same")
    rest = f"; and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
    return Check(name, False, "; ".join(other[:SHOWN]) + rest)


def differences(stored: object, found: object, place: str = "") -> Iterator[str]:
    """Yield a sentence for each place where two JSON values differ."""
    if isinstance(stored, dict) and isinstance(found, dict):
        for key in dict.fromkeys([*stored, *found]):
            inner = f"{place}.{key}".lstrip(".")
            if key not in stored or key not in found:
                yield f"{inner} is {'not in the file' if key in found else 'only in the file'}"
            else:
                yield from differences(stored[key], found[key], inner)
    elif isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        for number, (one, other) in enumerate(zip(stored, found, strict=True)):
            yield from differences(one, other, f"{place}[{number}]")
    elif not _same(stored, found):
        yield f"{place or 'it'} is {_short(stored)} in the file, {_short(found)} now"


def _same(stored: object, found: object) -> bool:
    numbers = [isinstance(one, int | float) and not isinstance(one, bool) for one in (stored, found)]
    if all(numbers):
        return math.isclose(stored, found, rel_tol=0, abs_tol=TOLERANCE)  # type: ignore[arg-type]  # both are numbers
    return type(stored) is type(found) and stored == found


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _count(value: object) -> int:
    if isinstance(value, dict):
        return sum(map(_count, value.values()))
    return sum(map(_count, value)) if isinstance(value, list) else 1


def words_of(manifest: Mapping[str, Any], commands: tuple[str, ...] = RUN_AGAIN) -> list[str]:
    """Return the recorded command without what it wrote, checked to be one that may be run.

    Returns:
        the words after "safeencoders evaluate".

    Raises:
        BadInputError: it is another command, or has options that this one has not.
    """
    try:
        words = shlex.split(manifest["command"])
    except ValueError:
        words = []
    if words[:2] != ["safeencoders", "evaluate"] or len(words) < 3 or words[2] not in commands:
        raise BadInputError(f"expected results of safeencoders evaluate {', '.join(commands)}, found "
                            f"{manifest['command']!r}; other results cannot be verified")  # fmt: skip
    kept, rest = [], iter(words[2:])
    for word in rest:
        if word in _OUTPUTS:
            next(rest, None)
        elif not word.startswith(tuple(f"{name}=" for name in _OUTPUTS)):
            kept.append(word)
    parsed(kept)
    return kept


def parsed(words: list[str]) -> dict[str, Any]:
    """Return the options of words after "safeencoders evaluate", by their names in Python.

    Raises:
        BadInputError: the command would not take them.
    """
    import typer

    from safeencoders.cli.evaluate import app

    group = typer.main.get_command(app)
    command = group.commands[words[0]]  # type: ignore[attr-defined]  # several commands make a group
    try:
        found: dict[str, Any] = command.make_context(words[0], list(words[1:])).params
    except Exception as error:  # noqa: BLE001  whatever the parser says, nothing is run
        raise BadInputError(f"expected a command that can be run again, found evaluate {shlex.join(words)!r}: "
                            f"{getattr(error, 'message', 'it does not measure')}") from None  # fmt: skip
    return found


def recorded(results: Mapping[str, Any]) -> Iterator[Check]:
    """Run the recorded command again and compare all that it gives.

    Raises:
        BadInputError: it is none that may be run, or it cannot be run here.
    """
    words, manifest = words_of(results["manifest"]), results["manifest"]
    print(f"running again: safeencoders evaluate {shlex.join(words)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "again.json"
        command = [sys.executable, "-c", _RUN, "evaluate", *words, "--json", str(file)]
        done = subprocess.run(  # noqa: S603  this package, with words that its own parser has taken
            command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if done.returncode or not file.is_file():
            said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            raise BadInputError(f"the recorded command cannot be run here: {said[-1] if said else done.stderr[-500:]}")
        again = read_json(file)
    then = again.pop("manifest")
    for name in ("weights", "data", "seeds"):
        yield compared(name, manifest.get(name), then[name])
    yield compared("results", {key: value for key, value in results.items() if key != "manifest"}, again)
