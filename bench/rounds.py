"""What staggered speculation gains at Huginn-0125's size, if drafts are as good as nano's.

    .venv/bin/python bench/rounds.py

Writes a bundle of Huginn's shape with random 4-bit or 8-bit weights and times tokens at 32 steps,
plainly and with drafts. Drafts of random weights are never right, so here somebody who has seen the
text drafts: right as often as nano's own drafts after so many steps are, which is measured in the
same run on texts of 96 tokens after held-out problems, as many as there are tasks and difficulties.
Everything else is done as always, and what comes out is checked.
"""

import random
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from endless import without_end
from random_bundle import write_random_huginn
from report import finish, spread

import rdlite
from rdlite import Depth, Model
from rdlite.decode.loop import generate_tokens
from rdlite.engine.sequence import Sequence
from rdlite.measure.answers import held_out_problems

DEPTH, REPEATS, TOKENS = Depth(32), 2, 16
PROMPT = [1, 2, 3]
Way = tuple[int, int]
WAYS: tuple[Way, ...] = ((2, 16), (3, 11), (4, 8), (6, 6))


class Oracle:
    """Chooses like a sampler, and drafts what is known to follow, but for some mistakes."""

    def __init__(self, sampler: Any, text: list[int], right: float) -> None:
        self._sampler, self._text, self._right = sampler, text, right
        self._random = random.Random(0)

    def __call__(self, logits: Any, position: int) -> tuple[int, float]:
        """Choose as always."""
        token: tuple[int, float] = self._sampler(logits, position)
        return token

    def guess(self, logits: Any, position: int) -> int:
        """Return what follows, or something else."""
        index = position - len(PROMPT)
        token = self._text[index] if index < len(self._text) else 0
        return token if self._random.random() < self._right else token + 1 - 2 * (token > 0)


def right_drafts(way: Way) -> float:
    """The part of nano's drafts that is right."""
    with rdlite.load("nano") as model:
        without_end(model)
        drafted = accepted = 0
        for problem in held_out_problems(1):
            ids = model.encode_chat([{"role": "user", "content": problem.question}])
            stats = model.generate(ids, 96, DEPTH, speculate=way).stats
            drafted, accepted = drafted + stats.drafted, accepted + stats.accepted
        return accepted / drafted


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 256))
@click.option("--bits", multiple=True, type=click.Choice(["4", "8"]), default=["4", "8"])
@click.option("--block-size", type=int, help="Default: that of the scheme.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(threads: int, bits: tuple[str, ...], block_size: int | None, out: Path | None) -> None:
    chances = {way: right_drafts(way) for way in WAYS}
    rows: list[dict[str, Any]] = []
    for each in bits:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "huginn"
            bundle = write_random_huginn(path, int(each), block_size=block_size)
            rows += time_tokens(bundle, chances, threads)
    finish("rounds", rows, out)


def time_tokens(bundle: Path, chances: dict[Way, float], threads: int) -> list[dict[str, Any]]:
    """Time tokens of all ways, in turn; the first turn is not counted."""
    ways: tuple[Way | None, ...] = (None, *chances)
    times: dict[Way | None, list[float]] = {way: [] for way in ways}
    with (
        rdlite.load(bundle, threads=threads, context=256) as alone,
        rdlite.load(bundle, threads=threads, context=256, together=True) as model,
    ):
        sequences = {way: (model if way else alone).new_sequence() for way in ways}
        text = write(model, model.new_sequence(), None, [], 0)[0]
        for turn in range(REPEATS + 1):
            for way in ways:
                chance = chances[way] if way else 0
                where = model if way else alone
                found, seconds = write(where, sequences[way], way, text, chance)
                if way is not None:
                    assert found == text
                if turn:
                    times[way].append(seconds)
        stored = model.bundle.manifest.weights["core"]
    return [
        {
            "core": f"Huginn {stored}",
            "speculate": way or "plain",
            "s a token": spread(found, 3),
            "drafts right, nano": f"{chances[way]:.0%}" if way else "",
            "speed": f"{np.median(np.array(times[None]) / np.array(found)):.2f}x",
        }
        for way, found in times.items()
    ]


def write(
    model: Model, sequence: Sequence, way: Way | None, text: list[int], right: float
) -> tuple[list[int], float]:
    """Write a text; returns its tokens, and the seconds that one took."""
    plan = model.plan(TOKENS, DEPTH, None, 0, (), speculate=way)
    if plan.speculation is not None:
        plan.speculation._sampler = Oracle(plan.sampler, text, right)  # type: ignore[assignment]
    sequence.truncate(0)
    tokens = [token.id for token in generate_tokens(sequence, PROMPT, plan)]
    return tokens, plan.stats.decode_seconds / (len(tokens) - 1)


if __name__ == "__main__":
    main()
