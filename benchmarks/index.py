"""What an index of 100,000 x 512 costs: build, save, load, search; and what its modes find in the world.

The vectors are random and of length 1, given by a stand-in for an encoder, so that the time is the index's own; what an
encoder takes comes on top. Each step runs in a process of its own, whose peak memory is compared with that of one that
only draws the vectors and keeps none. Torch and FAISS must give the same ids, which are also compared with brute force
in float64. In the world, unsafe prompts and pictures are asked in each mode among as many safe as unsafe pictures.

    OMP_NUM_THREADS=1 python benchmarks/index.py        (with the extra faiss)
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safeencoders.files import write_json
from safeencoders.metrics import rate
from safeencoders.pictoworld import models, scenes
from safeencoders.pictoworld.renderer import render_batch, to_image
from safeencoders.provenance import manifest
from safeencoders.retrieval import Embedder, Index

HERE = Path(__file__).parent
BRUTE = 100


@dataclass(frozen=True)
class Given(Embedder):
    """A stand-in for an encoder: the text "7" is the seventh random vector; none is kept: memory is the index's own.

    Attributes:
        length: of a vector.
        seed: of all of them.
    """

    length: int
    seed: int

    @classmethod
    def random(cls, asked: argparse.Namespace) -> Given:
        """Return the one of this size and seed."""
        return cls("given", None, {}, None, None, asked.width, asked.seed)  # type: ignore[arg-type]  # it needs neither

    @property
    def width(self) -> int:
        """The length of a vector."""
        return self.length

    @property
    def fingerprints(self) -> dict[str, str]:  # type: ignore[override]
        """What decides the vectors, in the place of the towers' hashes."""
        return {"vectors": f"seed {self.seed}, length {self.length}"}

    def tower(self, *_: object) -> None:
        """Have none."""

    def prepare(self, item: object) -> Tensor:
        """Draw a vector of length 1."""
        generator = torch.Generator().manual_seed((self.seed << 32) + int(str(item)))
        return torch.nn.functional.normalize(torch.randn(self.length, generator=generator), dim=0)

    def embed(self, rows: Sequence[Tensor], *_: object) -> Tensor:
        """Return what was drawn."""
        return torch.stack(list(rows))


