"""How much faster self-speculation writes, on nano, at a fixed depth of 32.

    .venv/bin/python bench/speculation.py

Texts are written plainly, in rounds of fixed size and depth, and with the automatic choice. Each is
written in all ways before the next one, so that a busy machine slows all of them alike. `answers`
are nano's own: 2 to 9 tokens, of which the first comes with the prompt. `long` texts go on past the
token that ends an answer, to 96 tokens; `long, sampled` chooses tokens at temperature 1. int4 is in
blocks of 128, loaded with `together`, and so is what it is compared with.

Speeds are those of the tokens after the first, relative to plain decoding: of all texts together,
and the quartiles of texts.

"same texts" counts those that came out the same as by plain decoding: all of them, or it is a bug.
"""

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from endless import without_end
from rdlite.export import export_checkpoint
from rdlite.quant import find_scheme
from report import finish

import rdlite
from rdlite import Depth, Sampling
from rdlite.config.speculation import Speculate
from rdlite.decode.loop import generate_tokens
from rdlite.engine.sequence import Sequence
from rdlite.measure.answers import held_out_problems
from rdlite.measure.task_kinds import Problem

DEPTH = Depth(32)
WAYS: tuple[Speculate, ...] = (None, "auto", (4, 4), (8, 8), (4, 2))
LONG = 96
CHECKPOINT = Path(__file__).parents[1] / "examples" / "nano" / "checkpoint"


@dataclass
class Total:
    """All texts of a kind that were written in one way."""

    sequence: Sequence
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    same: int = 0
    choices: Counter[tuple[int, int]] = field(default_factory=Counter)

    def write(
        self, model: rdlite.Model, ids: list[int], most: int, way: Speculate, **how: Any
    ) -> list[int]:
        """Write one text; returns its tokens."""
        plan = model.plan(most, DEPTH, seed=0, stop=(), speculate=way, **how)
        self.sequence.truncate(0)
        tokens = [token.id for token in generate_tokens(self.sequence, ids, plan)]
        stats = plan.stats
        self.seconds.append(stats.decode_seconds)
        self.tokens += stats.new_tokens - 1
        self.rounds += stats.rounds
        self.drafted += stats.drafted
        self.accepted += stats.accepted
        if stats.speculation:
            self.choices[stats.speculation] += 1
        return tokens

    def row(self, kind: str, way: Speculate, plain: "Total") -> dict[str, Any]:
        """Return a line of the table."""
        speeds = np.array(plain.seconds) / np.array(self.seconds)
        low, high = np.percentile(speeds, (25, 75))
        whole = sum(self.seconds)
        (common, _), *_ = self.choices.most_common(1) or [("", 0)]
        return {
            "texts": kind,
            "speculate": way or "off",
            "same texts": f"{self.same} of {len(self.seconds)}",
            "speed": f"{sum(plain.seconds) / whole:.2f}x",
            "quartiles": f"{low:.2f}-{high:.2f}x",
            "us a token": round(1e6 * whole / self.tokens),
            "tokens a round": round(self.tokens / self.rounds, 2) if self.rounds else "",
            "drafts right": f"{self.accepted / self.drafted:.0%}" if self.drafted else "",
            "mostly": common if way == "auto" else "",
        }


@click.command(help=__doc__)
@click.option("--count", default=2, show_default=True, help="Problems a task and difficulty.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(count: int, out: Path | None) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        full = export_checkpoint(CHECKPOINT, Path(folder) / "nano")
        int4 = export_checkpoint(CHECKPOINT, Path(folder) / "int4", quant=find_scheme("int4"))
        for path, name in (("nano", ""), (full, ", float32"), (int4, ", int4")):
            rows += measure(path, name, held_out_problems(count))
    finish("speculation", rows, out)


def measure(path: str | Path, name: str, problems: list[Problem]) -> list[dict[str, Any]]:
    """Write texts of all kinds in all ways with one model."""
    answers, endless = (rdlite.load(path, together=True) for _ in range(2))
    without_end(endless)
    kinds: dict[str, tuple[rdlite.Model, int, Sampling | None]] = {
        "answers": (answers, LONG, None),
        "long": (endless, LONG, None),
        "long, sampled": (endless, LONG, Sampling(1.0)),
    }
    rows = []
    for kind, (model, most, sampling) in kinds.items():
        totals = {way: Total(model.new_sequence()) for way in WAYS}
        for way, total in totals.items():  # buffers are made, pages touched
            Total(total.sequence).write(model, [1], 16, way and (16, 2), sampling=sampling)
        for number, problem in enumerate(problems):
            ids = model.encode_chat([{"role": "user", "content": problem.question}])
            turn = number % len(WAYS)
            texts = {
                way: totals[way].write(model, ids, most, way, sampling=sampling)
                for way in (*WAYS[turn:], *WAYS[:turn])
            }
            for way, text in texts.items():
                totals[way].same += text == texts[None]
        rows += [total.row(kind + name, way, totals[None]) for way, total in totals.items()]
    return rows


if __name__ == "__main__":
    main()
