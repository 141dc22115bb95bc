"""Several texts at once against one: tokens per second of `generate_many`, as ratios of one run.

    .venv/bin/python bench/rows.py

Rows are nano at 16 steps and under its tuned exit rule, and, with --huginn, a core of Huginn-0125's
width with random int4 weights, blocks of 32 and 128, at 4 steps. "texts" are worked on at a time;
each kind's rounds alternate between them. Every text has the tokens that it has alone.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import random_bundle
from report import finish

import rdlite
from rdlite import Depth

TEXTS, PROMPT = (1, 2, 4, 8), 16


def seconds(model: rdlite.Model, texts: int, **options: Any) -> float:
    """Seconds a token that so many texts at once take."""
    prompts = [{"prompt": [5 + number] * PROMPT, "seed": number} for number in range(texts)]
    clock, tokens = time.perf_counter(), 0
    for _ in model.generate_many(prompts, texts, **options):
        tokens += 1
    return (time.perf_counter() - clock) / tokens


def rows_of(name: str, model: rdlite.Model, rounds: int, **options: Any) -> list[dict[str, Any]]:
    """Time a model with each number of texts, in turn."""
    times: dict[int, list[float]] = {texts: [] for texts in TEXTS}
    for turn in range(rounds + 1):
        for texts in TEXTS:
            took = seconds(model, texts, **options)
            if turn:  # the first warms up
                times[texts].append(took)
    one = median(times[1])
    return [
        {
            "model": name,
            "texts": texts,
            "tokens a second": round(1 / median(took), 1),
            "of one": f"{one / median(took):.2f}x",
        }
        for texts, took in times.items()
    ]


@click.command(help=__doc__)
@click.option("--huginn", is_flag=True, help="Also at Huginn's width; takes 2 GB and minutes.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100))
@click.option("--threads", type=int, help="Default: one for each core.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here as well.")
def main(huginn: bool, rounds: int, threads: int | None, out: Path | None) -> None:
    with rdlite.load(threads=threads) as model:
        long = {"max_tokens": 48, "min_tokens": 48}
        found = rows_of("nano, 16 steps", model, rounds, depth=Depth(16), **long)
        found += rows_of("nano, exit rule", model, rounds, **long)
    for block in (32, 128) if huginn else ():
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "huginn"
            shape = ["--layers", "0", "4", "0", "--vocabulary", "262", "--block-size", str(block)]
            subprocess.run([sys.executable, random_bundle.__file__, str(made), *shape], check=True)
            with rdlite.load(made, threads=threads, together=True) as model:
                short = {"max_tokens": 6, "depth": Depth(4)}
                found += rows_of(f"Huginn int4 {block}", model, min(rounds, 3), **short)
    finish("rows", found, out)


if __name__ == "__main__":
    main()
