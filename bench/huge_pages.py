"""What huge pages for packed weights do to a core step, on Linux.

    .venv/bin/python bench/huge_pages.py

Loads a core of Huginn's shape with random int4 weights four times in one process, twice as rdlite
does and twice without asking for huge pages, and lets them take turns: milliseconds of a core step
of 1, 2, 4 and 8 positions, lower quartiles of each copy, as where pages lie differs between copies.
"""

import statistics
import tempfile
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
from core_step import timed
from random_bundle import write_random_huginn
from report import finish

from rdlite import Cache
from rdlite.engine.engine import Engine
from rdlite.engine.sequence import Sequence
from rdlite.loader import open_bundle
from rdlite.ort import huge_pages
from rdlite.ort.runner import Runner

SIZES, BEFORE, TURNS = (1, 2, 4, 8), 64, 20


def runner_of(sequence: Sequence, size: int) -> Runner:
    """Return a runner of so many positions behind BEFORE, whose caches hold some number."""
    runner = sequence.runner(BEFORE, size, 1)
    for array in runner.core_arrays(0)[0].values():
        if array.ndim == 4:
            array.fill(0.01)
    rows = np.ones((size, sequence.config.hidden_size), np.float32)
    runner.put_embeds(rows)
    runner.put_state(0, rows)
    return runner


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 256))
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(threads: int, out: Path | None) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = open_bundle(write_random_huginn(Path(folder) / "core", 4, (0, 4, 0), 262))
        copies: list[tuple[str, Sequence]] = []
        for number in range(4):
            asked = number % 2 == 0
            switch = huge_pages.SWITCH if asked else Path("/nowhere")
            with patch.object(huge_pages, "SWITCH", switch):
                engine = Engine(bundle, Cache(1), threads)
            copies.append(("with" if asked else "without", Sequence(engine, 4096)))
        for size in SIZES:
            runners = [(name, runner_of(sequence, size)) for name, sequence in copies]
            times: list[list[float]] = [[] for _ in runners]
            for _ in range(TURNS + 1):
                for took, (_, runner) in zip(times, runners, strict=True):
                    took.append(1e3 * timed(lambda runner=runner: runner.step(0)))  # type: ignore[misc]
            quartiles = [statistics.quantiles(took[1:], n=4)[0] for took in times]
            found: dict[str, list[str]] = {"with": [], "without": []}
            for (name, _), quartile in zip(runners, quartiles, strict=True):
                found[name].append(f"{quartile:.1f}")
            rows.append(
                {"positions": size} | {name: ", ".join(all_) for name, all_ in found.items()}
            )
    finish("huge_pages", rows, out)


if __name__ == "__main__":
    main()
