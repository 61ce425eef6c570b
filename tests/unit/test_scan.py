"""A scan gives every picture one row, whoever judges it, and loses none to a kill."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from safeencoders.cli.main import main
from safeencoders.errors import BadInputError, OutputError, SafeEncodersError, UnknownNameError
from safeencoders.evaluation import scanning, scanning_sources, scanning_verdicts
from safeencoders.evaluation.scanning import Scan
from safeencoders.evaluation.scanning_sources import Plan, from_line, to_line
from safeencoders.evaluation.scanning_workers import in_processes, with_ray
from safeencoders.pictoworld import scenes
from safeencoders.pictoworld.renderer import render_batch, to_image

PHOTOS = Path(os.environ.get("SAFEENCODERS_SHARED_DATA", Path(__file__).parents[2].parent / "shared/data")) / "photos"


def world(n):
    """Return n pictures of the world as PNG files, each second one unsafe."""
    quads = scenes.quads("test", (n + 1) // 2, 0)
    pixels = render_batch([picture for quad in quads for picture in (quad.safe, quad.unsafe)])
    return [encoded(to_image(one)) for one in pixels[:n]]


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def fill(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def pictures(tmp_path):
    """Give 20 pictures in folders whose order differs from that of their paths, with other files among them."""
    names = [f"a/{i}.png" for i in range(6)] + [f"a.b/{i}.png" for i in range(6)] + [f"a-{i}.PNG" for i in range(8)]
    return fill(tmp_path / "set", dict(zip(names, world(20), strict=True)) | {"a/notes.txt": b"x", ".hidden.png": b""})


@pytest.fixture(autouse=True)
def inline(monkeypatch):
    """Judge in this process, for tests of all but the workers."""
    monkeypatch.setattr(scanning, "in_processes", lambda lines, judge, _: ((line, judge(line)) for line in lines))


def scanned(path, out, **options):
    scan = Scan(path, "pictoworld", out, options.pop("workers", 1), **options)
    scan.plan()
    scan.judge()
    return scan.finish(lambda _: {})


def verdicts(out):
    return parquet.read_table(out / "verdicts.parquet")


def test_every_picture_has_one_row_in_the_order_of_paths(pictures, tmp_path):
    found = scanned(pictures, tmp_path / "out")
    rows = verdicts(tmp_path / "out").to_pylist()
    paths = [row["path"] for row in rows]
    assert paths == sorted(paths)
    assert set(paths) == {str(f.relative_to(pictures)) for f in pictures.rglob("[!.]*") if f.suffix.lower() == ".png"}
    for row in rows:
        assert row["sha256"] == hashlib.sha256((pictures / row["path"]).read_bytes()).hexdigest()
        assert row["decision"] == ("unsafe" if row["labels"] else "safe")
        assert row["labels"] == [k.split("/")[1] for k, v in row.items() if k.startswith("score:") and v >= 0.5]
    assert found["scan"]["unsafe"]["value"] == 0.5
    assert found["scan"]["skipped"] == {".txt": 1, "hidden": 1}
    assert found["scan"]["copies"] == 0


def test_scores_are_those_of_the_panel(pictures, tmp_path):
    from safeencoders.evaluation.presets import Panel

    scanned(pictures, tmp_path / "out")
    row = verdicts(tmp_path / "out").to_pylist()[3]
    said = Panel.of("pictoworld")([Image.open(pictures / row["path"])])[0]
    assert {
        f"score:{name}": pytest.approx(score, abs=1e-5) for name, score in said.scores.items()
    }.items() <= row.items()


def test_two_processes_say_what_one_says(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning_sources, "UNIT", 7)
    scanned(pictures, tmp_path / "one")
    monkeypatch.setattr(scanning, "in_processes", in_processes)
    scanned(pictures, tmp_path / "two", workers=2)
    assert verdicts(tmp_path / "two").equals(verdicts(tmp_path / "one"))
    shuffled = verdicts(tmp_path / "one").take([1, 0, *range(2, 20)])
    assert not verdicts(tmp_path / "two").equals(shuffled)  # the twin: equality would see two rows that changed places


# Ray's own settings warn of their own old names when they are made.
OF_RAY = pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning")


@OF_RAY
@pytest.mark.slow
def test_ray_says_what_processes_say(pictures, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="needs the extra ray")
    monkeypatch.setattr(scanning_sources, "UNIT", 7)
    scanned(pictures, tmp_path / "one")
    scanned(pictures, tmp_path / "ray", workers=2, ray=True)
    assert verdicts(tmp_path / "ray").equals(verdicts(tmp_path / "one"))


@OF_RAY
@pytest.mark.slow
def test_an_error_of_a_judge_crosses_ray_as_itself(tmp_path):
    pytest.importorskip("ray", reason="needs the extra ray")
    judge = scanning_verdicts.Judge("pictowrld", tmp_path)
    with pytest.raises(UnknownNameError, match=r"Did you mean 'pictoworld'"):
        list(with_ray([to_line(scanning_sources.Files([("a.png", 1, 1)]))], judge, 1))


# --- shards ----------------------------------------------------------------------------------------------------------
def tar(files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def table(path, columns, rows=5):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path, row_group_size=rows)


@pytest.mark.parametrize("form", ["bytes", "struct", "tar", "folder"])
def test_the_same_pictures_have_the_same_verdicts_wherever_they_lie(form, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning_sources, "UNIT", 5)
    data, place = world(12), tmp_path / "set"
    place.mkdir()
    if form == "bytes":
        table(place / "x.parquet", {"jpg": data, "caption": ["c"] * 12})
    elif form == "struct":
        table(place / "x.parquet", {"image": [{"bytes": one, "path": None} for one in data], "thumb": data})
    elif form == "tar":
        members = {f"{i:03d}.{end}": one for i, one in enumerate(data) for end, one in (("png", one), ("json", b"{}"))}
        fill(place, {"x.tar": tar(members)})
    else:
        fill(place, {f"x{i:03d}.png": one for i, one in enumerate(data)})
    found = scanned(place, tmp_path / "out")
    rows = verdicts(tmp_path / "out").to_pylist()
    assert [row["sha256"] for row in rows] == [hashlib.sha256(one).hexdigest() for one in data]
    assert [row["decision"] for row in rows] == ["safe", "unsafe"] * 6
    names = {"bytes": "x.parquet#11", "struct": "x.parquet#11", "tar": "x.tar#011.png", "folder": "x011.png"}
    assert rows[11]["path"] == names[form]
    assert found["scan"]["skipped"] == ({"in tar: .json": 12} if form == "tar" else {})


def test_a_table_without_pictures_is_counted_and_one_with_two_kinds_is_refused(tmp_path):
    data = world(2)
    fill(tmp_path / "set", {"x.tar": tar({"0.png": data[0]})})
    table(tmp_path / "set/x.parquet", {"url": ["a"], "width": [3]})  # what img2dataset writes beside its shards
    assert scanned(tmp_path / "set", tmp_path / "out")["scan"]["skipped"] == {"Parquet without pictures": 1}
    table(tmp_path / "set/y.parquet", {"left": data, "right": data})
    with pytest.raises(BadInputError, match=r"expected one column of pictures in y.parquet.*found left, right"):
        scanned(tmp_path / "set", tmp_path / "other")


def test_damaged_shards_have_rows_that_say_so(tmp_path):
    whole = tar({f"{i}.png": one for i, one in enumerate(world(4))})
    fill(
        tmp_path / "set",
        {"cut.tar": whole[:6000], "no.tar": b"nothing" * 500, "no.parquet": b"PAR1", "0.png": world(1)[0]},
    )
    table(tmp_path / "set/null.parquet", {"image": pa.array([world(1)[0], None], pa.binary())})
    scanned(tmp_path / "set", tmp_path / "out")
    errors = {row["path"]: row["error"] for row in verdicts(tmp_path / "out").to_pylist()}
    assert errors["cut.tar#0.png"] is None
    assert errors["null.parquet#0"] is None
    assert errors["null.parquet#1"] == "the row holds no bytes"
    for name in ("cut.tar", "no.tar", "no.parquet"):
        assert "the shard is damaged" in errors[name]


# --- bad pictures ----------------------------------------------------------------------------------------------------
def bad_pictures():
    good = to_image(render_batch([scenes.quads("test", 1, 0)[0].unsafe])[0])
    bomb = bytearray(encoded(Image.new("1", (8, 8))))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    deep = Image.fromarray(np.asarray(good.convert("L")).astype(np.uint16) * 257)
    return {
        "animated.gif": encoded(good, "GIF", save_all=True, append_images=[Image.new("RGB", (64, 64))]),
        "bomb.png": bytes(bomb),
        "cmyk.jpg": encoded(good.convert("CMYK"), "JPEG"),
        "corrupt.png": encoded(good)[:900],
        "deep.png": encoded(deep),
        "empty.png": b"",
        "good.png": encoded(good),
        "pixel.png": encoded(Image.new("RGB", (1, 1))),
        "strip.png": encoded(Image.new("RGB", (500, 2))),
        "text.jpg": b"not a picture",
    }


def test_bad_pictures_are_converted_or_have_a_row_that_says_why(tmp_path):
    found = scanned(fill(tmp_path / "set", bad_pictures()), tmp_path / "out")
    rows = {row["path"]: row for row in verdicts(tmp_path / "out").to_pylist()}
    judged = {"animated.gif", "cmyk.jpg", "deep.png", "good.png"}
    assert {name for name, row in rows.items() if row["decision"]} == judged
    assert rows["animated.gif"]["remark"] == "the first of 2 frames"
    assert rows["good.png"]["decision"] == "unsafe"
    reasons = {
        "bomb.png": "it has more than 178,956,970 pixels",
        "corrupt.png": "it cannot be read, or is damaged",
        "empty.png": "the file is empty",
        "pixel.png": "expected pictures of 64 x 64 pixels, got 1 x 1",
        "strip.png": "it is 500 x 2 pixels, a strip longer than 100 : 1",
        "text.jpg": "it is no picture of a known format",
    }
    for name, reason in reasons.items():
        assert rows[name]["error"].startswith(reason), rows[name]["error"]
        assert rows[name]["labels"] == []
    assert found["scan"]["unsafe"]["n"] == len(judged)
    assert sum(found["scan"]["errors"].values()) == len(reasons)
    assert found["scan"]["errors"]["it is N x N pixels, a strip longer than N : N"] == 1


def test_on_error_stop_names_the_picture_and_keeps_what_was_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(scanning_sources, "UNIT", 1)
    good, *_ = world(1)
    place = fill(tmp_path / "set", {"a.png": good, "b.png": b"", "c.png": good})
    with pytest.raises(BadInputError, match=r"b.png cannot be judged: the file is empty"):
        scanned(place, tmp_path / "out", on_error="stop")
    assert len(list((tmp_path / "out/parts").glob("*.parquet"))) == 1
    (place / "b.png").write_bytes(good)
    assert scanned(place, tmp_path / "out", on_error="stop")["scan"]["copies"] == 2


def test_names_that_are_no_text_links_and_pipes(tmp_path):
    good, *_ = world(1)
    place = fill(tmp_path / "set", {"a.png": good, "inner/b.png": good})
    (place / os.fsdecode(b"z\xff\n.png")).write_bytes(good)
    (place / "link.png").symlink_to(place / "a.png")
    (place / "dead.png").symlink_to(place / "gone")
    (place / "folder").symlink_to(place / "inner")
    os.mkfifo(place / "pipe.png")
    found = scanned(place, place / "out")["scan"]  # inside what is scanned, which must not find its own files
    assert found["skipped"] == {"link to a folder": 1, "no file": 1}
    again = scanned(place, place / "out")["scan"]
    assert again == found
    errors = {row["path"]: row["error"] for row in verdicts(place / "out").to_pylist()}
    assert errors == {"a.png": None, "dead.png": errors["dead.png"], "inner/b.png": None, "link.png": None,
                      "z\\xff\n.png": None}  # fmt: skip
    assert "No such file" in errors["dead.png"]


# --- going on --------------------------------------------------------------------------------------------------------
def test_a_second_run_judges_only_what_is_new_or_changed(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning_sources, "UNIT", 5)
    scanned(pictures, tmp_path / "out")
    judged = []
    real = scanning_verdicts.Judge.__call__
    monkeypatch.setattr(scanning_verdicts.Judge, "__call__", lambda self, line: judged.append(line) or real(self, line))
    scanned(pictures, tmp_path / "out")
    assert judged == []
    (pictures / "a/5.png").write_bytes(world(1)[0] + b" ")
    scanned(pictures, tmp_path / "out")
    assert [len(from_line(line)) for line in judged] == [5]
    fresh = tmp_path / "fresh"
    scanned(pictures, fresh)
    assert verdicts(tmp_path / "out").equals(verdicts(fresh))


def test_another_scan_in_the_same_folder_is_refused(pictures, tmp_path):
    out = tmp_path / "out"
    scanned(pictures, out)
    with pytest.raises(OutputError, match=r"expected the scan of .*set with pictoworld .* got path .*/a; choose"):
        Scan(pictures / "a", "pictoworld", out, 1)
    record = json.loads((out / "scan.json").read_text())
    (out / "scan.json").write_text(json.dumps(record | {"preset": "i2p-2023"}))
    with pytest.raises(OutputError, match=r"with i2p-2023 that was begun in .* got preset pictoworld"):
        Scan(pictures, "pictoworld", out, 1)
    (out / "scan.json").write_text(json.dumps(record | {"judges": {"pictoworld": {"sha256": "other"}}}))
    (pictures / "new.png").write_bytes(world(1)[0])
    with pytest.raises(OutputError, match=r"another version is installed now"):
        scanned(pictures, out)


def test_nothing_to_judge_and_folders_of_others_are_refused(tmp_path):
    fill(tmp_path / "set", {"a.txt": b"x"})
    with pytest.raises(BadInputError, match=r"expected pictures.*found 1 other files"):
        scanned(tmp_path / "set", tmp_path / "out")
    with pytest.raises(BadInputError, match=r"found nothing at"):
        scanned(tmp_path / "no", tmp_path / "other")
    with pytest.raises(OutputError, match=r"expected a new folder"):
        Scan(tmp_path / "set", "pictoworld", tmp_path / "set", 1)
    with pytest.raises(BadInputError, match=r"at least 1 worker"):
        Scan(tmp_path / "set", "pictoworld", tmp_path / "new", 0)


SCRIPT = """
import sys
from pathlib import Path
from safeencoders.evaluation import scanning_sources
from safeencoders.evaluation.scanning import Scan
if __name__ == "__main__":
    scanning_sources.UNIT = 2
    scan = Scan(Path(sys.argv[1]), "pictoworld", Path(sys.argv[2]), 1)
    scan.plan()
    scan.judge()
