"""Memory of many texts at once: weights are there once, however many rows a call has.

    .venv/bin/python bench/rows_memory.py

A core layer of Huginn-0125's width with random int4 weights in blocks of 128, and nano, at 4 steps.
Each line is a process of its own: one text alone with the plain graphs, then up to 8 texts at once,
after calls of 1 to 8 rows. "peak" is the most that was resident, shared pages by their part (Pss),
seen every 20 ms; "once loaded" leaves out what loading took, whose pages the system may take back.
"caches" is what the texts' caches take, and "without caches" compares the rest with one text alone.
"""

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import click
import random_bundle
from report import finish

import rdlite
from rdlite import Depth
from rdlite.engine.sequence import Sequence

TEXTS, PROMPT, MIB = 8, 16, 2**20


def resident() -> int:
    """Bytes of this process, shared pages by their part."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


class Peak:
    """The most that is resident while it is open."""

    def __init__(self) -> None:
        self.bytes = resident()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._end.wait(0.02):
            self.bytes = max(self.bytes, resident())

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self.bytes = max(self.bytes, resident())


def work(path: str, texts: int) -> dict[str, int]:
    """Load a model and work on up to so many texts at once; returns bytes."""
    sequences: list[Sequence] = []
    with Peak() as whole, rdlite.load(path, together=texts > 1) as model:
        new = model.new_sequence

        def kept() -> Sequence:
            sequences.append(new())
            return sequences[-1]

        model.new_sequence = kept  # type: ignore[method-assign]
        with Peak() as later:
            for count in range(1, texts + 1):
                sequences.clear()
                prompts = [[5 + number] * PROMPT for number in range(count)]
                for _ in model.generate_many(prompts, count, max_tokens=4, depth=Depth(4)):
                    pass
        held = sum(sequence.cache_bytes for sequence in sequences)
    return {"peak": max(whole.bytes, later.bytes), "once loaded": later.bytes, "caches": held}


def rows_of(name: str, path: str) -> list[dict[str, Any]]:
    """Measure a model, each time in a process of its own."""
    rows, base = [], 0
    for texts in (1, TEXTS):
        command = [sys.executable, __file__, "--one", path, str(texts)]
        got = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        rest = got["once loaded"] - got["caches"]
        base = base or rest
        rows.append(
            {
                "model": name,
                "texts": "1" if texts == 1 else f"1 to {texts}",
                **{f"{key}, MiB": round(value / MIB) for key, value in got.items()},
                "without caches": f"{rest / base:.3f}x",
            }
        )
    return rows


@click.command(help=__doc__)
@click.option("--one", nargs=2, type=(str, int), hidden=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here as well.")
def main(one: tuple[str, int] | None, out: Path | None) -> None:
    if one:
        print(json.dumps(work(*one)))
        return
    found = rows_of("nano", "nano")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "huginn"
        shape = ["--layers", "0", "1", "0", "--vocabulary", "262", "--block-size", "128"]
        subprocess.run([sys.executable, random_bundle.__file__, str(made), *shape], check=True)
        found += rows_of("Huginn int4 128", str(made))
    finish("rows_memory", found, out)


if __name__ == "__main__":
    main()
