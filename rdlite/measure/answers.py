"""Measures a model: exact answers, perplexity and divergence from another model, all by depth.

One run to the greatest depth serves every depth asked for: what a position holds after t steps does
not depend on how many more are run.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rdlite.api.model import Model
from rdlite.errors import InputError
from rdlite.measure.task_kinds import Problem
from rdlite.measure.tasks import TASKS, draw
from rdlite.utils.progress import Progress, meter

Floats = npt.NDArray[np.float32]


def held_out_problems(count: int, seed: int = 0, tasks: Iterable[str] = TASKS) -> list[Problem]:
    """Return held-out problems of every difficulty of these tasks, no two the same.

    Args:
        count: problems for each task and difficulty; of the easiest there are not as many.
        seed: the same seed gives the same problems.
        tasks: keys of TASKS; InputError for others.
    """
    problems: list[Problem] = []
    for task in tasks:
        if task not in TASKS:
            raise InputError(f"{task!r:.40} is no task; there are {', '.join(TASKS)}")
        for difficulty in range(1, TASKS[task].highest + 1):
            rng = random.Random(f"{seed} {task} {difficulty}")
            found: dict[str, Problem] = {}
            for _ in range(20 * count):
                problem = draw(rng, task, difficulty, held_out=True)
                found.setdefault(problem.key, problem)
                if len(found) == count:
                    break
            problems += found.values()
    return problems


@dataclass(frozen=True)
class Answers:
    """Which problems were answered exactly, at which depth.

    Attributes:
        depths: core steps, D of them.
        problems: N of them.
        right: bool [N, D].
    """

    depths: tuple[int, ...]
    problems: tuple[Problem, ...]
    right: npt.NDArray[np.bool_]

    def accuracy(self, task: str | None = None, difficulty: int | None = None) -> list[float]:
        """Share of right answers by depth.

        That of a task is the mean over its difficulties, that of all the mean over the tasks.
        """
        if task is None:
            means = np.array([self.accuracy(name) for name in self.tasks])
        elif difficulty is None:
            means = np.array([self.accuracy(task, each) for each in self.difficulties(task)])
        else:
            means = self.right[self._chosen(task, difficulty)]
        return [float(x) for x in means.mean(axis=0)]

    @property
    def tasks(self) -> list[str]:
        """The tasks that were asked."""
        return list(dict.fromkeys(problem.task for problem in self.problems))

    def difficulties(self, task: str) -> list[int]:
        """The difficulties of a task that were asked, ascending."""
        return sorted({p.difficulty for p in self.problems if p.task == task})

    def count(self, task: str, difficulty: int) -> int:
        """How many problems of a task and difficulty were asked."""
        return sum(self._chosen(task, difficulty))

    def _chosen(self, task: str, difficulty: int) -> list[bool]:
        return [p.task == task and p.difficulty == difficulty for p in self.problems]


def answer(
    model: Model,
    problems: Sequence[Problem],
    depths: Sequence[int],
    seed: int = 0,
    progress: Progress | None = None,
) -> Answers:
    """Ask a model problems, each as the first message of a chat, answered greedily.

    An answer is right if it is the problem's, token by token, and ends there.

    Args:
        model: needs a tokenizer and a chat template.
        problems: as `held_out_problems` makes them.
        depths: core steps, ascending.
        seed: selects random initial states.
        progress: called with (problems done, problems in all).

    Raises:
        InputError: the model cannot chat, or a number is out of bounds.
    """
    stops = np.array(model.generation_config.stop_ids, np.int64)
    advance = meter(len(problems), progress)
    right = np.zeros((len(problems), len(depths)), bool)
    for i, problem in enumerate(problems):
        prompt, expected = encode_problem(model, problem)
        # Greedy decoding says the answer exactly if each of its tokens is the likeliest after the
        # ones before it; so one reading of them all tells.
        scored = model.logits_by_depth([*prompt, *expected], depths, seed, last=len(expected) + 1)
        for j, (_, logits) in enumerate(scored):
            said = logits.argmax(axis=1)
            right[i, j] = (said[:-1] == expected).all() and said[-1] in stops
        advance(1)
    return Answers(tuple(depths), tuple(problems), right)


def encode_problem(model: Model, problem: Problem) -> tuple[list[int], list[int]]:
    """Return the token ids of a problem as the first message of a chat, and of its answer.

    Raises InputError if the model cannot chat, or both together are longer than its context.
    """
    try:
        prompt = model.encode_chat([{"role": "user", "content": problem.question}])
        answer = model.tokenizer.encode(problem.answer, add_special_tokens=False)
        model.check_ids([*prompt, *answer])
    except InputError as reason:
        raise InputError(
            f"problems cannot be put to this model, give a text file instead: {reason}"
        ) from None
    return prompt, answer
