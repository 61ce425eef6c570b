"""`safeencoders evaluate generation` on prompts of any suite, pipeline and judges: plan, draw, judge, table."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safeencoders.errors import BadInputError

if TYPE_CHECKING:
    from safeencoders.cli.generation_plan import Plan


@dataclass(frozen=True)
class Asked:
    """The options of the command, as given; None is the default of what the others choose."""

    encoder: str = "pictoworld"
    pipeline: str | None = None
    prompts: str | None = None
    prompts_file: Path | None = None
    benign: str | None = None
    benign_file: Path | None = None
    judges: str | None = None
    judge_option: tuple[str, ...] = ()
    calibration: Path | None = None
    images_per_prompt: int | None = None
    data: str = "pictoworld:test"
    world_seed: int | None = None
    n: int | None = None
    seed: int = 0
    negative_prompt: bool = False
    sld: str | None = None
    concept_encoder: Literal["original", "safe"] = "original"
    matrix: bool = False
    dry_run: bool = False
    out: Path | None = None
    keep_images: bool = False
    on_error: Literal["skip", "stop"] = "skip"
    dtype: str | None = None
    steps: int | None = None
    batch: int | None = None
    json_file: Path | None = None
    report: Path | None = None

    @property
    def short(self) -> bool:
        """Whether this is the world's own short form: nothing asked for but an encoder and the world's data."""
        named = ("encoder", "data", "world_seed", "n", "seed", "json_file")
        plain = Asked(**{name: getattr(self, name) for name in named})
        return self == plain


def run_generation(asked: Asked) -> None:
    """Measure how often a pipeline draws what is unsafe, as it is and with what should prevent it.

    Under torchrun the processes share the work; the first one prints and writes.

    Raises:
        BadInputError, UnknownNameError: options that do not go together, or name nothing.
        OutputError: a result cannot be written.
        MissingExtraError: an optional package is not installed.
    """
    from safeencoders.cli import generation_output as output
    from safeencoders.cli.generation_plan import make_plan
    from safeencoders.cli.measure import refuse_unwritable

    begin = time.monotonic()
    refuse_unwritable(asked.json_file)
    state = _processes()
    with _folder(asked, state.num_processes) as folder:
        asked = replace(asked, out=folder)
        plan = make_plan(asked, state.device)
        if state.is_main_process:
            output.announce(plan, state.num_processes)
        if asked.dry_run:
            if state.is_main_process:
                output.write_plan(asked, plan, begin)
            return
        records = _draw_and_judge(asked, plan, folder, state)
        if state.is_main_process:
            output.write(asked, plan, records, folder, begin)
        state.wait_for_everyone()


def _processes() -> Any:  # noqa: ANN401  accelerate's PartialState
    try:
        from accelerate import PartialState  # type: ignore[import-untyped]  # no py.typed marker
    except ImportError as error:
        from safeencoders.errors import MissingExtraError

        raise MissingExtraError("accelerate", "diffusers") from error
    import torch

    # On a CPU, torchrun's processes would not meet without being told; and one may wait for another's long block.
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=7))


@contextmanager
def _folder(asked: Asked, processes: int) -> Iterator[Path]:
    """Give the work folder: the one asked for, one beside the JSON, or one that is gone afterwards."""
    if asked.out is not None:
        yield asked.out
    elif asked.json_file is not None:
        yield asked.json_file.with_suffix(".run")
    elif processes > 1:
        raise BadInputError("expected --out or --json with several processes: they meet in a folder")
    else:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary) / "run"


def _draw_and_judge(asked: Asked, plan: Plan, path: Path, state: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Do the work, and return all records on the first process, none on the others."""
    from safeencoders.cli.generation_utility import measure_of
    from safeencoders.evaluation.runner import Keep, Runner
    from safeencoders.evaluation.runner_verdicts import Folder

    folder = Folder(path, plan.blocks, plan.systems)
    if state.is_main_process:
        folder.begin(plan.identity)
    state.wait_for_everyone()
    runner = Runner(
        plan.pipe,
        plan.panel,
        measure_of(plan),
        folder,
        plan.steps,
        plan.concept,
        plan.encoder.inside,
        asked.on_error,
        Keep(all=asked.keep_images, thumbnails=asked.report is not None),
    )
    runner.run(state.process_index, state.num_processes)
    state.wait_for_everyone()
    return folder.finish() if state.is_main_process else []
