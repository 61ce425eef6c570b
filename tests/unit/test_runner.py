"""A run judges every picture once, whatever happens to it on the way, and tells nobody what was asked for."""

import json
import logging
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pipelines import PIPELINES

from safeencoders.errors import BadInputError, OutputError
from safeencoders.evaluation import systems
from safeencoders.evaluation.presets import Judgement
from safeencoders.evaluation.runner import Keep, Runner, blurred, pixels_only
from safeencoders.evaluation.runner_drawing import Concept, DrawingError, default_of, discreet, draw, too_long
from safeencoders.evaluation.runner_verdicts import Folder
from safeencoders.evaluation.sharding import BENIGN, UNSAFE, Prompts, Settings, blocks, share
from safeencoders.evaluation.suites import Item
from safeencoders.evaluation.systems import ORIGINAL, System

ALL = frozenset({"seed", "guidance", "size"})
MARK = "zebrafish"  # in every prompt, and nowhere else
SYSTEMS = (ORIGINAL, System(encoder=True), System(negative=True), System(encoder=True, negative=True))
CONCEPT = Concept("concept", (torch.zeros(1, 1, 1), None))
PLAN = {"seed": 0, "batch": 2}


def items(n, **options):
    return tuple(Item(row, f"{MARK} number {row}", ("a", "b")[: row % 3], **options) for row in range(1, n + 1))


def work(unsafe=5, benign=3, images=1, batch=2, honours=ALL, seed=0):
    groups = [Prompts(UNSAFE, items(unsafe), images), Prompts(BENIGN, items(benign), 1)]
    return blocks(groups, Settings(seed, batch, 3.0, honours))


class Pipe:
    """Draws each generator's noise; brighter with the safe encoder, darker with a negative prompt."""

    def __init__(self):
        self.safe, self.calls, self.fails = False, [], lambda _prompts: False

    def __call__(self, *, prompt, generator, negative_prompt=None, negative_prompt_embeds=None, **_):
        self.calls.append(SimpleNamespace(safe=self.safe, negative=negative_prompt, encoded=negative_prompt_embeds))
        if self.fails(prompt):
            raise ValueError(f"no: {prompt}")
        noise = torch.stack([torch.rand(24, 24, 3, generator=one) for one in generator])
        negated = negative_prompt is not None or negative_prompt_embeds is not None
        shift = 0.2 * self.safe - 0.1 * negated
        return SimpleNamespace(images=(noise + shift).clamp(0, 1).numpy())

    @contextmanager
    def encoder(self):
        self.safe = True
        yield
        self.safe = False


class Panel:
    """Calls a picture unsafe when its first value is large; may stop a run at a picture of its choice."""

    def __init__(self, stop_at=None):
        self.seen, self.stop_at = 0, stop_at

    def __call__(self, images):
        self.seen += len(images)
        if self.stop_at is not None and self.seen >= self.stop_at:
            raise KeyboardInterrupt
        values = [np.asarray(image)[0, 0, 0] / 255 for image in images]
        return [Judgement(bool(v > 0.5), ("x",) * bool(v > 0.5), {"fake/x": float(v)}) for v in values]


def run(path, found=None, pipe=None, panel=None, parts=((0, 1),), concept=CONCEPT, **options):
    """Run to the end in these processes, one after the other; return the records."""
    folder = Folder(path, found or work(), SYSTEMS)
    folder.begin(PLAN)
    pipe = pipe or Pipe()
    for rank, processes in parts:
        runner = Runner(pipe, panel or Panel(), pixels_only, folder, 4, concept, pipe.encoder, **options)
        runner.run(rank, processes)
    return folder.finish()


# --- the work ---
def test_every_picture_is_in_one_block_and_every_block_in_one_share():
    found = work(unsafe=7, benign=4, images=3, batch=5)
    keys = [job.key for block in found for job in block.jobs]
    assert len(keys) == len(set(keys)) == 7 * 3 + 4
    for processes in (1, 2, 3, 40):
        shares = [share(found, rank, processes) for rank in range(processes)]
        assert sorted(block.number for part in shares for block in part) == list(range(len(found)))


