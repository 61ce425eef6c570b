"""What a second worker brings to a scan, and what it holds in memory.

Throughput: pictures per second of one and of two worker processes, from the moment at which each has done its first
unit; beside it, in turns, what the same processes gain in a loop that only computes, which is what this machine has to
give. Memory: the greatest sum of resident memory of the command and its workers, for 1,000 and for 20,000 pictures.
Verdicts: two processes, and Ray, against one process.

    python benchmarks/scan.py --photos DIR        (with the extras eval and ray; without --photos, the world's pictures)
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from pyarrow import parquet

from safeencoders.evaluation.scanning import Scan
from safeencoders.evaluation.scanning_sources import UNIT
from safeencoders.evaluation.scanning_workers import in_processes
from safeencoders.files import write_json
from safeencoders.pictoworld import models, scenes
from safeencoders.pictoworld.renderer import render_batch, to_image
from safeencoders.provenance import manifest

HERE = Path(__file__).parent
LOOP = "sum(i * i for i in range(8_000_000))"


def world(folder: Path, n: int) -> None:
    """Write n pictures of the world; after 1,400 they come again."""
    quads = scenes.quads("test", min(n, 1400) // 2, 0)
    images = [to_image(one) for one in render_batch([one for quad in quads for one in (quad.safe, quad.unsafe)])]
    for i in range(n):
        place = folder / f"{i // 1000:03d}" / f"{i:06d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        images[i % len(images)].save(place)


def photos(folder: Path, source: Path, n: int) -> None:
    """Write n crops of photos, 512 pixels on the longer side, no two the same."""
    images = [Image.open(path).convert("RGB") for path in sorted(source.glob("*.jpg"))]
    folder.mkdir()
    for i in range(n):
        image, cut = images[i % len(images)], i // len(images)
        part = image.crop((cut, cut, image.width, image.height))
        part.thumbnail((512, 512))
        file = io.BytesIO()
        part.save(file, "JPEG", quality=90)
        (folder / f"{i:06d}.jpg").write_bytes(file.getvalue())


def pace(done: Iterator[int], workers: int) -> float:
    """Return units per second, from when as many units are done as there are workers."""
    times = [time.perf_counter() for _ in done]
    return (len(times) - workers) / (times[-1] - times[workers - 1])


def loop(workers: int, units: int) -> float:
    """Return units per second of a loop that only computes."""
    return pace((1 for _ in in_processes([LOOP] * units, eval, workers)), workers)


def scanned(path: Path, preset: str, out: Path, workers: int, *, ray: bool = False) -> tuple[float, float]:
    """Scan, and return pictures per second once each worker is under way, and over all from the start."""
    times: list[float] = []
    start = time.perf_counter()
    scan = Scan(path, preset, out, workers, ray)
    scan.plan()
    scan.judge(lambda _: times.append(time.perf_counter()))
    whole = time.perf_counter() - start
    scan.finish(lambda _: {})
    rate = (len(times) - workers) * UNIT / (times[-1] - times[workers - 1])
    return round(rate, 1), round(scan.pictures / whole, 1)


def throughput(path: Path, preset: str, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Measure loops and scans in turns, with one and with two workers."""
    rows: dict[str, list[float]] = {f"{kind}_{n}": [] for kind in ("loop", "scan", "whole") for n in (1, 2)}
    for turn in range(asked.repeats):
        for n in (1, 2):
            rows[f"loop_{n}"].append(loop(n, asked.loops))
            rate, whole = scanned(path, preset, folder / f"{preset}-{turn}-{n}", n)
            rows[f"scan_{n}"].append(rate)
            rows[f"whole_{n}"].append(whole)
        print(preset, turn, {name: found[-1] for name, found in rows.items()}, flush=True)
    middle = {name: statistics.median(found) for name, found in rows.items()}
    gains = {kind: middle[f"{kind}_2"] / middle[f"{kind}_1"] for kind in ("loop", "scan", "whole")}
    share = {kind: round(gains[kind] / gains["loop"], 3) for kind in ("scan", "whole")}
    return {"turns": rows, "gain": {k: round(v, 3) for k, v in gains.items()}, "share_of_loop": share}


def same(path: Path, preset: str, folder: Path) -> dict[str, bool]:
    """Compare the verdicts of two processes and of Ray with those of one process."""
    outs = {name: folder / f"{preset}-{name}" for name in ("one", "two", "ray")}
    for name, out in outs.items():
        scanned(path, preset, out, 1 if name == "one" else 2, ray=name == "ray")
    tables = {name: parquet.read_table(out / "verdicts.parquet") for name, out in outs.items()}
    return {name: tables[name].equals(tables["one"]) for name in ("two", "ray")}


def peak(path: Path, out: Path) -> float:
    """Return the greatest sum of resident memory, in MB, of the command and the processes below it."""
    words = ["scan", str(path), "--judges", "pictoworld", "--out", str(out), "--workers", "2"]
    code = "import sys; from safeencoders.cli.main import main; sys.exit(main())"
    run = subprocess.Popen(  # noqa: S603  this package
        [sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    found = 0.0
    ended = threading.Event()
    threading.Thread(target=lambda: (run.wait(), ended.set()), daemon=True).start()
    while not ended.wait(0.05):
        found = max(found, sum(map(resident, family(run.pid))))
    if run.returncode:
        raise RuntimeError(f"the scan ended with {run.returncode}")
    return round(found, 1)


def family(pid: int) -> list[int]:
    """Return a process and all below it (Linux)."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        below = [int(one) for thread in threads for one in (thread / "children").read_text().split()]
    except OSError:  # it ended
        return []
    return [pid, *(one for child in below for one in family(child))]


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:  # it ended
        return 0.0


def main() -> None:
    """Measure and write scan.json beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of JPEG photos for NudeNet")
    parser.add_argument("--n", type=int, default=20 * UNIT, help="pictures of one scan for the throughput")
    parser.add_argument("--loops", type=int, default=20, help="units of the loop")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs=2, default=(1000, 20_000), help="pictures of the two scans")
    parser.add_argument("--json", type=Path, default=HERE / "scan.json")
    asked = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sets = {"pictoworld": folder / "world"}
        world(sets["pictoworld"], asked.n)
        if asked.photos:
            sets["nudenet-strict"] = folder / "photos"
            photos(sets["nudenet-strict"], asked.photos, asked.n)
        paces = {preset: throughput(path, preset, folder, asked) for preset, path in sets.items()}
        equal = {preset: same(path, preset, folder) for preset, path in sets.items()}
        memory = {}
        for n in asked.memory:
            world(folder / f"m{n}", n)
            memory[n] = peak(folder / f"m{n}", folder / f"o{n}")
    few, many = memory.values()
    found = {
        "pictures": asked.n,
        "throughput": paces,
        "same_as_one_process": equal,
        "peak_mb": memory,
        "peak_ratio": round(many / few, 3),
        "manifest": manifest(
            ["python", *sys.argv],
            seeds={},
            weights={key: value for key, value in models.hashes().items() if key.startswith("judge")},
            data={"pictoworld:test": f"the first {min(asked.n, 1400) // 2} quadruplets"},
            seconds=time.perf_counter() - start,
        ),
    }
    write_json(asked.json, found)
    print({key: value for key, value in found.items() if key != "manifest"})


if __name__ == "__main__":
    main()
