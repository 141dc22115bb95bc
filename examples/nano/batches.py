"""What nano is shown: problems as hard as it can bear, packed into rows."""

import random
from dataclasses import dataclass, field
from typing import Any

import torch
from small_talk import HELP, saying
from text import IGNORED, Encoder, Example, marks_of, steps_needed

from rdlite.measure.tasks import TASKS, draw

ROW = 128  # tokens
SMALL_TALK = 0.03  # of what is said
NEXT_TURN = 0.25  # how often a conversation goes on
PROMOTED_AT, AVERAGED_OVER = 0.85, 100  # accuracy on the hardest; problems
MASTERED_AT = 0.97  # accuracy on the hardest there are
FRONTIER = 0.5  # of the problems are as hard as they get


@dataclass
class Curriculum:
    """The highest difficulty of each task so far, and the accuracy there."""

    levels: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TASKS, 1))
    accuracy: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TASKS, 0.0))

    def state(self) -> dict[str, Any]:
        """Return what `Curriculum(**state)` makes again."""
        return {"levels": self.levels, "accuracy": self.accuracy}

    def choose(self, rng: random.Random, steps: int) -> tuple[str, int]:
        """Choose a task and a difficulty that so many steps can solve.

        Whole problems get some more steps than they need: for each unit of difficulty, what a first
        one takes. Their marks are asked for as soon as they can be known.
        """
        possible = [task for task in TASKS if steps_needed(task, 1) <= steps]
        (task,) = rng.choices(possible, [self._weight(task) for task in possible])
        top = min(self.levels[task], steps // steps_needed(task, 1))
        return task, top if rng.random() < FRONTIER else rng.randint(1, top)

    def depth(self) -> float:
        """The mean depth that the hardest problems now call for, in core steps."""
        needed = [steps_needed(task, level) for task, level in self.levels.items()]
        return 2 + 1.25 * sum(needed) / len(needed)

    def _weight(self, task: str) -> float:
        """How often a task comes: the further behind it is, the more often."""
        level, highest = self.levels[task], TASKS[task].highest
        if level == highest and self.accuracy[task] > MASTERED_AT:
            return 0.5
        return 1 + 4 * (1 - level / highest)

    def saw(self, batch: "Batch", right: torch.Tensor) -> None:
        """Take note of the answers; `right` is bool, of the batch's shape."""
        for (task, difficulty), row, start, end in batch.answers:
            if difficulty != self.levels.get(task):
                continue
            new = float(right[row, start:end].all())
            self.accuracy[task] += (new - self.accuracy[task]) / AVERAGED_OVER
            if self.accuracy[task] > PROMOTED_AT and difficulty < TASKS[task].highest:
                self.levels[task] += 1
                self.accuracy[task] = 0.4


@dataclass
class Batch:
    """Rows of whole conversations.

    Attributes:
        ids: int64 [B, ROW].
        targets: int64 [B, ROW], what should come after each id, or IGNORED.
        mask: bool [B, 1, ROW, ROW], true where a position sees another.
        answers: for each problem (task, difficulty), row, and where its answer's targets lie.
    """

    ids: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor
    answers: list[tuple[tuple[str, int], int, int, int]]


Turn = tuple[tuple[str, int], Example]


def make_batch(
    rng: random.Random, encoder: Encoder, curriculum: Curriculum, count: int, steps: int
) -> Batch:
    """Make a batch of `count` turns for a depth of `steps`."""
    conversations: list[list[Turn]] = []
    for _ in range(count):
        turn = _turn(rng, encoder, curriculum, steps)
        last = conversations[-1] if conversations else []
        if last and rng.random() < NEXT_TURN and _size([*last, turn]) <= ROW:
            last.append(turn)
        else:
            conversations.append([turn])
    rows: list[list[list[Turn]]] = []
    for conversation in sorted(conversations, key=_size, reverse=True):
        for row in rows:
            if sum(map(_size, row)) + _size(conversation) <= ROW:
                row.append(conversation)
                break
        else:
            rows.append([conversation])
    return _lay_out(rows, encoder)


def _turn(rng: random.Random, encoder: Encoder, curriculum: Curriculum, steps: int) -> Turn:
    if rng.random() < SMALL_TALK:
        return ("", 0), encoder.turn(saying(rng), HELP)
    chosen = curriculum.choose(rng, steps)
    problem = draw(rng, *chosen, held_out=False)
    marks = marks_of(problem, steps)
    return chosen, encoder.turn(problem.question, problem.answer, marks, problem.scratch)


def _size(conversation: list[Turn]) -> int:
    return 1 + sum(len(example.ids) for _, example in conversation)


def _lay_out(rows: list[list[list[Turn]]], encoder: Encoder) -> Batch:
    shape = (len(rows), ROW)
    ids, targets = torch.full(shape, encoder.pad), torch.full(shape, IGNORED)
    owner = torch.full(shape, -1)
    answers = []
    for r, row in enumerate(rows):
        end = 0
        for c, conversation in enumerate(row):
            ids[r, end], owner[r, end], end = encoder.begin, c, end + 1
            for what, example in conversation:
                first, end = end, end + len(example.ids)
                ids[r, first:end] = torch.tensor(example.ids)
                targets[r, first:end] = torch.tensor(example.targets)
                owner[r, first:end] = c
                answers.append((what, r, first + example.answer_start, end - 1))
    mask = (owner[:, :, None] == owner[:, None, :]) & torch.ones(ROW, ROW, dtype=torch.bool).tril()
    return Batch(ids, targets, mask[:, None], answers)
