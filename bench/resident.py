"""What weights take in memory, part by part, relative to their bytes in the bundle.

    .venv/bin/python bench/resident.py                        # a core of Huginn-0125's shape
    .venv/bin/python bench/resident.py --layers 2 4 2 --vocabulary 65536    # the whole shape
    .venv/bin/python bench/resident.py --bundle FOLDER

Writes bundles with random int4 weights, one for each size of block, unless it is given one, and
loads each in a process of its own. "resident" (Pss) is what is there when a part is loaded and was
not before; "while loading" is the most of it, seen every 20 ms: that counts mapped pages of the
file too, which the system may take back. "before" is Python and the libraries.
"""

import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import onnx
import random_bundle
from report import finish
from rows_memory import MIB, Peak, resident

from rdlite import Cache
from rdlite.bundle.reader import Bundle
from rdlite.engine import engine
from rdlite.loader import open_bundle
from rdlite.ort.session import Session, load_onnxruntime


def weights_of(bundle: Bundle, part: str) -> int:
    """Bytes that the graph of a part reads from files."""
    tensors = onnx.load_from_string(bundle.graphs[part]).graph.initializer
    entries = [entry for tensor in tensors for entry in tensor.external_data]
    return sum(int(entry.value) for entry in entries if entry.key == "length")


def row(part: str, weights: int, held: int, most: int) -> dict[str, Any]:
    """A row of the table, of bytes."""
    return {
        "part": part,
        "weights, MiB": round(weights / MIB),
        "resident, MiB": round(held / MIB),
        "resident / weights": round(held / weights, 2),
        "while loading, MiB": round(most / MIB),
    }


def load(path: str) -> list[dict[str, Any]]:
    """Load a bundle; returns a row for the process before, for each part, and for all of them."""
    load_onnxruntime()
    bundle = open_bundle(path)
    start = resident()
    rows = [{"part": "before", "weights, MiB": 0, "resident, MiB": round(start / MIB)}]

    class Watched(Session):
        """Tells what opening it took."""

        def __init__(self, part: str, *more: Any) -> None:
            before = resident()
            with Peak() as peak:
                super().__init__(part, *more)
            gc.collect()
            sizes = resident() - before, peak.bytes - before
            rows.append(row(part, weights_of(bundle, part), *sizes))

    engine.Session = Watched  # type: ignore[misc]
    with Peak() as peak:
        loaded = engine.Engine(bundle, Cache(1))
    files = bundle.manifest.files.items()
    size = sum(entry.bytes for name, entry in files if name.endswith(".data"))
    rows.append(row("all", size, resident() - start, peak.bytes - start))
    del loaded
    return rows


@click.command(help=__doc__)
@click.option("--bundle", type=click.Path(exists=True), help="One that is there.")
@click.option("--layers", nargs=3, type=int, default=(0, 4, 0), show_default=True)
@click.option("--vocabulary", default=262, show_default=True)
@click.option("--block-size", "blocks", multiple=True, default=(128, 256), show_default=True)
@click.option("--one", hidden=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(
    bundle: str | None,
    layers: tuple[int, int, int],
    vocabulary: int,
    blocks: tuple[int, ...],
    one: str | None,
    out: Path | None,
) -> None:
    if one:
        print(json.dumps(load(one)))
        return

    def measure(path: str | Path) -> list[dict[str, Any]]:
        command = [sys.executable, __file__, "--one", str(path)]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        return list(json.loads(found))

    if bundle:
        finish("resident", measure(bundle), out)
        return
    rows: list[dict[str, Any]] = []
    for size in blocks:
        with tempfile.TemporaryDirectory() as folder:
            words = [folder, "--layers", *layers, "--vocabulary", vocabulary, "--block-size", size]
            command = [sys.executable, random_bundle.__file__, *map(str, words)]
            subprocess.run(command, check=True)
            rows += [{"blocks of": size, **row} for row in measure(folder)]
    finish("resident", rows, out)


if __name__ == "__main__":
    main()
