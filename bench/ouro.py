"""Ouro 1.4B's real shape at int4 with random weights, by loops, beside llama.cpp.

    .venv/bin/pip install -e '.[cpu,bench]'
    .venv/bin/python bench/ouro.py

Writes a checkpoint of the shape (bfloat16, 2.9 GB), exports it to int4 in a process of its own,
whose time and peak memory are reported, and decodes tokens at 1 to 4 loops. In turn with it,
llama.cpp decodes with a dense Llama of 24 layers of the same sizes in Q4_0: what one loop and the
head cost there. "of llama.cpp's" compares with that time for one loop and as many more passes of
its layers as there are loops more, by the share of the weights that lies in them.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import psutil
from export_memory import measure
from llama_cpp_peer import Llama, write_llama
from rdlite.export.random_checkpoint import tensor_shapes_of, write_random_checkpoint
from report import finish, spread
from shapes import MODELS

import rdlite
from rdlite import Cache, Depth
from rdlite.architectures import ouro
from rdlite.measure.memory_bandwidth import read_bandwidth

CONTEXT, TOKENS, ROUNDS = 16, 8, 9
EXPORT = (
    "import sys; from rdlite.export import export_checkpoint as e; from rdlite.quant import "
    "find_scheme as f; from rdlite.quant.options import Options as O; "
    "e(*sys.argv[1:3], quant=f('int4', O(block_size=int(sys.argv[3]))), force=True)"
)


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 256))
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where checkpoint and bundle are kept for the next run. Default: nowhere.",
)
@click.option("--block-size", default=128, show_default=True, help="Weights that share a scale.")
@click.option("--make", hidden=True, type=click.Path(path_type=Path))
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(
    threads: int, folder: Path | None, block_size: int, make: Path | None, out: Path | None
) -> None:
    if make is not None:
        raw = MODELS["Ouro-1.4B"][1]
        shapes = tensor_shapes_of(ouro.weights(ouro.read_config(raw)))
        write_random_checkpoint(make, raw, "bfloat16", shapes=shapes)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = folder or Path(name)
        checkpoint = folder / "checkpoint"
        bundle, took = (folder / f"{block_size}{each}" for each in ("", ".json"))
        _, raw = MODELS["Ouro-1.4B"]
        if not checkpoint.exists():
            measure([__file__, "--make", str(checkpoint)])  # or the export inherits our peak memory
        if not took.exists():
            peak, seconds = measure(["-c", EXPORT, str(checkpoint), str(bundle), str(block_size)])
            row = {"what": "export to int4", "seconds": round(seconds), "peak MiB": round(peak)}
            took.write_text(json.dumps(row))
        llama = folder / "llama.gguf"
        sizes = (raw["hidden_size"], raw["num_attention_heads"], raw["intermediate_size"])
        write_llama(llama, *sizes, raw["num_hidden_layers"], raw["vocab_size"])
        rows = [json.loads(took.read_text()), *compare(bundle, llama, threads)]
    finish("ouro", rows, out)


def compare(bundle: Path, llama: Path, threads: int) -> list[dict[str, Any]]:
    """Time both at every depth, in turn."""
    before = psutil.Process().memory_info().rss
    model = rdlite.load(bundle, threads=threads, cache=Cache("last"))
    ids = list(range(CONTEXT))
    model.generate(ids, 2).text  # noqa: B018
    resident = psutil.Process().memory_info().rss - before
    counts = model.bundle.manifest.parameters
    peer = Llama(llama, threads)
    ours: dict[int, list[float]] = {loops: [] for loops in range(1, 5)}
    theirs, rates = [], []
    for turn in range(ROUNDS + 1):
        rates.append(read_bandwidth(threads, repeats=1))
        for loops, found in ours.items():
            stats = model.generate(ids, TOKENS + 1, Depth(loops)).stats
            time.sleep(0.02)
            peer.reset()
            peer.step(CONTEXT)
            clock = time.perf_counter()
            for _ in range(TOKENS):
                peer.step(1)
            if turn:
                theirs.append((time.perf_counter() - clock) / TOKENS)
                found.append(stats.decode_seconds / TOKENS)
    dense = statistics.median(theirs)
    layers = counts["core"] / (counts["core"] + counts["head"])
    rows: list[dict[str, Any]] = []
    for loops, found in ours.items():
        middle = statistics.median(found)
        rows.append(
            {
                "what": f"{loops} loops",
                "ms a token": spread([1e3 * x for x in found], 1),
                "tokens/s": round(1 / middle, 2),
                "of llama.cpp's": f"{dense * (1 + layers * (loops - 1)) / middle:.2f}x",
                "resident MiB": round(resident / 2**20),
                "read bandwidth GB/s": round(statistics.median(rates) / 1e9, 1),
            }
        )
    rows.append(
        {
            "what": "llama.cpp, dense, Q4_0",
            "ms a token": spread([1e3 * x for x in theirs], 1),
            "tokens/s": round(1 / dense, 2),
        }
    )
    return rows


if __name__ == "__main__":
    main()
