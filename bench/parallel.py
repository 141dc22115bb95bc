"""The parallel sampler beside plain decoding, an exit rule and speculation, in one run.

    .venv/bin/python bench/parallel.py

On nano: answers to held-out problems of every task, exactly right or not, and long texts, which go
on past the token that ends an answer to 64 tokens. Each is written in all ways before the next
one, so that a busy machine slows all alike. "speed" is relative to plain decoding at a depth of 32,
tokens after the first.

At Huginn's shape (random int4 weights, so nothing settles by itself): freeze_strategy "fixed", one
token for each outer step of 4 core steps, as the published sampler comes to when the wave runs.
"""

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from endless import without_end
from random_bundle import write_random_huginn
from report import finish, spread

import rdlite
from rdlite import Depth, Parallel
from rdlite.measure.answers import held_out_problems

FULL = Depth(32)
WAYS: dict[str, dict[str, Any]] = {
    "plain, 32 steps": {"depth": FULL},
    "exit rule (tuned)": {},
    "speculation, auto": {"depth": FULL, "speculate": "auto"},
    "parallel, as published": {"depth": FULL, "sampler": Parallel()},
    "parallel, window 8": {"depth": FULL, "sampler": Parallel(max_wavefront=8)},
    "parallel, exit_t 0.01": {"depth": FULL, "sampler": Parallel(exit_t=0.01)},
    "parallel, 8 steps inside": {"depth": FULL, "sampler": Parallel(inner_recurrence=8)},
    "parallel, no noise": {"depth": FULL, "sampler": Parallel(state_noise_mixing=0)},
}
LONG, TURNS, LENGTH = 64, 3, 24


@click.command(help=__doc__)
@click.option("--count", default=3, show_default=True, help="Problems a task and difficulty.")
@click.option("--huginn/--no-huginn", default=True, show_default=True)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 256))
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(count: int, huginn: bool, threads: int, out: Path | None) -> None:
    rows = measure_nano(count) if count else []
    if huginn:
        rows += measure_huginn(threads)
    finish("parallel", rows, out)


def measure_nano(count: int) -> list[dict[str, Any]]:
    """Answer problems and write long texts in all ways."""
    model, endless = rdlite.load("nano"), without_end(rdlite.load("nano"))
    right = dict.fromkeys(WAYS, 0)
    seconds = {name: [0.0, 0.0] for name in WAYS}
    tokens = {name: [0, 0] for name in WAYS}
    problems = held_out_problems(count)
    for number, problem in enumerate(problems):
        ids = model.encode_chat([{"role": "user", "content": problem.question}])
        names = list(WAYS)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            for kind, (which, most) in enumerate(((model, 32), (endless, LONG))):
                if kind == 1 and number % 8:
                    continue
                generation = which.generate(ids, most, **WAYS[name])
                stats = generation.stats
                if kind == 0:
                    right[name] += generation.text.strip() == problem.answer
                seconds[name][kind] += stats.decode_seconds
                tokens[name][kind] += stats.new_tokens - 1
    base = [seconds["plain, 32 steps"][kind] / tokens["plain, 32 steps"][kind] for kind in (0, 1)]
    return [
        {
            "model": "nano, int8",
            "way": name,
            "exact answers": f"{right[name] / len(problems):.1%} of {len(problems)}",
            "speed, answers": f"{base[0] / (seconds[name][0] / max(1, tokens[name][0])):.2f}x",
            "speed, long": f"{base[1] / (seconds[name][1] / max(1, tokens[name][1])):.2f}x",
        }
        for name in WAYS
    ]


def measure_huginn(threads: int) -> list[dict[str, Any]]:
    """Time tokens at Huginn's shape, in turn."""
    ways: dict[str, dict[str, Any]] = {
        "plain, 32 steps": {"depth": FULL},
        "parallel, one token an outer step": {
            "depth": FULL,
            "sampler": Parallel(freeze_strategy="fixed"),
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_random_huginn(Path(folder) / "huginn", 4)
        with rdlite.load(bundle, threads=threads) as model:
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(TURNS):
                for name, how in ways.items():
                    most = LENGTH if name.startswith("parallel") else 4
                    moments = []
                    for _ in model.generate([5, 6, 7, 8], most, **how):
                        moments.append(time.perf_counter())
                    gaps = [b - a for a, b in itertools.pairwise(moments[1:])]
                    times[name].append(statistics.median(gaps))
    plain = statistics.median(times["plain, 32 steps"])
    return [
        {
            "model": "Huginn's shape, int4",
            "way": name,
            "ms a token": spread([1e3 * each for each in found], 0),
            "speed, long": f"{plain / statistics.median(found):.2f}x",
        }
        for name, found in times.items()
    ]


if __name__ == "__main__":
    main()
