"""What exit rules, cache policies and speculation cost and save, on nano.

    .venv/bin/python bench/depth.py

Asks nano held-out problems of every task and difficulty under each setting, and reports exact
answers, core steps for a token of the prompt and of the answer, and the time to the first token and
of the whole answer, relative to plain decoding at the same depth. Every problem is asked under all
settings before the next one, so that a busy machine slows all of them alike. Answers are short;
what speculation does for longer texts is in bench/speculation.py. For exit rules: the rank
correlation (Spearman) of a problem's difficulty with the steps that its answer took, mean over the
tasks.
"""

import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from report import finish

import rdlite
from rdlite import Cache, Depth
from rdlite.config.exit_rules import rules_for
from rdlite.decode.results import Stats
from rdlite.measure.answers import held_out_problems
from rdlite.measure.task_kinds import Problem

DEPTH = 32
SPECULATE = (4, 8)


def settings(model: rdlite.Model) -> dict[str, tuple[Cache, dict[str, Any]]]:
    """Name -> cache, options of generate."""
    full = Depth(DEPTH)
    rules = {name: Depth(DEPTH, exit=name) for name in rules_for(model.config)}
    return {
        f"plain, {DEPTH} steps": (Cache(), {"depth": full}),
        **{f"plain, {steps} steps": (Cache(), {"depth": Depth(steps)}) for steps in (16, 8, 4)},
        **{f"exit {name}": (Cache(), {"depth": depth}) for name, depth in rules.items()},
        **{f"cache share {n}": (Cache(n), {"depth": full}) for n in (1, 2, 4)},
        "cache int8": (Cache(bits=8), {"depth": full}),
        "cache share 1, int8": (Cache(1, 8), {"depth": full}),
        f"speculate {SPECULATE}": (Cache(), {"depth": full, "speculate": SPECULATE}),
        f"speculate {SPECULATE}, exit latent-diff": (
            Cache(),
            {"depth": rules["latent-diff"], "speculate": SPECULATE},
        ),
        "speculate auto": (Cache(), {"depth": full, "speculate": "auto"}),
        "speculate auto, exit latent-diff": (
            Cache(),
            {"depth": rules["latent-diff"], "speculate": "auto"},
        ),
        "cache share 1, exit latent-diff": (Cache(1), {"depth": rules["latent-diff"]}),
        "exit latent-diff, prompt each": (
            Cache(),
            {"depth": Depth(DEPTH, exit="latent-diff", prompt="each")},
        ),
    }


class Row(NamedTuple):
    """One answer under one setting."""

    problem: Problem
    right: bool
    seconds: float
    stats: Stats


def rank_correlation(rows: list[Row]) -> float:
    """Spearman's correlation of difficulty and steps, mean over the tasks."""
    by_task = defaultdict(list)
    for row in rows:
        steps = row.stats.core_steps / row.stats.new_tokens
        by_task[row.problem.task].append((row.problem.difficulty, steps))

    def ranks(values: Any) -> Any:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[inverse]

    found = []
    for pairs in by_task.values():
        a, b = (ranks(values) for values in zip(*pairs, strict=True))
        if np.ptp(a) and np.ptp(b):
            found.append(np.corrcoef(a, b)[0, 1])
    return float(np.mean(found)) if found else float("nan")


@click.command(help=__doc__)
@click.option("--count", default=5, show_default=True, help="Problems a task and difficulty.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(count: int, out: Path | None) -> None:
    problems = held_out_problems(count)
    with rdlite.load("nano") as model:
        chosen = settings(model)
    models = {cache: rdlite.load("nano", cache=cache) for cache, _ in chosen.values()}

    def ask(name: str, problem: Problem) -> Row:
        cache, options = chosen[name]
        prompt = models[cache].encode_chat([{"role": "user", "content": problem.question}])
        clock = time.perf_counter()
        generation = models[cache].generate(prompt, 24, **options)
        stats = generation.stats
        seconds = time.perf_counter() - clock
        right = generation.text == problem.answer and stats.finish == "stop"
        return Row(problem, right, seconds, stats)

    for name in chosen:
        ask(name, problems[0])  # buffers are made, pages touched
    answers: dict[str, list[Row]] = {name: [] for name in chosen}
    for problem in problems:
        for name in chosen:
            answers[name].append(ask(name, problem))
    plain = answers[f"plain, {DEPTH} steps"]
    finish("depth", [describe(name, rows, plain) for name, rows in answers.items()], out)


def seconds(rows: list[Row]) -> float:
    """Time for whole answers."""
    return sum(row.seconds for row in rows)


def time_to_first_token(rows: list[Row]) -> float:
    """The part of it until each answer's first token."""
    return sum(row.stats.time_to_first_token for row in rows)


def describe(name: str, rows: list[Row], plain: list[Row]) -> dict[str, Any]:
    """Return a line of the table; `plain` is what times are relative to."""
    tokens = sum(row.stats.new_tokens for row in rows)
    rounds = sum(row.stats.rounds for row in rows)
    correlation = rank_correlation(rows)
    return {
        "setting": name,
        "exact answers": f"{np.mean([row.right for row in rows]):.1%}",
        "steps, prompt": round(
            sum(row.stats.prompt_steps for row in rows)
            / sum(row.stats.prompt_tokens for row in rows),
            1,
        ),
        "steps, answer": round(sum(row.stats.core_steps for row in rows) / tokens, 1),
        "tokens a round": round((tokens - len(rows)) / rounds, 2) if rounds else "",
        "first token": f"{time_to_first_token(plain) / time_to_first_token(rows):.2f}x",
        "speed": f"{seconds(plain) / seconds(rows):.2f}x",
        "steps follow difficulty": "" if np.isnan(correlation) else round(correlation, 2),
    }


if __name__ == "__main__":
    main()