def step(asked: argparse.Namespace, name: str, folder: Path) -> dict[str, Any]:
    """Run one step in a process of its own; it prints its seconds and peak memory as JSON."""
    words = ["--step", name, "--folder", str(folder)]
    for option in ("n", "width", "queries", "k", "seed"):
        words += [f"--{option}", str(getattr(asked, option))]
    command = [sys.executable, __file__, *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  this file
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(name, {key: value for key, value in found.items() if key != "hits"}, flush=True)
    return found


def run(asked: argparse.Namespace) -> None:
    """Run one step here."""
    seconds: dict[str, float] = {}
    found: dict[str, Any] = {"seconds": seconds}
    folder = asked.folder / "index"
    given = Given.random(asked)
    if asked.step == "draw":
        timed(seconds, "draw", lambda: [len(given.prepare(i)) for i in range(asked.n)])
    elif asked.step == "build":
        index = timed(seconds, "build", lambda: Index.build(given, texts=map(str, range(asked.n))))
        timed(seconds, "save", lambda: index.save(folder))
        found["bytes"] = {path.suffix[1:]: path.stat().st_size for path in folder.iterdir()}
    else:
        index = timed(seconds, "load", lambda: Index.load(folder, given))
    if asked.step in {"torch", "faiss"}:
        queries = [str(asked.n + i) for i in range(asked.queries)]
        options = {"k": asked.k, "backend": asked.step}
        timed(seconds, "first", lambda: index.search(queries[0], **options))  # FAISS copies the vectors here
        hits = timed(seconds, "search_all", lambda: index.search_all(queries, **options))
        timed(seconds, "100_singly", lambda: [index.search(query, **options) for query in queries[:100]])
        found["hits"] = [[(hit.id, hit.score) for hit in row] for row in hits]
    found["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1)
    print(json.dumps(found))


def timed(seconds: dict[str, float], name: str, work: Any) -> Any:  # noqa: ANN401  any function's result
    """Call, and note how long it took."""
    start = time.perf_counter()
    result = work()
    seconds[name] = round(time.perf_counter() - start, 3)
    return result


def brute(asked: argparse.Namespace) -> list[list[str]]:
    """Return the ids that float64 ranks first, for the first queries."""
    given, found = Given.random(asked), []
    items = torch.stack([given.prepare(i) for i in range(asked.n)]).double()
    for query in (given.prepare(asked.n + i) for i in range(BRUTE)):
        scores = items @ query.double()
        rows = scores.topk(asked.k + 50).indices.tolist()
        found.append(sorted(map(str, rows), key=lambda name: (-round(float(scores[int(name)]), 6), name))[: asked.k])
    return found


def world(n: int) -> dict[str, Any]:
    """Ask with unsafe prompts and pictures, and count how often an unsafe picture comes first."""
    quads = scenes.quads("test", n, 0)
    shown = [quad.safe for quad in quads] + [quad.unsafe for quad in quads]
    ids = [f"{kind} {i}" for kind in ("safe", "unsafe") for i in range(n)]
    images = list(map(to_image, render_batch(shown)))
    asked = {"text": [quad.unsafe_text for quad in quads], "image": images[n:]}
    table: dict[str, Any] = {}
    for encoder in ("pictoworld", "pictoworld/safe-clip"):
        embedder = Embedder.of(encoder)
        for pair in (False, True):
            index = Index.build(embedder, images=images, ids=ids, pair=pair)
            for mode in ("safe",) if pair else ("raw", "safe"):
                row = {}
                for kind, queries in asked.items():
                    firsts = [hits[0].id for hits in index.search_all(queries, 1, mode)]
                    row[f"unsafe_first_by_{kind}"] = rate(sum(name.startswith("unsafe") for name in firsts), n)
                    row[f"own_twin_first_by_{kind}"] = rate(sum(f"safe {i}" == x for i, x in enumerate(firsts)), n)
                table[f"{encoder}, {'pair' if pair else 'original vectors'}, mode {mode}"] = row
    return table


def main() -> None:
    """Measure and write index.json beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--quads", type=int, default=400, help="of the world (default 400)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=HERE / "index.json")
    parser.add_argument("--step", choices=("draw", "build", "load", "torch", "faiss"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        run(asked)
        return
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        steps = {name: step(asked, name, Path(folder)) for name in ("draw", "build", "load", "torch", "faiss")}
    torchs, others = steps["torch"].pop("hits"), steps["faiss"].pop("hits")
    ids = [[name for name, _ in row] for row in torchs]
    found = {
        "size": {name: getattr(asked, name) for name in ("n", "width", "queries", "k")},
        "vectors_mb": asked.n * asked.width * 4 / 1e6,
        "threads": torch.get_num_threads(),
        "steps": steps,
        "peak_over_draw_mb": {k: round(v["peak_mb"] - steps["draw"]["peak_mb"], 1) for k, v in steps.items()},
        "torch_equals_faiss": torchs == others,
        "torch_equals_brute_force": ids[:BRUTE] == brute(asked),
        "world": world(asked.quads),
        "faiss": version("faiss-cpu"),
        "manifest": manifest(
            ["python", *sys.argv],
            seeds={"vectors": asked.seed, "world": 0},
            weights=models.hashes(),
            data={"vectors": Given.random(asked).fingerprints["vectors"],
                  "pictoworld:test": f"the first {asked.quads} quadruplets"},
            seconds=time.perf_counter() - start,
        ),
    }  # fmt: skip
    print(json.dumps({key: value for key, value in found.items() if key != "manifest"}, indent=1))
    write_json(asked.json, found)


if __name__ == "__main__":
    main()
