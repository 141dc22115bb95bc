"""A core step of one position in Python, in Node and on WebAssembly, in turn; one thread.

    .venv/bin/python bench/javascript.py [BUNDLE...]

Medians of three rounds, in microseconds a step; "8 a call" are eight core steps in one graph.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

from rdlite import Cache
from rdlite.engine.engine import Engine
from rdlite.engine.sequence import Sequence
from rdlite.loader import find_model, open_bundle

SCRIPT = Path(__file__).parents[1] / "js" / "bench.js"
ROUNDS = 3


def python_step(bundle: Path) -> float:
    """Median microseconds of a step in Python."""
    sequence = Sequence(Engine(open_bundle(bundle), Cache(), 1), 256)
    runner = sequence.begin([5], 8)
    for number in range(8):
        runner.step(number)
    times = []
    for turn in range(1500):
        clock = time.perf_counter()
        runner.steps[turn % 8]()
        times.append(time.perf_counter() - clock)
    return 1e6 * statistics.median(times)


def javascript_step(bundle: Path, place: str, count: int) -> float:
    """Median microseconds of a step in Node, or on WebAssembly in it."""
    command = ["node", str(SCRIPT), str(bundle), place, str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@click.command(help=__doc__)
@click.argument("bundles", nargs=-1)
def main(bundles: tuple[str, ...]) -> None:
    ways = [("node", 1), ("node", 8), ("web", 1), ("web", 8)]
    print("| bundle | Python | Node | Node, 8 a call | WebAssembly | WebAssembly, 8 a call |")
    print("|---|---|---|---|---|---|")
    for name in bundles or ("nano",):
        bundle, rows = find_model(name), []
        for _ in range(ROUNDS):
            rows.append([python_step(bundle)] + [javascript_step(bundle, *way) for way in ways])
        own, *others = (statistics.median(column) for column in zip(*rows, strict=True))
        shown = " | ".join(f"{value:.1f} ({value / own:.2f}x)" for value in others)
        print(f"| {bundle.name} | {own:.1f} | {shown} |", file=sys.stdout)


if __name__ == "__main__":
    main()
