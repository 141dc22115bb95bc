"""Several texts at once against one: tokens per second of `generate_many`, as ratios of one run.

    .venv/bin/python bench/rows.py

Rows are nano at 16 steps and under its tuned exit rule, and, with --huginn, a core of Huginn-0125's
width with random int4 weights, blocks of 32, 128 and 256, at 4 steps. "texts" are worked on at
once; each kind's rounds alternate between these. nano writes the same texts each time, prompts and
all; at Huginn's width what counts is the time from when each text has its first token. "alone" is a
model loaded without `together`, which reads no empty row beside its own where blocks are wide.
Every text has the tokens that it has alone.

Then texts under the exit rule are written again in lockstep, where all wait for the deepest before
any goes on to its next token. "of lockstep" is how much faster they are as rdlite does it. Those
that wait take no rows there; in a batch of fixed shape they would, and lockstep would be slower.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import random_bundle
from report import finish

import rdlite
from rdlite import Depth
from rdlite.api import together
from rdlite.engine.row_queue import RowQueue
from rdlite.measure.answers import held_out_problems
from rdlite.ort.row_batch import Piece
from rdlite.ort.text import Desk

TEXTS, PROMPT = (1, 2, 4, 8), 16


class Lockstep(RowQueue):
    """No text goes on to its next token before all have taken their steps."""

    def take(self) -> Desk | list[Piece] | None:
        """Return whose turn it is, or rows of the part that is furthest back."""
        if self._turns:
            return self._turns.popleft()
        for part in ("prelude", "core", "coda"):
            if self._asks[part]:
                return self._pieces(part)
        return None


def seconds(model: rdlite.Model, texts: int, **options: Any) -> float:
    """Seconds a token that the texts take, so many at once."""
    prompts = [{"prompt": [5 + number] * PROMPT, "seed": number} for number in range(max(TEXTS))]
    clock, tokens = time.perf_counter(), 0
    for _ in model.generate_many(prompts, texts, **options):
        tokens += 1
    return (time.perf_counter() - clock) / tokens


def seconds_after_prompts(model: rdlite.Model, texts: int, **options: Any) -> float:
    """Seconds a token that so many texts at once take, once all have their first."""
    prompts = [{"prompt": [5 + number] * PROMPT, "seed": number} for number in range(texts)]
    clock, tokens, begun = 0.0, 0, set[int]()
    for index, _ in model.generate_many(prompts, texts, **options):
        tokens += len(begun) == texts
        begun.add(index)
        if not clock and len(begun) == texts:
            clock = time.perf_counter()
    return (time.perf_counter() - clock) / tokens


def rows_of(
    name: str,
    model: rdlite.Model,
    rounds: int,
    timed: Callable[..., float] = seconds,
    **options: Any,
) -> list[dict[str, Any]]:
    """Time a model with each number of texts, in turn."""
    times: dict[int, list[float]] = {texts: [] for texts in TEXTS}
    for turn in range(rounds + 1):
        for texts in TEXTS:
            took = timed(model, texts, **options)
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


def beside_lockstep(model: rdlite.Model, rounds: int) -> list[dict[str, Any]]:
    """Time texts after problems under the model's exit rule, in both ways in turn."""
    questions = [problem.question for problem in held_out_problems(1)]
    prompts = [model.encode_chat([{"role": "user", "content": q}]) for q in questions]
    ways = {"as it is": RowQueue, "lockstep": Lockstep}
    times: dict[tuple[int, str], list[float]] = {}
    for turn in range(rounds + 1):
        for texts in (8,):
            for way, queue in ways.items():
                together.RowQueue = queue  # type: ignore[misc]
                clock = time.perf_counter()
                many = model.generate_many(prompts[:16], texts, max_tokens=32, min_tokens=32)
                tokens = sum(1 for _ in many)
                if turn:
                    took = time.perf_counter() - clock
                    times.setdefault((texts, way), []).append(took / tokens)
    together.RowQueue = RowQueue  # type: ignore[misc]
    rows = []
    for texts in (8,):
        one, other = (median(times[texts, way]) for way in ways)
        rows.append(
            {
                "model": "nano, exit rule, after problems",
                "texts": texts,
                "tokens a second": round(1 / one, 1),
                "of lockstep": f"{other / one:.2f}x",
            }
        )
    return rows


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
        found += beside_lockstep(model, rounds)
    for block in (32, 128, 256) if huginn else ():
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "huginn"
            shape = ["--layers", "0", "4", "0", "--vocabulary", "262", "--block-size", str(block)]
            subprocess.run([sys.executable, random_bundle.__file__, str(made), *shape], check=True)
            short = {"max_tokens": 16, "depth": Depth(4)}
            name, most = f"Huginn int4 {block}", min(rounds, 3)
            with rdlite.load(made, threads=threads) as model:
                took = [seconds_after_prompts(model, 1, **short) for _ in range(most + 1)][1:]
            with rdlite.load(made, threads=threads, together=True) as model:
                rows = rows_of(name, model, most, seconds_after_prompts, **short)
            for row in rows:
                row["of one alone"] = f"{row['tokens a second'] * median(took):.2f}x"
            found += rows
    finish("rows", found, out)


if __name__ == "__main__":
    main()
