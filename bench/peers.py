"""A core step against llama.cpp: the same layer sizes, random 4-bit weights, one run, in turn.

    .venv/bin/pip install -e '.[cpu,bench]'
    .venv/bin/python bench/peers.py

llama.cpp has no looped models of Huginn's kind, so it gets a plain Llama of four layers of width
5280 in Q4_0 with next to no vocabulary; rdlite gets Huginn's core, which has an adapter more.
"ms per GB" compares them: time over the bytes of the weights that a step reads, 4.5 bits a weight
for both (what rdlite holds as float32 scales in memory makes its own bytes 5).
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from core_step import timed
from llama_cpp_peer import Llama, write_llama
from random_bundle import write_random_huginn
from report import finish, spread
from shapes import HUGINN

from rdlite import Cache
from rdlite.engine.engine import Engine
from rdlite.engine.sequence import Sequence
from rdlite.loader import open_bundle
from rdlite.measure.memory_bandwidth import read_bandwidth

WIDTH, HEADS, INNER = HUGINN[:3]
LAYERS, VOCABULARY, ROUNDS = 4, 288, 9
SIZES = (1, 2, 4, 8)


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 256))
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(threads: int, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = {
            "llama.cpp Q4_0": write_llama(
                folder / "llama.gguf", WIDTH, HEADS, INNER, LAYERS, VOCABULARY
            )
        }
        bundle = open_bundle(write_random_huginn(folder / "core", 4, (0, 4, 0), 262))
        weights["rdlite int4"] = bundle.manifest.parameters["core"]
        llama = Llama(folder / "llama.gguf", threads)
        sequence = Sequence(Engine(bundle, Cache(1), threads), 4096)
        times: dict[tuple[str, int], list[float]] = {}
        rates = []
        for turn in range(ROUNDS + 1):
            rates.append(read_bandwidth(threads, repeats=1))
            for size in SIZES:
                runner = sequence.begin([1] * size, 1)
                llama.reset()
                llama.step(size)
                for peer, step in (
                    ("rdlite int4", lambda runner=runner: runner.step(0)),
                    ("llama.cpp Q4_0", lambda size=size: llama.step(size)),
                ):
                    time.sleep(0.02)  # threads that spin after a call have ended
                    found = [timed(step) for _ in range(2)]
                    if turn:
                        times.setdefault((peer, size), []).extend(found)
    rows: list[dict[str, Any]] = []
    for (peer, size), found in times.items():
        size_bytes = weights[peer] * 4.5 / 8
        middle = statistics.median(found)
        rows.append(
            {
                "runtime": peer,
                "positions": size,
                "ms": spread([1e3 * t for t in found], 1),
                "GB": round(size_bytes / 1e9, 3),
                "ms per GB": round(1e3 * middle / (size_bytes / 1e9), 1),
                "read bandwidth GB/s": round(statistics.median(rates) / 1e9, 1),
            }
        )
    finish("peers", rows, out)


if __name__ == "__main__":
    main()
