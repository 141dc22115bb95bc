"""Whether speculation says what plain decoding says, for every exit rule, on nano in float32.

    .venv/bin/python bench/speculation_equality.py

Continues random prompts, greedily and by sampling: plainly, in rounds of a random size and depth,
and with the automatic choice (which is plain for rules that decode; rounds have one position with
them). A text may differ only from where a hair decides: where the choice falls the other way if the
two tokens' logits move by 1e-4 of the largest one. Such texts are counted, as are tokens that took
another number of steps. Ends with code 1 if any other text differs.

With `--model nano`, the model that ships: its activations are rounded to int8, so the last bit of a
sum can decide where a number is rounded to, and texts that hang in the balance may differ.
"""

import random
import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
from rdlite.export import export_checkpoint
from report import finish

import rdlite
from rdlite import Depth, Sampling
from rdlite.config.exit_rules import rules_for
from rdlite.decode.loop import generate_tokens
from rdlite.decode.sampler import Sampler

DEPTH, TOKENS = 12, 24
HAIR = 1e-4
CHECKPOINT = Path(__file__).parents[1] / "examples" / "nano" / "checkpoint"


class Recorder:
    """A sampler that remembers the logits it saw last."""

    def __init__(self, sampler: Sampler) -> None:
        self.saw, self._sampler = sampler.saw, sampler

    def __call__(self, logits: Any, position: int) -> tuple[int, float]:
        """Choose as the sampler does."""
        self.logits = logits.copy()
        return self._sampler(logits, position)


def a_hair_decides(model: rdlite.Model, ids: list[int], how: dict[str, Any], texts: Any) -> bool:
    """Say whether the first token that differs was as good as a tie."""
    pairs = enumerate(zip(*texts, strict=False))
    index, one, other = next((i, a, b) for i, (a, b) in pairs if a != b)
    plan = model.plan(stop=(), **how)
    recorder = Recorder(plan.sampler)
    tokens = generate_tokens(model.new_sequence(), ids, replace(plan, sampler=recorder))
    for _ in islice(tokens, index + 1):
        pass
    logits = recorder.logits
    by = HAIR / 2 * np.abs(logits).max()
    logits[one] -= by
    logits[other] += by
    return plan.sampler.guess(logits, len(ids) + index) == other


@click.command(help=__doc__)
@click.option("--count", default=200, show_default=True, help="Prompts for each rule.")
@click.option("--model", "path", type=click.Path(), help="Another model.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(count: int, path: str | None, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = rdlite.load(path or export_checkpoint(CHECKPOINT, Path(folder) / "nano"))
        rows = compare(model, count)
    finish("speculation_equality", rows, out)
    if any(row["different"] for row in rows):
        raise SystemExit(1)


def compare(model: rdlite.Model, count: int) -> list[dict[str, Any]]:
    """Continue prompts under every rule, and compare."""
    rng = random.Random(0)
    never = dict.fromkeys(model.generation_config.stop_ids, -1000.0)
    samplings = {
        "greedy": Sampling(logit_bias=never),
        "sampled": Sampling(1.0, min_p=0.02, logit_bias=never),
    }
    rows = []
    for rule in (None, *rules_for(model.config)):
        for name, sampling in samplings.items():
            row = {"exit rule": rule or "none", "tokens chosen": name, "texts": 0, "tokens": 0}
            row |= {"equal": 0, "a hair decided": 0, "other steps": 0, "different": 0}
            for number in range(count):
                ids = [rng.randrange(model.config.vocab_size) for _ in range(rng.randint(1, 40))]
                how: dict[str, Any] = {
                    "max_tokens": TOKENS,
                    "depth": Depth(DEPTH, exit=rule),
                    "sampling": sampling,
                    "seed": number,
                }
                plain = list(model.generate(ids, **how))
                for speculate in ((rng.randint(2, 16), rng.randint(1, DEPTH)), "auto"):
                    other = list(model.generate(ids, speculate=speculate, **how))
                    texts = [token.id for token in plain], [token.id for token in other]
                    row["texts"] += 1
                    row["tokens"] += len(other)
                    if texts[0] != texts[1]:
                        tie = a_hair_decides(model, ids, how, texts)
                        row["a hair decided" if tie else "different"] += 1
                        continue
                    row["equal"] += 1
                    pairs = zip(plain, other, strict=True)
                    row["other steps"] += sum(a.steps != b.steps for a, b in pairs)
            rows.append(row)
    return rows


if __name__ == "__main__":
    main()
