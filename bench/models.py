"""Every model's real shape at int4 with random weights: size, memory, speed.

    .venv/bin/pip install -e '.[cpu,bench]'
    .venv/bin/python bench/models.py

Each bundle is written straight, its integers drawn, and loaded in a process of its own. "peak
resident" is the most that this process ever held, loading included, and Python, the libraries and
the cache of a short text. Tokens per second are medians of several answers of 16 tokens, at the
depth that the model was trained around and at a quarter of it.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from random_bundle import write_random_bundle
from report import finish, spread
from shapes import MODELS

import rdlite
from rdlite import Cache, Depth
from rdlite.measure.memory_bandwidth import read_bandwidth

PROMPT, TOKENS, REPEATS = 16, 16, 3


def measure(bundle: Path, threads: int) -> dict[str, Any]:
    """Load a bundle and let it answer; returns a row."""
    clock = time.perf_counter()
    model = rdlite.load(bundle, threads=threads, cache=Cache(1))
    loading = time.perf_counter() - clock
    row: dict[str, Any] = {"load s": round(loading, 1)}
    most = model.config.recurrence.mean_steps
    for steps in (max(1, most // 4), most):
        found = []
        for turn in range(REPEATS + 1):
            stats = model.generate(list(range(PROMPT)), TOKENS + 1, Depth(steps), seed=turn).stats
            found.append(stats.tokens_per_second)
        row[f"tokens/s at {steps} steps"] = spread(found[1:], 2)
    row["peak resident MiB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return row


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 256))
@click.option("--only", multiple=True, type=click.Choice([*MODELS]), help="Some models alone.")
@click.option("--bundle", hidden=True, type=click.Path(path_type=Path))
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(threads: int, only: tuple[str, ...], bundle: Path | None, out: Path | None) -> None:
    if bundle is not None:
        print(json.dumps(measure(bundle, threads)))
        return
    rows: list[dict[str, Any]] = []
    for name in only or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            made = write_random_bundle(Path(folder) / "bundle", 4, *MODELS[name], name)
            manifest = rdlite.bundle.open_bundle(made).manifest
            size = sum(entry.bytes for entry in manifest.files.values())
            command = [sys.executable, __file__, "--bundle", str(made), "--threads", str(threads)]
            answer = subprocess.run(command, capture_output=True, check=True, text=True).stdout
            rows.append(
                {
                    "model": name,
                    "parameters": f"{sum(manifest.parameters.values()) / 1e9:.2f}B",
                    "int4 MiB": round(size / 2**20),
                    **json.loads(answer),
                    "read bandwidth GB/s": round(read_bandwidth(threads) / 1e9, 1),
                }
            )
        click.echo(f"{name} done", err=True)
    finish("models", rows, out)


if __name__ == "__main__":
    main()
