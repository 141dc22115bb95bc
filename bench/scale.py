"""What a batch job costs and how it behaves on many nodes: measured here, then simulated.

    .venv/bin/python bench/scale.py                   # nano
    .venv/bin/python bench/scale.py BUNDLE --threads 8

A row's time is taken to be P (p + q r) + T (a + b r) for P tokens of prompt, T tokens of answer
and r core steps each; four jobs of different P, T and r, through the same code as `rdlite batch`,
give p, q, a and b. Loading the model and writing a record are timed too.

The simulation is of what `rdlite batch --ray` does: pieces are given out in order to nodes that are
free, a node that fails loses its piece and comes back later, nobody works further ahead of the
first missing piece than is allowed, and one machine writes all records in order. Nodes are a few
percent faster or slower than each other; answers have a geometric length. "of ideal" is the time
that all nodes would need if each had work all the time and nothing failed.
"""

import heapq
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import random_bundle
from report import finish

from rdlite import Depth, Model, Sampling
from rdlite.batch.answers import FEW, MANY, Answerer, Record
from rdlite.batch.journal import Journal, begin
from rdlite.batch.local import open_model
from rdlite.batch.options import Load, Options, is_small
from rdlite.batch.rows import Row
from rdlite.batch.scan import MARK, MAX_PIECE
from rdlite.loader import open_bundle

HOUR = 3600.0
DEPTHS = (4, 8, 16, 32)


@dataclass(frozen=True)
class Measured:
    """Seconds: of a token of prompt and its steps, of one of an answer, of loading, of a record."""

    prompt: float
    prompt_step: float
    answer: float
    answer_step: float
    load: float
    record: float

    def row(self, prompt: float, answer: float, steps: float) -> float:
        """Seconds of a row."""
        reading = prompt * (self.prompt + self.prompt_step * steps)
        return reading + answer * (self.answer + self.answer_step * steps)


def seconds_a_row(model: Model, at_once: int, rows: int, shape: tuple[int, int, int]) -> float:
    """Seconds of a row of so many tokens of prompt and answer at so many steps."""
    prompt, answer, steps = shape
    options = Options(answer, Depth(steps), Sampling())
    value = {"prompt": [5] * prompt, "min_tokens": answer}
    answerer = Answerer(model, options, at_once)
    clock = time.perf_counter()
    for record in answerer.answer(Row(number, value) for number in range(rows)):
        assert record.tokens == answer, record
    return (time.perf_counter() - clock) / rows


def measure(load: Load, rows: int, rounds: int, scale: int) -> Measured:
    """Measure a model; `scale` is how many tokens the longer prompts and answers have."""
    clock = time.perf_counter()
    with open_model(load) as model:
        loading = time.perf_counter() - clock
        shapes = [(scale, 1, 2), (scale, 1, 6), (2, scale, 2), (2, scale, 6)]
        at_once = load.at_once or (FEW if is_small(model.bundle) else MANY)
        seconds_a_row(model, at_once, at_once, (2, 1, 2))
        found = [
            [seconds_a_row(model, at_once, rows, shape) for shape in shapes] for _ in range(rounds)
        ]
    terms = [[p, p * r, t, t * r] for p, t, r in shapes]
    solved = np.linalg.solve(np.array(terms, float), np.median(found, axis=0))
    return Measured(*(max(float(x), 0.0) for x in solved), loading, seconds_a_record())


def seconds_a_record(count: int = 20_000) -> float:
    """Seconds that the one writer takes for a record, its journal included."""
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "out.part"
        with begin(part), Journal(part, {}, False) as journal:
            clock = time.perf_counter()
            for number in range(count):
                journal.add(Record(number, "an answer of usual length " * 16, "stop", 900, 100))
            return (time.perf_counter() - clock) / count


@dataclass(frozen=True)
class Job:
    """What is simulated: rows of a mean shape on some nodes, which fail at times."""

    rows: int
    prompt: int
    answer: int
    steps: float
    nodes: int
    failures: float  # a node and hour
    back: float  # seconds until one that failed is there again
    ahead: int = 8  # pieces for each node that may be done before the first one missing


