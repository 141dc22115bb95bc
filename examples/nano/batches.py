"""What nano is shown: problems as hard as it can bear, packed into rows."""

import random
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from follow_ups import follow_up, unanswerable
from small_talk import CANNOT, beyond, talk
from text import IGNORED, Encoder, Example, marks_of, steps_needed

from rdlite.measure.tasks import TASKS, draw

#: Tokens of a row, how often a conversation goes on, and how many rows are so: most are short,
#: and some hold a whole chat.
SHORT, LONG = (128, 0.4), (896, 0.95)
LONG_SHARE = 0.25
TALK, BEYOND = 0.03, 0.17  # of what is said
FOLLOW_UP = 0.35  # of what is said after a number
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
        ids: int64 [B, S].
        targets: int64 [B, S], what should come after each id, or IGNORED.
        mask: bool [B, 1, S, S], true where a position sees another.
        answers: for each problem (task, difficulty), row, and where its answer's targets lie.
    """

    ids: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor
    answers: list[tuple[tuple[str, int], int, int, int]]


class Turn(NamedTuple):
    """A problem (task, difficulty), or ("", 0), its answer, and how both are learned."""

    what: tuple[str, int]
    answer: str
    example: Example


def make_batch(
    rng: random.Random, encoder: Encoder, curriculum: Curriculum, count: int, steps: int
) -> Batch:
    """Make a batch of `count` turns for a depth of `steps`."""
    size, next_turn = LONG if rng.random() < LONG_SHARE else SHORT
    conversations: list[list[Turn]] = [[]]
    for _ in range(count):
        before = conversations[-1] if rng.random() < next_turn else []
        turn = _turn(rng, encoder, curriculum, steps, before[-1].answer if before else "")
        if before and _size([*before, turn]) <= size:
            before.append(turn)
        else:
            if before:  # it may have been a follow-up
                turn = _turn(rng, encoder, curriculum, steps, "")
            conversations.append([turn])
    rows: list[list[list[Turn]]] = []
    for conversation in sorted(conversations[1:], key=_size, reverse=True):
        for row in rows:
            if sum(map(_size, row)) + _size(conversation) <= size:
                row.append(conversation)
                break
        else:
            rows.append([conversation])
    return _lay_out(rows, encoder, size)


def _turn(
    rng: random.Random, encoder: Encoder, curriculum: Curriculum, steps: int, last: str
) -> Turn:
    """One turn, after nano has said `last`."""
    kind = rng.random()
    if kind < TALK:
        return _told(encoder, *talk(rng))
    if kind < TALK + BEYOND:
        lost = not last.isdigit() and rng.random() < 0.1
        return _told(encoder, unanswerable(rng) if lost else beyond(rng), CANNOT)
    then = follow_up(rng, last, held_out=False) if rng.random() < FOLLOW_UP else None
    if then and steps_needed(then.task, then.difficulty) <= steps:
        scratch = then.answer[::-1]
        return Turn(("", 0), then.answer, encoder.turn(then.question, then.answer, (), scratch))
    chosen = curriculum.choose(rng, steps)
    problem = draw(rng, *chosen, held_out=False)
    marks = marks_of(problem, steps)
    example = encoder.turn(problem.question, problem.answer, marks, problem.scratch)
    return Turn(chosen, problem.answer, example)


def _told(encoder: Encoder, said: str, answer: str) -> Turn:
    return Turn(("", 0), answer, encoder.turn(said, answer))


def _size(conversation: list[Turn]) -> int:
    return 1 + sum(len(turn.example.ids) for turn in conversation)


def _lay_out(rows: list[list[list[Turn]]], encoder: Encoder, size: int) -> Batch:
    shape = (len(rows), size)
    ids, targets = torch.full(shape, encoder.pad), torch.full(shape, IGNORED)
    owner = torch.full(shape, -1)
    answers = []
    for r, row in enumerate(rows):
        end = 0
        for c, conversation in enumerate(row):
            ids[r, end], owner[r, end], end = encoder.begin, c, end + 1
            for what, _, example in conversation:
                first, end = end, end + len(example.ids)
                ids[r, first:end] = torch.tensor(example.ids)
                targets[r, first:end] = torch.tensor(example.targets)
                owner[r, first:end] = c
                answers.append((what, r, first + example.answer_start, end - 1))
    mask = (owner[:, :, None] == owner[:, None, :]) & torch.ones(
        size, size, dtype=torch.bool
    ).tril()
    return Batch(ids, targets, mask[:, None], answers)