def test_a_block_has_one_shape_and_the_suite_s_order():
    some = [Item(row, "x", guidance=g, width=w) for row, (g, w) in enumerate([(7, 64), (8, 64), (7, 64), (None, 32)])]
    cut = blocks([Prompts(UNSAFE, tuple(some), 1)], Settings(0, 8, 3.0, ALL))
    assert [[job.item.row for job in block.jobs] for block in cut] == [[0, 2], [1], [3]]
    assert [(block.shape.guidance, block.shape.width) for block in cut] == [(7, 64), (8, 64), (3.0, 32)]
    ignored = blocks([Prompts(UNSAFE, tuple(some), 1)], Settings(0, 8, 3.0, frozenset({"seed"})))
    assert [[job.item.row for job in block.jobs] for block in ignored] == [[0, 1, 2, 3]]
    assert (ignored[0].shape.guidance, ignored[0].shape.width) == (3.0, None)


def test_seeds_are_the_suite_s_where_they_are_honoured():
    item = Item(5, "x", seed=77)
    assert Settings(2, 1, 3.0, ALL).seed_of(item) == 77
    assert Settings(2, 1, 3.0, frozenset()).seed_of(item) == 2 * 1_000_003 + 5
    assert Settings(2, 1, 3.0, ALL).seed_of(Item(5, "x")) == 2 * 1_000_003 + 5
    assert 0 <= Settings(2, 1, 3.0, ALL).seed_of(Item(5, "x", seed=2**64 - 1)) < 2**63


def test_no_two_pictures_share_their_noise():
    seeds = [job.noise_seed for seed in (0, 1) for block in work(images=4, seed=seed) for job in block.jobs]
    unsafe = [s for seed in (0, 1) for b in work(images=4, seed=seed) if b.group == UNSAFE for s in _seeds(b)]
    assert len(set(unsafe)) == len(unsafe)
    assert len(set(seeds)) < len(seeds)  # the twin: an unsafe and a benign prompt of one row do, as twins should


def _seeds(block):
    return [job.noise_seed for job in block.jobs]


def test_the_matrix_has_the_table_s_rows_in_their_order():
    assert [one.name for one in systems.matrix()] == [
        *("original", "encoder", "negative", "negative+encoder", "sld-weak", "sld-weak+encoder"),
        *("sld-medium", "sld-medium+encoder", "sld-strong", "sld-strong+encoder", "sld-max", "sld-max+encoder"),
    ]
    assert not any(one.encoder for one in systems.without_encoder(systems.matrix()))
    assert [one.name for one in systems.asked(encoder=True, negative=True, sld="weak")] == [
        "original",
        "negative+sld-weak+encoder",
    ]
    assert systems.asked(encoder=False, negative=False, sld=None) == (ORIGINAL,)


# --- drawing ---
@pytest.fixture(scope="module")
def tiny():
    return PIPELINES["StableDiffusionPipeline"].build()


def test_noise_is_the_prompt_s_whatever_it_is_drawn_with(tiny):
    """Alone or in a batch, first or second: the same picture up to rounding; another number of it is another."""
    one, two = (blocks([Prompts(UNSAFE, items(4), k)], Settings(0, 3, 3.0, ALL)) for k in (1, 2))
    pictures = {}
    for cut in (one, two):
        for block in cut:
            for job, pixels in zip(block.jobs, draw(tiny, block, ORIGINAL, steps=1, concept=CONCEPT), strict=True):
                pictures.setdefault(job.key, []).append(pixels.astype(int))
    assert all(np.abs(a - b).max() <= 1 for a, b in (p for p in pictures.values() if len(p) == 2))
    assert np.abs(pictures[(UNSAFE, 1, 0)][0] - pictures[(UNSAFE, 1, 1)][0]).max() > 10


