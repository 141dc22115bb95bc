"""Follow-ups: what is to be done to the number that nano said last."""

import random
from dataclasses import dataclass

from rdlite.measure.task_kinds import is_held_out

_WORDINGS = {
    "+": "and plus {}?|plus {}|plus {}?|and plus {}|+ {}|now add {}|add {}|Add {} to that.|"
    "add {} more|Now add {}.|And plus {}?|what about plus {}?",
    "-": "and minus {}?|minus {}|minus {}?|and minus {}|now take away {}|take away {}|"
    "Take {} from that.|Now subtract {}.|subtract {}|And minus {}?|what about minus {}?",
    "*": "and times {}?|times {}|times {}?|and times {}|* {}|now multiply by {}|multiply by {}|"
    "Multiply that by {}.|And times {}?|what about times {}?",
}
WORDINGS = {op: text.split("|") for op, text in _WORDINGS.items()}
TASKS = {"+": "addition", "-": "subtraction", "*": "multiplication"}
LONGEST = {"+": 4, "-": 4, "*": 3}  # digits of the last answer


@dataclass(frozen=True)
class FollowUp:
    """A question about the last answer; task and difficulty are those of the whole problem."""

    task: str
    difficulty: int
    question: str
    answer: str


def follow_up(rng: random.Random, last: str, held_out: bool) -> FollowUp | None:
    """Make a follow-up to an answer; None: none can be made of it.

    Args:
        rng: where its number and its wording come from.
        last: what nano said; a number, or nothing follows from it.
        held_out: whether the problem that it amounts to is held out from training.
    """
    if not last.isdigit() or len(last) > 4:
        return None
    value = int(last)
    for _ in range(20):
        op = rng.choice("++-*")
        if len(last) > LONGEST[op]:
            continue
        n = rng.randrange(10) if op == "*" else rng.randrange(10 ** rng.randint(1, 3))
        if op == "-" and n > value:
            n = rng.randint(0, value)
        small, large = sorted((value, n))
        key = {"+": f"{small}+{large}", "-": f"{value}-{n}", "*": f"{small}*{large}"}[op]
        difficulty = len(str(large))
        if is_held_out(TASKS[op], difficulty, key) != held_out:
            continue
        answer = {"+": value + n, "-": value - n, "*": value * n}[op]
        return FollowUp(TASKS[op], difficulty, rng.choice(WORDINGS[op]).format(n), str(answer))
    return None


def unanswerable(rng: random.Random) -> str:
    """Return a follow-up's wording, for where there is no number to follow."""
    return rng.choice(WORDINGS[rng.choice("+-*")]).format(rng.randrange(10 ** rng.randint(1, 3)))
