"""Whether speculation says what plain decoding says, for every exit rule.

    .venv/bin/python bench/speculation_equality.py

Continues random prompts, greedily and by sampling: plainly, in rounds of a random size and depth,
and with the automatic choice (which is plain for rules that decode; rounds have one position with
them). A text is the same if its tokens, their log-probabilities and their steps are, to the bit.
Ends with code 1 if one is not.
"""

import random
from pathlib import Path
from typing import Any

import click
from report import finish

import rdlite
from rdlite import Depth, Sampling
from rdlite.config.exit_rules import rules_for

DEPTH, TOKENS = 12, 24


@click.command(help=__doc__)
@click.option("--count", default=200, show_default=True, help="Prompts for each rule.")
@click.option("--model", "path", default="nano", show_default=True, help="Another model.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(count: int, path: str, out: Path | None) -> None:
    with rdlite.load(path, together=True) as model:
        rows = compare(model, count)
    finish("speculation_equality", rows, out)
    if any(row["same"] != row["texts"] for row in rows):
        raise SystemExit(1)


def compare(model: rdlite.Model, count: int) -> list[dict[str, Any]]:
    """Continue prompts under every rule, and compare."""
    rng = random.Random(0)
    never = dict.fromkeys(model.generation_config.stop_ids, -1000.0)
    samplings = {
        "greedy": Sampling(logit_bias=never),
        "sampled": Sampling(1.0, min_p=0.02, logit_bias=never),
    }
    rows: list[dict[str, Any]] = []
    for rule in (None, *rules_for(model.config)):
        for name, sampling in samplings.items():
            texts = tokens = same = 0
            for number in range(count):
                ids = [rng.randrange(model.config.vocab_size) for _ in range(rng.randint(1, 40))]
                how: dict[str, Any] = {
                    "max_tokens": TOKENS,
                    "depth": Depth(DEPTH, exit=rule),
                    "sampling": sampling,
                    "seed": number,
                }
                plain = told(model.generate(ids, **how))
                for speculate in ((rng.randint(2, 16), rng.randint(1, DEPTH)), "auto"):
                    other = told(model.generate(ids, speculate=speculate, **how))
                    texts, tokens, same = texts + 1, tokens + len(other), same + (other == plain)
            row = {"exit rule": rule or "none", "tokens chosen": name, "texts": texts}
            rows.append(row | {"tokens": tokens, "same": same})
    return rows


def told(tokens: rdlite.Generation) -> list[tuple[int, float, int]]:
    """What must be the same of each token."""
    return [(token.id, token.logprob, token.steps) for token in tokens]


if __name__ == "__main__":
    main()
