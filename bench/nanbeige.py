"""Nanbeige4.2-3B's real shape at int4 with random weights, beside llama.cpp on the same weights.

    .venv/bin/pip install -e '.[cpu,bench]'
    .venv/bin/python bench/nanbeige.py

Writes a checkpoint of the shape (bfloat16, 8.3 GB), exports it to int4 in one pass in a process of
its own, whose time and peak memory are reported. A second bundle, in blocks of 32, becomes a GGUF
file: Q4_0, bit for bit. rdlite then runs the first, in blocks of 128, and both run the GGUF file,
in turn, token after token at two loops behind the same prompt. Weights are rounded by int4-plain,
which is quicker to make than int4 and runs like it.
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
from llama_cpp_peer import Llama
from rdlite.export.random_checkpoint import tensor_shapes_of, write_random_checkpoint
from report import finish, spread
from shapes import MODELS

import rdlite
from rdlite.measure.memory_bandwidth import read_bandwidth

NAME = "Nanbeige4.2-3B"
CONTEXT, TOKENS, ROUNDS = 16, 8, 9
#: Of a tensor's random numbers; they repeat, which changes no time.
DRAWN = 10_000_019
EXPORT = (
    "import sys; from rdlite.export import export_checkpoint as e; from rdlite.quant import "
    "Options, find_scheme as f; o = Options(block_size=int(sys.argv[3])); "
    "e(sys.argv[1], sys.argv[2], quant=f('int4-plain', o), force=True)"
)


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 256))
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1, 100))
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where checkpoint, bundle and GGUF file are kept for the next run. Default: nowhere.",
)
@click.option("--make", hidden=True, type=click.Path(path_type=Path))
@click.option("--prepare", is_flag=True, help="Make the files and stop.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(
    threads: int,
    rounds: int,
    folder: Path | None,
    make: Path | None,
    prepare: bool,
    out: Path | None,
) -> None:
    family, raw = MODELS[NAME]
    if make is not None:
        shapes = tensor_shapes_of(family.weights(family.read_config(raw)))
        write_random_checkpoint(make, raw, "bfloat16", shapes=shapes, drawn=DRAWN)
        (make / "tokenizer.json").unlink()  # llama.cpp takes none without merges
        return
    with tempfile.TemporaryDirectory() as name:
        folder = folder or Path(name)
        checkpoint, bundle, took = (folder / each for each in ("checkpoint", "bundle", "took.json"))
        if not took.exists():
            if not checkpoint.exists():
                measure([__file__, "--make", str(checkpoint)])  # or the export has our peak memory
            peak, seconds = measure(["-c", EXPORT, str(checkpoint), str(bundle), "128"])
            row = {"what": "export to int4", "seconds": round(seconds), "peak MiB": round(peak)}
            took.write_text(json.dumps(row))
        llama = folder / "model.gguf"
        if not llama.exists():
            narrow = folder / "narrow"
            measure(["-c", EXPORT, str(checkpoint), str(narrow), "32"])
            measure(["-m", "rdlite", "gguf", "export", str(narrow), "-o", str(llama)])
        if prepare:
            return
        rows = [json.loads(took.read_text()), *compare(bundle, llama, threads, rounds)]
    finish("nanbeige", rows, out)


def compare(bundle: Path, llama: Path, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Time rdlite on both files, and llama.cpp, in turn."""
    process, ids = psutil.Process(), list(range(CONTEXT))
    models, resident = {}, {}
    for name, path in (("int4 in blocks of 128", bundle), ("the Q4_0 file", llama)):
        before = process.memory_info().rss
        models[name] = rdlite.load(path, threads=threads)
        models[name].generate(ids, 2).text  # noqa: B018
        resident[name] = process.memory_info().rss - before
    peer = Llama(llama, threads)
    ours: dict[str, list[float]] = {name: [] for name in models}
    theirs: list[float] = []
    rates: list[float] = []
    for turn in range(rounds + 1):
        rates.append(read_bandwidth(threads, repeats=1))
        for name, model in models.items():
            stats = model.generate(ids, TOKENS + 1).stats
            if turn:
                ours[name].append(stats.decode_seconds / TOKENS)
        time.sleep(0.02)
        peer.reset()
        peer.step(CONTEXT)
        clock = time.perf_counter()
        for _ in range(TOKENS):
            peer.step(1)
        if turn:
            theirs.append((time.perf_counter() - clock) / TOKENS)
    rows: list[dict[str, Any]] = []
    for name, took in ours.items():
        ratios = [their / our for our, their in zip(took, theirs, strict=True)]
        rows.append(
            row_of(f"rdlite, {name}", took)
            | {
                "of llama.cpp's": f"{statistics.median(ratios):.2f}x",
                "resident MiB": round(resident[name] / 2**20),
                "read bandwidth GB/s": round(statistics.median(rates) / 1e9, 1),
            }
        )
    return [*rows, row_of("llama.cpp, the Q4_0 file", theirs)]


def row_of(what: str, took: list[float]) -> dict[str, Any]:
    """Seconds of tokens as a row."""
    milliseconds = spread([1e3 * each for each in took], 1)
    rate = round(1 / statistics.median(took), 2)
    return {"what": what, "ms a token": milliseconds, "tokens/s": rate}


if __name__ == "__main__":
    main()