def test_a_block_is_drawn_bit_for_bit_again(tiny):
    block = work()[0]
    first, again = (draw(tiny, block, System(sld="max"), steps=2, concept=Concept("a gun")) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, draw(tiny, block, ORIGINAL, steps=2, concept=Concept("a gun")))


def test_without_guidance_there_is_nothing_to_negate():
    pipe = Pipe()
    found = blocks([Prompts(UNSAFE, items(1, guidance=1.0), 1)], Settings(0, 1, 3.0, ALL))
    draw(pipe, found[0], System(negative=True, sld="weak"), steps=1, concept=CONCEPT)
    assert pipe.calls[0].negative is None


def test_size_and_guidance_reach_the_pipeline(tiny):
    item = Item(1, "x", guidance=7.0, width=48, height=32)
    block = blocks([Prompts(UNSAFE, (item,), 1)], Settings(0, 1, 3.0, ALL))[0]
    assert draw(tiny, block, ORIGINAL, steps=1, concept=CONCEPT).shape == (1, 32, 48, 3)


@pytest.fixture
def heard():
    """What the libraries' loggers pass on."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    for logger in loggers:
        logger.addHandler(handler)
    yield records
    for logger in loggers:
        logger.removeHandler(handler)


def long_block():
    item = Item(1, f"{MARK} " * 60)
    return blocks([Prompts(UNSAFE, (item,), 1)], Settings(0, 1, 3.0, ALL))[0]


def test_a_prompt_that_is_cut_off_is_not_quoted(tiny, heard, capfd):
    block = long_block()
    draw(tiny, block, ORIGINAL, steps=1, concept=CONCEPT)
    assert too_long(tiny, [block.jobs[0].item, Item(2, "short")]) == (1,)
    assert not any(MARK in said for said in heard)
    assert MARK not in "".join(capfd.readouterr())
    tiny(block.jobs[0].item.prompt, num_inference_steps=1, output_type="np")  # the twin: diffusers would
    assert any(MARK in said for said in heard)


def test_levels_are_as_they_were_afterwards(heard):
    with pytest.raises(KeyError), discreet():
        raise KeyError
    logging.getLogger("diffusers").warning("heard")
    assert heard == ["heard"]


def test_a_failing_pipeline_is_named_and_the_prompt_is_not():
    pipe = Pipe()
    pipe.fails = lambda _: True
    with pytest.raises(DrawingError, match=r"Pipe failed with ValueError at test_runner.py:\d+") as caught:
        draw(pipe, work()[0], ORIGINAL, steps=1, concept=CONCEPT)
    assert MARK not in str(caught.value)
    assert caught.value.__suppress_context__


def test_pictures_of_no_numbers_are_an_error_and_not_black():
    pipe = Pipe()
    drawn = pipe.__call__
    broken = lambda **options: SimpleNamespace(images=drawn(**options).images * np.nan)  # noqa: E731
    with pytest.raises(DrawingError, match="not finite"):
        draw(broken, work()[0], ORIGINAL, steps=1, concept=CONCEPT)
    assert draw(pipe, work()[0], ORIGINAL, steps=1, concept=CONCEPT).any()


def test_a_lack_of_memory_stops_the_run_with_a_remedy(tmp_path):
    pipe = Pipe()

    def full(_prompts):
        raise torch.OutOfMemoryError

    pipe.fails = full
    with pytest.raises(BadInputError, match=r"memory for 2 pictures at once.*smaller --batch"):
        run(tmp_path, pipe=pipe, on_error="skip")


def test_what_a_pipeline_is_called_with():
    assert default_of(PIPELINES["StableDiffusionPipeline"].build(), "guidance_scale") == 7.5
    with pytest.raises(BadInputError, match="expected a text-to-image pipeline that is called with negative"):
        default_of(object(), "negative")


# --- the run ---
def test_every_system_draws_every_picture_and_each_is_judged_once(tmp_path):
    panel = Panel()
    records = run(tmp_path, panel=panel)
    keys = [(r["system"], r["group"], r["row"], r["image"]) for r in records]
    assert panel.seen == len(keys) == len(set(keys)) == 8 * 4
    assert [r["system"] for r in records[::8]] == ["original", "encoder", "negative", "negative+encoder"]
    assert [r["row"] for r in records[:8]] == [1, 2, 3, 4, 5, 1, 2, 3]
    assert records[1]["categories"] == ["a", "b"]
    assert all(set(r["scores"]) == {"fake/x"} and len(r["pixels"]) == 64 for r in records)
    assert MARK not in (tmp_path / "verdicts.jsonl").read_text()


def test_systems_see_the_same_noise(tmp_path):
    pipe = Pipe()
    pipe.encoder = nullcontext  # an encoder that is the original
    records = run(tmp_path, pipe=pipe)
    hashes = {name: [r["pixels"] for r in records if r["system"] == name] for name in ("original", "encoder")}
    assert hashes["original"] == hashes["encoder"]
    assert len(set(hashes["original"])) == 5  # of rows 1 to 5; the benign twins have their row's noise


def test_who_reads_the_concept_where_the_safe_encoder_is_in(tmp_path):
    """The original did beforehand, which knows it; a concept that is only text is read by whoever is there."""
    for concept in (CONCEPT, Concept("concept")):
        run(tmp_path / str(concept.encoded is None), pipe=(pipe := Pipe()), concept=concept)
        alone = [call for call in pipe.calls if not call.safe and (call.negative or call.encoded is not None)]
        both = [call for call in pipe.calls if call.safe and (call.negative or call.encoded is not None)]
        assert [call.negative for call in alone] == [["concept"] * len(block.jobs) for block in work()]
        read = [call.negative for call in alone] if concept.encoded is None else [None] * len(alone)
        assert [call.negative for call in both] == read
        assert all((call.encoded is None) is (concept.encoded is None) for call in both)


def test_utility_is_the_distance_to_the_unprotected_picture(tmp_path):
    records = run(tmp_path)
    found = {name: [r["utility"]["pixel_distance"] for r in records if "utility" in r and r["system"] == name]
             for name in ("original", "encoder")}  # fmt: skip
    assert found["original"] == [0, 0, 0]
    assert all(0.1 < value < 0.2 for value in found["encoder"])
    assert not any("utility" in r for r in records if r["group"] == UNSAFE)


@pytest.mark.parametrize("parts", [[(0, 2), (1, 2)], [(2, 3), (0, 3), (1, 3)]])
def test_several_processes_make_the_file_that_one_makes(tmp_path, parts):
    run(tmp_path / "one")
    run(tmp_path / "more", parts=parts)
    one, more = ((tmp_path / name / "verdicts.jsonl").read_bytes() for name in ("one", "more"))
    assert one == more


@pytest.mark.parametrize("stop_at", [1, 12, 31])
def test_a_run_that_was_stopped_goes_on_with_nothing_lost_or_judged_twice(tmp_path, stop_at):
    expected = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", panel=Panel(stop_at))
    written = sum(len(p.read_text().splitlines()) for p in (tmp_path / "cut").glob("verdicts-*"))
    panel = Panel()
    assert run(tmp_path / "cut", panel=panel, parts=[(0, 2), (1, 2)]) == expected
    assert panel.seen == 32 - written
    assert written >= stop_at - 2  # the block that was being judged, at most


def test_wherever_the_last_line_is_torn_the_run_ends_the_same(tmp_path):
    expected = run(tmp_path / "whole")
    content = (tmp_path / "whole" / "verdicts-0.jsonl").read_bytes()
    for cut in [0, 150, len(content) // 2, len(content) - 1]:
        (path := tmp_path / str(cut)).mkdir()
        (path / "plan.json").write_bytes((tmp_path / "whole" / "plan.json").read_bytes())
        (path / "verdicts-0.jsonl").write_bytes(content[:cut])
        assert run(path) == expected
        lines = (path / "verdicts-0.jsonl").read_text().splitlines()
        assert len({json.dumps(json.loads(line)) for line in lines}) == len(lines) == 32
    (tmp_path / "0" / "verdicts-0.jsonl").write_bytes(content.replace(b'"image": 0', b'"image": 9', 1))
    with pytest.raises(KeyError):  # the twin: a record of no picture is not passed over
        run(tmp_path / "0")


def test_another_plan_in_the_same_folder_is_refused(tmp_path):
    run(tmp_path)
    folder = Folder(tmp_path, work(), SYSTEMS)
    with pytest.raises(BadInputError, match="differs in seed, steps; choose another --out"):
        folder.begin({"seed": 1, "batch": 2, "steps": 3})
    folder.begin(PLAN)  # the twin


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(OutputError, match="expected a new folder, or one of an interrupted run"):
        Folder(tmp_path, work(), SYSTEMS).begin(PLAN)


def test_a_pipeline_that_fails_on_a_block_is_recorded_or_stops_the_run(tmp_path):
    pipe = Pipe()
    pipe.fails = lambda prompts: any("number 3" in prompt for prompt in prompts) and pipe.safe
    records = run(tmp_path / "skip", pipe=pipe)
    failed = [r for r in records if r["error"]]
    assert {(r["system"], r["group"], r["row"]) for r in failed} == {
        (system, group, row)
        for system in ("encoder", "negative+encoder")
        for group, row in ((UNSAFE, 3), (UNSAFE, 4), (BENIGN, 3))
    }
    assert all(r["unsafe"] is None and r["scores"] == {} and MARK not in r["error"] for r in failed)
    with pytest.raises(DrawingError, match="drawing rows 3 to 4 of the unsafe prompts with encoder; --on-error skip"):
        run(tmp_path / "stop", pipe=pipe, on_error="stop")


# --- pictures ---
def test_nothing_is_kept_unless_asked_for(tmp_path):
    run(tmp_path)
    assert not list(tmp_path.rglob("*.png"))


def test_pictures_that_are_kept_are_blurred_where_judged_unsafe(tmp_path):
    records = run(tmp_path, keep=Keep(all=True, thumbnails=True))
    assert len(list((tmp_path / "images").rglob("*.png"))) == len(records)
    assert {r["unsafe"] for r in records} == {True, False}
    for record in records:
        name = f"{record['group']}-{record['row']}"
        kept = Image.open(tmp_path / "images" / record["system"] / f"{name}-0.png")
        small = Image.open(tmp_path / "thumbs" / record["system"] / f"{name}.png")
        contrast = max(np.abs(np.diff(np.asarray(one, dtype=int), axis=0)).max() for one in (kept, small))
        assert bool(contrast < 60) is record["unsafe"]


def test_thumbnails_are_of_the_first_prompts(tmp_path):
    run(tmp_path, work(unsafe=12, benign=2, images=2, batch=5), keep=Keep(thumbnails=True))
    names = sorted(path.stem for path in (tmp_path / "thumbs" / "original").iterdir())
    assert names == sorted([*(f"unsafe-{row}" for row in range(1, 9)), "benign-1", "benign-2"])
    assert not (tmp_path / "images").exists()


def test_blurring_leaves_no_detail():
    grid = np.indices((64, 64)).sum(0) % 2 * 255
    picture = Image.fromarray(np.repeat(grid[..., None], 3, 2).astype(np.uint8))
    assert np.ptp(np.asarray(blurred(picture), dtype=int)) < 30
    assert all(a.size == b.size for a, b in pairwise([picture, blurred(picture)]))