def simulate(job: Job, costs: Measured, seed: int = 0) -> dict[str, float]:
    """Run a job; returns its hours, and shares of them."""
    rng = random.Random(seed)
    speeds = [rng.gauss(1.0, 0.05) for _ in range(job.nodes)]
    sizes = list(_pieces(job))
    todo = list(range(len(sizes)))  # a heap: what was lost comes first again
    done: set[int] = set()
    first = redone = 0
    written = 0.0
    events: list[tuple[float, int, int]] = []  # when, node, what it has done; -1: it is there
    for node in range(job.nodes):
        heapq.heappush(events, (costs.load * speeds[node], node, -1))
    idle: list[int] = []
    now = 0.0
    while first < len(sizes):
        now, node, piece = heapq.heappop(events)
        if piece >= 0:
            done.add(piece)
            while first in done:
                done.discard(first)
                written = max(written, now) + sizes[first] * costs.record
                first += 1
        idle.append(node)
        while idle and todo and todo[0] < first + job.ahead * job.nodes:
            node, piece = idle.pop(), heapq.heappop(todo)
            seconds = _seconds(job, costs, sizes[piece], rng) * speeds[node]
            fails = rng.expovariate(job.failures / HOUR) if job.failures else float("inf")
            if fails < seconds:
                heapq.heappush(todo, piece)
                redone += 1
                back = now + fails + job.back + costs.load * speeds[node]
                heapq.heappush(events, (back, node, -1))
            else:
                heapq.heappush(events, (now + seconds, node, piece))
    end = max(now, written)
    useful = job.rows * costs.row(job.prompt, job.answer, job.steps)
    return {
        "hours": end / HOUR,
        "efficiency": useful / (end * sum(1 / speed for speed in speeds)),
        "pieces done again": redone / len(sizes),
        "writer": job.rows * costs.record / end,
    }


def _pieces(job: Job) -> Iterator[int]:
    size = min(MAX_PIECE, max(MARK, job.rows // (4 * job.nodes) // MARK * MARK))
    for start in range(0, job.rows, size):
        yield min(size, job.rows - start)


def _seconds(job: Job, costs: Measured, rows: int, rng: random.Random) -> float:
    """Seconds of a piece: answers of geometric length, so the sum spreads as a normal would."""
    mean = costs.row(job.prompt, job.answer, job.steps)
    spread = job.answer * (costs.answer + costs.answer_step * job.steps)
    return max(rows * mean * 0.1, rng.gauss(rows * mean, rows**0.5 * spread))


def cost_rows(name: str, costs: Measured, cores: int) -> list[dict[str, Any]]:
    """Core hours of a million tokens, by depth."""
    million = 1e6 * cores / HOUR
    return [
        {
            "model": name,
            "steps": steps,
            "answer, core hours": f"{million * costs.row(0, 1, steps):.3g}",
            "prompt, core hours": f"{million * costs.row(1, 0, steps):.3g}",
            "of a prompt token": f"{costs.row(1, 0, steps) / costs.row(0, 1, steps):.0%}",
        }
        for steps in DEPTHS
    ]


def node_rows(name: str, costs: Measured, job: dict[str, Any]) -> list[dict[str, Any]]:
    """A job on more and more nodes, without failures and with."""
    found = []
    for nodes in (1, 10, 100, 1000):
        for failures in (0.0, 0.1):
            result = simulate(Job(nodes=nodes, failures=failures, back=120, **job), costs)
            found.append(
                {
                    "model": name,
                    "nodes": nodes,
                    "failures, node and hour": failures,
                    "hours": f"{result['hours']:.3g}",
                    "of ideal": f"{result['efficiency']:.1%}",
                    "pieces done again": f"{result['pieces done again']:.2%}",
                    "writer busy": f"{result['writer']:.2%}",
                }
            )
    return found


@click.command(help=__doc__)
@click.argument("model", default="nano")
@click.option("--huginn", is_flag=True, help="Huginn's shape, random int4 weights; takes 3 GB.")
@click.option("--threads", default=1, show_default=True)
@click.option("--at-once", type=int)
@click.option("--rows", default=32, show_default=True, help="Rows of a measured job.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--scale", default=64, show_default=True, help="Tokens of longer prompts, answers.")
@click.option("--job-rows", default=1_000_000, show_default=True, help="Of the simulated job.")
@click.option("--prompt", default=200, show_default=True, help="Tokens of its prompts.")
@click.option("--answer", default=100, show_default=True, help="Mean tokens of its answers.")
@click.option("--steps", default=8.0, show_default=True, help="Its mean steps.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here as well.")
def main(
    model: str,
    huginn: bool,
    threads: int,
    at_once: int | None,
    rows: int,
    rounds: int,
    scale: int,
    job_rows: int,
    prompt: int,
    answer: int,
    steps: float,
    out: Path | None,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if huginn:
            model = str(random_bundle.write_random_huginn(Path(folder) / "huginn", 4))
        load = Load(model, threads=threads, at_once=at_once)
        name = open_bundle(model).manifest.name
        costs = measure(load, rows, rounds, scale)
    print(costs, end="\n\n")
    job = {"rows": job_rows, "prompt": prompt, "answer": answer, "steps": steps}
    found = cost_rows(name, costs, threads)
    finish("scale", found, None)
    print(f"\nThe job: {job}\n")
    finish("scale", node_rows(name, costs, job), out)


if __name__ == "__main__":
    main()
