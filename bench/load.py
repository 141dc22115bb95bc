"""How long a model takes to load, its files being in the page cache.

    .venv/bin/python bench/load.py                # Huginn-0125's shape, int4: 2 GB of disk
    .venv/bin/python bench/load.py --bundle FOLDER

Every load is a process of its own, and "load" is `rdlite.load` there, after the imports. A virtual
machine may give freed memory back to its host within seconds, and then the first touch of every
page waits for the host, many times longer than loading takes. So a process before each load
touches as much memory and more; "touch" is how long that took.
"""

import mmap
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import random_bundle
from report import finish, spread

from rdlite.loader import open_bundle

#: Of the bytes of the bundle.
TOUCHED = 2.5
PAGE = 4096


def touch(size: int) -> float:
    """Write to every page of so much new memory; returns seconds."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        clock = time.perf_counter()
        for at in range(0, size, PAGE):
            memory[at] = 1
        return time.perf_counter() - clock


def load(path: str) -> float:
    """Load a model; returns seconds."""
    import rdlite
    from rdlite.ort.session import load_onnxruntime

    load_onnxruntime()
    clock = time.perf_counter()
    with rdlite.load(path):
        return time.perf_counter() - clock


def alone(*words: object) -> float:
    """Do one of the two in a process of its own."""
    command = [sys.executable, __file__, *map(str, words)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


@click.command(help=__doc__)
@click.option("--bundle", type=click.Path(exists=True, path_type=Path), help="One that is there.")
@click.option("--turns", default=9, show_default=True)
@click.option("--touch", "touched", hidden=True, type=int)
@click.option("--one", hidden=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(
    bundle: Path | None, turns: int, touched: int | None, one: str | None, out: Path | None
) -> None:
    if touched or one:
        print(touch(touched) if touched else load(str(one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        bundle = bundle or random_bundle.write_random_huginn(Path(folder) / "huginn", 4)
        size = open_bundle(bundle).weight_bytes
        for file in bundle.glob("*.data"):
            with file.open("rb", 0) as read:
                while read.read(2**24):
                    pass
        found = [
            (alone("--touch", int(TOUCHED * size)), alone("--one", bundle)) for _ in range(turns)
        ]
    touches, loads = zip(*found, strict=True)
    row: dict[str, Any] = {"bundle": f"{size / 2**20:.0f} MiB"}
    finish("load", [row | {"touch s": spread(touches, 2), "load s": spread(loads, 2)}], out)


if __name__ == "__main__":
    main()