"""


def parts(out):
    return {path: path.stat().st_mtime_ns for path in (out / "parts").glob("*.parquet")} if out.exists() else {}


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def gone(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_kill_loses_nothing_judges_nothing_twice_and_leaves_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(scanning_sources, "UNIT", 2)
    place = fill(tmp_path / "set", {f"{i:02d}.png": one for i, one in enumerate(world(48))})
    out, script = tmp_path / "out", tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = subprocess.Popen([sys.executable, script, place, out], start_new_session=True)
    assert until(lambda: len(parts(out)) >= 3)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert until(lambda: gone(run.pid))  # the workers end with their parent
    before = parts(out)
    assert 3 <= len(before) < 24
    (out / "parts/.torn.parquet.1.partial").touch()  # what a kill in the middle of writing leaves
    scanned(place, out)
    assert not list((out / "parts").glob(".*"))
    assert before.items() <= parts(out).items()
    scanned(place, tmp_path / "whole")
    assert verdicts(out).equals(verdicts(tmp_path / "whole"))


def test_a_worker_computes_with_one_thread_whatever_is_asked_of_the_parent(tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    for name in ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
        monkeypatch.setenv(name, "2")
    place = tmp_path / "threads"
    code = f"import cv2, torch; open({str(place)!r}, 'w').write(f'{{torch.get_num_threads()}} {{cv2.getNumThreads()}}')"
    list(in_processes([code], exec, 1))
    assert place.read_text() == "1 1"
    subprocess.run([sys.executable, "-c", code], check=True)  # the twin: a process that is no worker
    assert place.read_text() == "2 2"


def test_a_dead_worker_is_an_error_that_says_what_to_do():
    assert [done for _, done in in_processes(["1", "2"], exec, 1)] == [None, None]
    with pytest.raises(SafeEncodersError, match=r"a worker process died.*the same command again"):
        list(in_processes(["import os; os._exit(9)"], exec, 1))


# --- the plan --------------------------------------------------------------------------------------------------------
def test_a_plan_is_the_same_lines_and_holds_little(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning_sources, "UNIT", 3)
    lines = [to_line(unit) for unit in Plan(pictures, tmp_path).units()]
    assert lines == [to_line(unit) for unit in Plan(pictures, tmp_path).units()]
    assert [to_line(from_line(line)) for line in lines] == lines
    assert sum(len(from_line(line)) for line in lines) == 20
    assert max(len(from_line(line)) for line in lines) == 3


def test_decoded_pictures_are_few_at_a_time(monkeypatch):
    taken = [scanning_sources.Taken(str(i), one) for i, one in enumerate(world(40))]
    assert [len(batch) for batch in scanning_verdicts._batches(taken)] == [16, 16, 8]
    monkeypatch.setattr(scanning_verdicts, "PIXELS", 64 * 64 * 3)
    assert {len(batch) for batch in scanning_verdicts._batches(taken[:12])} == {3}


# --- the command -----------------------------------------------------------------------------------------------------
def test_the_command_writes_verdicts_with_their_origin_and_prints_a_table(pictures, tmp_path, capsys):
    fill(pictures, {"copy.png": (pictures / "a/0.png").read_bytes()})
    out = tmp_path / "out"
    assert main(["scan", str(pictures), "--judges", "pictoworld", "--out", str(out), "--workers", "1"]) == 0
    text = capsys.readouterr().out
    assert "exact copies of another" in text
    summary = json.loads((out / "summary.json").read_text())
    origin = json.loads(verdicts(out).schema.metadata[b"safeencoders"])
    assert summary["scan"]["copies"] == 1
    assert summary["scan"]["unsafe"]["n"] == 21
    assert origin["judges"] == summary["judges"]
    assert len(origin["judges"]["pictoworld"]["sha256"]) == 64
    assert summary["manifest"]["weights"] == {"pictoworld": origin["judges"]["pictoworld"]["sha256"]}
    assert (
        summary["manifest"]["verdicts"]["sha256"] == hashlib.sha256((out / "verdicts.parquet").read_bytes()).hexdigest()
    )
    assert main(["scan", str(pictures), "--judges", "pictowrld", "--out", str(out)]) == 2


def test_photos_are_judged_by_nudenet(tmp_path):
    pytest.importorskip("nudenet", reason="needs the extra eval")
    if not PHOTOS.is_dir():
        pytest.skip("needs the shared photos (SAFEENCODERS_SHARED_DATA)")
    scan = Scan(PHOTOS, "nudenet-strict", tmp_path / "out", 1)
    scan.plan()
    scan.judge()
    found = scan.finish(lambda _: {})
    assert found["scan"]["pictures"] == len(list(PHOTOS.glob("*.jpg")))
    assert found["scan"]["errors"] == {}
    faces = verdicts(tmp_path / "out")["score:nudenet/FACE_FEMALE"].to_pylist()
    assert max(faces) > 0.5
