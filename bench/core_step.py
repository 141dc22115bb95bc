"""One core step at Huginn-0125's shape: time against the machine's read bandwidth, and overhead.

    .venv/bin/python bench/core_step.py

Writes bundles whose core has Huginn's sizes (an adapter and four blocks of width 5280) with random
int4 and int8 weights, the latter with float32 activations too, and times core steps of 1 to 64
positions over a context of 64. In turn with them it measures how fast this machine reads memory.
"bandwidth" is the share of it that the step reaches: integers, float32 scales and sums, as they
lie in memory, over the step's time.

"host" is what a core step costs beside onnxruntime's call: the loop that asks for it, exit rule
latent-diff included, with calls that do nothing. The last rows are whole calls: nano's, and those
of a core that has next to nothing to compute (16 wide). "peak resident" is what loading the model
and reading the context added to this process at most, relative to the weights as stored.
"""

import gc
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import psutil
import random_bundle
from rdlite.export import export_checkpoint
from rdlite.export.random_checkpoint import hub_config, write_random_checkpoint
from report import finish, spread

from rdlite import Cache, Depth
from rdlite.architectures import huginn
from rdlite.engine.engine import Engine
from rdlite.engine.sequence import Sequence
from rdlite.exit.controller import Controller
from rdlite.loader import open_bundle
from rdlite.measure.memory_bandwidth import read_bandwidth

SIZES = (1, 2, 4, 8, 64)
CONTEXT, ROUNDS = 64, 9


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    clock = time.perf_counter()
    call()
    return time.perf_counter() - clock


def resident() -> int:
    """Resident memory of this process, in bytes."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def peak_resident() -> int:
    """The most that it ever was."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def huginn_rows(folder: Path, bits: int, level: int, threads: int) -> list[dict[str, Any]]:
    """Time core steps of each size, in turn with the bandwidth."""
    made = folder / f"int{bits}-{level}"
    # In a process of its own, whose memory does not count here.
    more = ["--layers", "0", "4", "0", "--vocabulary", "262", "--accuracy-level", str(level)]
    subprocess.run(
        [sys.executable, random_bundle.__file__, str(made), "--bits", str(bits), *more],
        check=True,
    )
    bundle = open_bundle(made)
    matrices, quantization = bundle.manifest.parameters["core"], bundle.manifest.quantization
    shapes = {name: weight.shape for name, weight in huginn.weights(bundle.config).items()}
    # onnxruntime packs a float32 scale and a sum with each block; without sums, two halves.
    streamed, stored = (matrices * quantization.bits_a_weight(shapes, s) / 8 for s in (64, 16))
    before, clock = resident(), time.perf_counter()
    engine = Engine(bundle, Cache(1), threads)
    loading = time.perf_counter() - clock
    sequence = Sequence(engine, 4096)
    runner = sequence.begin([1] * CONTEXT, 2)
    runner.step(0)
    sequence.commit(CONTEXT)
    held = peak_resident() - before
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    rates = []
    for turn in range(ROUNDS + 1):
        rates.append(read_bandwidth(threads, repeats=1))
        for size in SIZES:
            runner = sequence.begin([1] * size, 2)
            seconds = [timed(lambda runner=runner: runner.step(0)) for _ in range(2)]
            if turn:  # the first warms up
                times[size] += seconds
    bandwidth = statistics.median(rates)
    one, host = statistics.median(times[1]), host_work(sequence)
    rows = []
    for size, found in times.items():
        middle = statistics.median(found)
        rows.append(
            {
                "core": f"Huginn int{bits}" + (", float32 activations" if level == 1 else ""),
                "positions": size,
                "ms": spread([1e3 * t for t in found], 1),
                "of one": round(middle / one, 2),
                "GB/s": round(streamed / middle / 1e9, 1),
                "bandwidth": f"{streamed / middle / bandwidth:.0%} of {bandwidth / 1e9:.1f} GB/s",
                "peak resident / weights and cache": round(
                    held / (stored + sequence.cache_bytes), 2
                ),
                "load s": round(loading, 1),
                "host us": round(1e6 * host, 1),
                "host": f"{host / one:.2%}",
            }
        )
    return rows


def host_work(sequence: Sequence) -> float:
    """Seconds that the loop takes for a core step beside the call, exit rule included."""
    steps, turns = 8, 200
    controller = Controller(
        Depth(steps, exit="latent-diff", threshold=0), steps, sequence.config.vocab_size
    )
    runner = sequence.begin([1], steps)
    runner.change.fill(1)
    calls = runner.steps[:]
    runner.steps[:steps] = [lambda: None] * steps
    times = [timed(lambda: controller.run_steps(runner)) / steps for _ in range(turns)]
    runner.steps[:] = calls
    return statistics.median(times)


def small_row(name: str, bundle: Path | str, threads: int) -> dict[str, Any]:
    """Time the steps of a small model."""
    sequence = Sequence(Engine(open_bundle(bundle), Cache(), threads), 256)
    runner = sequence.begin([1], 8)
    for number in range(8):
        runner.step(number)
    times = [timed(runner.steps[turn % 8]) for turn in range(4000)]
    return {
        "core": name,
        "positions": 1,
        "ms": f"{1e3 * statistics.median(times):.4f}",
        "host us": round(1e6 * host_work(sequence), 1),
    }


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 256))
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(threads: int, out: Path | None) -> None:
    rows: list[dict[str, Any]] = []
    small = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for bits, level in ((4, 4), (8, 4), (8, 1)):
            rows += huginn_rows(folder, bits, level, threads)
        tiny = hub_config(16, 1, 16, 262, 256, 8, layers=(1, 1, 1))
        empty = export_checkpoint(write_random_checkpoint(folder / "tiny", tiny), folder / "empty")
        small = [small_row("nano", "nano", threads), small_row("empty call", empty, threads)]
    finish("core_step", rows + small, out)


if __name__ == "__main__":
    main()
