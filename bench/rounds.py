"""What a round of self-speculation gains at Huginn-0125's size, if drafts are as good as nano's.

    .venv/bin/python bench/rounds.py

Writes a bundle of Huginn's shape with random 4-bit or 8-bit weights and times, at 32 steps, plain
tokens and rounds of several sizes and depths. How long a round takes does not depend on how many of
its drafts are right; how many tokens it yields does, and is measured on nano in the same run: the
mean of texts of 96 tokens after held-out problems, as many as there are tasks and difficulties.
"speed" is that many plain tokens' time over a round's.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import click
from endless import without_end
from random_bundle import write_random_huginn
from report import finish, spread

import rdlite
from rdlite import Depth
from rdlite.measure.answers import held_out_problems

DEPTH, REPEATS, TOKENS = Depth(32), 2, 3
ROUNDS = ((2, 2), (4, 2), (4, 4), (6, 2))


def tokens_a_round(way: tuple[int, int]) -> float:
    """Tokens that a round of nano yields, on the average."""
    with rdlite.load("nano") as model:
        without_end(model)
        tokens = rounds = 0
        for problem in held_out_problems(1):
            ids = model.encode_chat([{"role": "user", "content": problem.question}])
            stats = model.generate(ids, 96, DEPTH, speculate=way).stats
            tokens, rounds = tokens + stats.new_tokens - 1, rounds + stats.rounds
        return tokens / rounds


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 256))
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(threads: int, out: Path | None) -> None:
    yields = {way: tokens_a_round(way) for way in ROUNDS}
    rows: list[dict[str, Any]] = []
    for bits in (4, 8):
        with tempfile.TemporaryDirectory() as folder:
            rows += time_rounds(write_random_huginn(Path(folder) / "huginn", bits), yields, threads)
    finish("rounds", rows, out)


def time_rounds(
    bundle: Path, yields: dict[tuple[int, int], float], threads: int
) -> list[dict[str, Any]]:
    """Time plain tokens and rounds, in turn."""
    ways = (None, *yields)
    times: dict[tuple[int, int] | None, list[float]] = {way: [] for way in ways}
    with rdlite.load(bundle, threads=threads, context=256, together=True) as model:
        for turn in range(REPEATS + 1):
            for way in ways:
                # Drafts of random weights are wrong, so that every token takes a round.
                generation = model.generate([1, 2, 3], 64, DEPTH, speculate=way)
                for _ in range(TOKENS):
                    next(iter(generation))
                generation.close()
                stats = generation.stats
                if turn:
                    times[way].append(stats.decode_seconds / (stats.rounds or TOKENS - 1))
        stored = model.bundle.manifest.weights["core"]
    plain = statistics.median(times[None])
    return [
        {
            "core": f"Huginn {stored}",
            "round": way or "a plain token",
            "seconds": spread(found, 2),
            "tokens a round, nano": round(yields[way], 2) if way else 1,
            "speed": f"{(yields[way] if way else 1) * plain / statistics.median(found):.2f}x",
        }
        for way, found in times.items()
    ]


if __name__ == "__main__":
    main()
