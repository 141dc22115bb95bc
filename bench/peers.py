"""A core step against llama.cpp: the same layer sizes, random 4-bit weights, one run, in turn.

    .venv/bin/pip install -e '.[cpu,bench]'
    .venv/bin/python bench/peers.py

llama.cpp has no looped models of Huginn's kind, so it gets a plain Llama of four layers of width
5280 in Q4_0 with next to no vocabulary; rdlite gets Huginn's core, which has an adapter more.
"of llama.cpp's" compares their times per weight, turn by turn: below 1, rdlite is faster. Decoding
is of 1 to 8 positions at once over a context; a prompt is read from its start, by rdlite in chunks
and by llama.cpp in one batch.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from core_step import timed
from llama_cpp_peer import Llama, write_llama
from profile_step import LONGEST
from random_bundle import write_random_huginn
from report import finish, spread
from shapes import HUGINN

from rdlite import Cache
from rdlite.decode.plan import CHUNK
from rdlite.engine.engine import Engine
from rdlite.engine.sequence import Sequence
from rdlite.loader import open_bundle

WIDTH, HEADS, INNER = HUGINN[:3]
LAYERS, VOCABULARY = 4, 288
#: What is measured, as (context, positions), contexts in ascending order.
CASES = {
    "prompt": ((0, 64), (0, 256), (0, 512)),
    "decode": ((64, 1), (64, 2), (64, 4), (64, 8)),
    "context": ((1000, 1), (4000, 1)),
}


class Ours:
    """Huginn's core over a context."""

    def __init__(self, bundle: Path, threads: int, chunk: int) -> None:
        opened = open_bundle(bundle)
        self.weights = opened.manifest.parameters["core"]
        self._sequence = Sequence(Engine(opened, Cache(1), threads), LONGEST)
        self._chunk = chunk
        # Numbers of any size: a page that nobody wrote would be the same one everywhere.
        for array in self._sequence.runner(LONGEST - 1, 1, 1).core_arrays(0)[0].values():
            if array.ndim == 4:
                array.fill(0.01)

    def step(self, context: int, size: int) -> None:
        """Take a core step on positions behind others, a chunk at a time."""
        for first in range(context, context + size, self._chunk):
            count = min(self._chunk, context + size - first)
            runner = self._sequence.runner(first, count, 1)
            runner.put_embeds(np.ones((count, WIDTH), np.float32))
            runner.put_state(0, np.ones((count, WIDTH), np.float32))
            runner.step(0)


def compare(ours: Ours, theirs: Llama, weights: int, kinds: list[str], rounds: int) -> list[Any]:
    """Time both in turn; returns a row for each case."""
    rows = []
    held = 0
    for kind in kinds:
        for context, size in CASES[kind]:
            while held < context:
                count = min(512, context - held)
                theirs.step(count)
                held += count
            found: dict[str, list[float]] = {"ours": [], "theirs": []}
            for turn in range(rounds + 1):
                time.sleep(0.02)  # threads that spin after a call have ended
                mine = timed(lambda context=context, size=size: ours.step(context, size))
                time.sleep(0.02)
                their = timed(lambda size=size: theirs.step(size))
                theirs.keep(context)
                if turn:  # the first warms up
                    found["ours"].append(mine)
                    found["theirs"].append(their)
            pairs = zip(found["ours"], found["theirs"], strict=True)
            ratios = [mine / ours.weights / (their / weights) for mine, their in pairs]
            one = statistics.median(found["ours"])
            rows.append(
                {
                    "what": kind,
                    "behind": context,
                    "positions": size,
                    "rdlite ms": spread([1e3 * t for t in found["ours"]], 1),
                    "llama.cpp ms": spread([1e3 * t for t in found["theirs"]], 1),
                    "rdlite ms per GB": round(1e3 * one / (ours.weights * 4.5 / 8e9), 1),
                    "of llama.cpp's": spread(ratios, 2),
                }
            )
    return rows


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 256))
@click.option("--block-size", default=128, show_default=True, type=click.IntRange(16, 256))
@click.option("--chunk", default=CHUNK, show_default=True, type=click.IntRange(1, 512))
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(1, 100))
@click.option("--only", multiple=True, type=click.Choice([*CASES]), help="Default: all.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where both models are kept for the next run. Default: nowhere.",
)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(
    threads: int,
    block_size: int,
    chunk: int,
    rounds: int,
    only: tuple[str, ...],
    folder: Path | None,
    out: Path | None,
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        core, path = folder / f"core-{block_size}", folder / "llama.gguf"
        if not path.exists():
            write_llama(path, WIDTH, HEADS, INNER, LAYERS, VOCABULARY)
        if not core.exists():
            write_random_huginn(core, 4, (0, 4, 0), 262, block_size)
        weights = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * INNER) + VOCABULARY * WIDTH
        ours, theirs = Ours(core, threads, chunk), Llama(path, threads, LONGEST + 512, 512)
        kinds = [kind for kind in CASES if not only or kind in only]
        rows = compare(ours, theirs, weights, kinds, rounds)
    finish("peers", rows, out)


if __name__ == "__main__":
    main()
