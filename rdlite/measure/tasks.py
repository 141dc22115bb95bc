"""The table of tasks; `draw` makes a problem of one."""

from collections.abc import Callable
from dataclasses import dataclass

from rdlite.measure.task_kinds import (
    Draft,
    Problem,
    Random,
    _addition,
    _chain,
    _counting,
    _hops,
    _multiplication,
    _parity,
    _sorting,
    _story,
    _subtraction,
)


@dataclass(frozen=True)
class Task:
    """A kind of problems: `draft` makes one, `highest` is the highest difficulty."""

    draft: Callable[[Random, int], Draft]
    highest: int


TASKS = {
    "addition": Task(_addition, 4),
    "subtraction": Task(_subtraction, 4),
    "multiplication": Task(_multiplication, 3),
    "chain": Task(_chain, 10),
    "hops": Task(_hops, 8),
    "parity": Task(_parity, 8),
    "counting": Task(_counting, 6),
    "sorting": Task(_sorting, 7),
    "story": Task(_story, 8),
}


def draw(rng: Random, task: str, difficulty: int, held_out: bool) -> Problem:
    """Make a problem that is held out, or one that is not.

    Args:
        rng: where its numbers and its wording come from.
        task: a key of TASKS.
        difficulty: 1 to the task's highest.
        held_out: for evaluation (true) or for training.
    """
    while True:
        problem = Problem(task, difficulty, *TASKS[task].draft(rng, difficulty))
        if problem.held_out == held_out:
            return problem
