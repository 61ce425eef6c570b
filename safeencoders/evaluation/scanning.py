"""A scan: every picture of a data set judged by a preset's judges, into one Parquet file of verdicts.

The folder of a scan holds what was asked (scan.json), the plan and the verdicts of each of its units (parts/), and at
the end verdicts.parquet and summary.json. A unit's verdicts appear by renaming, under a name that follows from the
unit: after a kill, the same call goes on with what is missing, and pictures that changed meanwhile are judged again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safeencoders.errors import BadInputError, OutputError
from safeencoders.evaluation.presets import presets
from safeencoders.evaluation.scanning_sources import Plan, from_line, to_line
from safeencoders.evaluation.scanning_verdicts import Counts, Judge, first_error, identity_of, join
from safeencoders.evaluation.scanning_workers import in_processes, with_ray
from safeencoders.files import read_json, sha256_file, write_atomically, write_json

VERDICTS, SUMMARY, ASKED = "verdicts.parquet", "summary.json", "scan.json"


@dataclass
class Scan:
    """What to judge, by whom, and where the verdicts go.

    Attributes:
        path: a folder, walked with all folders in it; or one picture, Parquet file or tar file.
        preset: name of the preset.
        out: folder of the scan; a new one, or that of the same scan.
        workers: processes that judge, or actors of Ray's.
        ray: whether Ray does it.
        on_error: "stop" ends the scan at a picture that cannot be judged; "skip" gives it a row that says why.
        options: of the judges.
    """

    path: Path
    preset: str
    out: Path
    workers: int
    ray: bool = False
    on_error: Literal["skip", "stop"] = "skip"
    options: Mapping[str, object] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict, init=False)
    pictures: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Refuse what cannot work before any work is done.

        Raises:
            UnknownNameError: no such preset.
            BadInputError: workers is below 1.
            OutputError: the folder belongs to another scan, or to something else.
        """
        if self.workers < 1:
            raise BadInputError(f"expected at least 1 worker, got {self.workers}")
        presets.get(self.preset)
        self.out = self.out.resolve()
        asked = {"path": str(self.path.resolve()), "preset": self.preset}
        if not (self.out / ASKED).exists():
            if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
                raise OutputError(f"expected a new folder, or one that a scan was begun in, but {self.out} is neither; "
                                  "choose another --out")  # fmt: skip
            return
        before = read_json(self.out / ASKED)
        for name, value in asked.items():
            if before.get(name) != value:
                raise OutputError(f"expected the scan of {before.get('path')} with {before.get('preset')} that was "
                                  f"begun in {self.out}, got {name} {value}; choose another --out")  # fmt: skip

    def plan(self) -> None:
        """Walk the path and write down the units.

        Raises:
            BadInputError: there is nothing to judge.
        """
        plan = Plan(self.path, self.out)
        file = self._parts / "plan.jsonl"
        partial = file.with_suffix(".partial")
        self._parts.mkdir(parents=True, exist_ok=True)
        for torn in self._parts.glob(".*.partial"):  # of a killed run
            torn.unlink()
        if not (self.out / ASKED).exists():
            self._note(None)
        self.pictures = 0
        with partial.open("w", encoding="utf-8") as lines:
            for unit in plan.units():
                self.pictures += len(unit)
                lines.write(to_line(unit) + "\n")
        partial.replace(file)
        self.skipped = dict(plan.skipped.most_common())
        if not self.pictures:
            found = f"{sum(self.skipped.values())} other files" if self.skipped else "nothing"
            raise BadInputError(f"expected pictures, or Parquet or tar files of them, in {self.path}, found {found}; "
                                "check the path")  # fmt: skip

    def judge(self, progress: Callable[[int], object] = lambda _: None) -> None:
        """Judge every unit whose verdicts are not there.

        Args:
            progress: is called with the number of pictures of each unit that is done, those done before too.

        Raises:
            BadInputError: a picture cannot be judged and this was to stop the scan, or the judges' weights are not
                those that the scan was begun with.
        """
        judge = Judge(self.preset, Plan(self.path, self.out).root.resolve(), self.options)
        run = with_ray if self.ray else in_processes
        missing = sum(not part.exists() for _, part in self._units())
        if missing:
            for line, verdicts in run(self._missing(progress), judge, min(self.workers, missing)):
                self._keep(line, verdicts)
                progress(len(from_line(line)))
        else:
            progress(self.pictures)

    def finish(self, about: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Join the verdicts and write the summary.

        Args:
            about: makes the manifest of the judges' weights.

        Returns:
            what summary.json holds.
        """
        judges = read_json(self.out / ASKED)["judges"]
        preset = presets.get(self.preset).to_dict()
        manifest = about(judges)
        counts = self._join({"preset": preset, "judges": judges, "manifest": manifest})
        verdicts = {"file": VERDICTS, "sha256": sha256_file(self.out / VERDICTS)}
        scan = counts.summary() | {"skipped": self.skipped}
        found = {"scan": scan, "preset": preset, "judges": judges, "manifest": manifest | {"verdicts": verdicts}}
        write_json(self.out / SUMMARY, found)
        return found

    def plan_sha256(self) -> str:
        """Return the sha256 of the plan: names, sizes and times of change of all that was judged."""
        return sha256_file(self._parts / "plan.jsonl")

    @property
    def _parts(self) -> Path:
        return self.out / "parts"

    def _units(self) -> Iterator[tuple[str, Path]]:
        with (self._parts / "plan.jsonl").open(encoding="utf-8") as lines:
            yield from ((line, self._part(line)) for line in map(str.strip, lines))

    def _part(self, line: str) -> Path:
        return self._parts / f"{hashlib.sha256(line.encode()).hexdigest()[:32]}.parquet"

    def _missing(self, progress: Callable[[int], object]) -> Iterator[str]:
        for line, part in self._units():
            if part.exists():
                progress(len(from_line(line)))
            else:
                yield line

    def _keep(self, line: str, verdicts: bytes) -> None:
        error = first_error(verdicts) if self.on_error == "stop" else None
        if error is not None:
            raise BadInputError(f"{error[0]} cannot be judged: {error[1]}. What was judged is kept: mend or remove it "
                                "and run the same command again, or leave out --on-error stop")  # fmt: skip
        judges, before = identity_of(verdicts), read_json(self.out / ASKED)["judges"]
        if before is None:
            self._note(judges)
        elif before != judges:
            raise OutputError(f"expected the judges that the scan in {self.out} was begun with, but another version is "
                              "installed now; choose another --out, so that verdicts do not mix")  # fmt: skip
        write_atomically(self._part(line), verdicts)

    def _note(self, judges: Mapping[str, Any] | None) -> None:
        """Write down what was asked, and which judges answer as soon as they are known."""
        write_json(self.out / ASKED, {"path": str(self.path.resolve()), "preset": self.preset, "judges": judges})

    def _join(self, metadata: Mapping[str, Any]) -> Counts:
        partial = self.out / f".{VERDICTS}.partial"
        try:
            counts = join([part for _, part in self._units()], partial, metadata)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        os.replace(partial, self.out / VERDICTS)
        return counts
