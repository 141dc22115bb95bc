"""Problems made by a program, each with a difficulty: what nano learns and `rdlite eval` asks.

A problem is answered at once, without writing out steps; its difficulty is about the number of
steps that have to be taken one after the other. Some problems are held out from training. Which, a
hash decides of what the problem is, whatever its wording: numbers, operations, the order of things,
but not names and phrases. So training and evaluation can never share one.
"""

import hashlib
import random
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple

#: Of 256 problems. Easy ones are few, so more of them are held out.
HELD_OUT, HELD_OUT_EASY, EASY = 13, 26, 2


def is_held_out(task: str, difficulty: int, key: str) -> bool:
    """Whether a problem is for evaluation only.

    Args:
        task: a key of TASKS.
        difficulty: 1 or more; 0 is no problem yet, so it is not.
        key: what the problem is, whatever its wording.
    """
    digest = hashlib.blake2b(f"{task} {key}".encode(), digest_size=1).digest()[0]
    return difficulty > 0 and digest < (HELD_OUT_EASY if difficulty <= EASY else HELD_OUT)


@dataclass(frozen=True)
class Mark:
    """What can be known after a piece of a question: a partial result, for training.

    What stands before it is a smaller problem, of which this is the answer; `difficulty` and `key`
    are that problem's. 0: it is none, but can be read off.
    """

    text: str
    difficulty: int
    key: str


@dataclass(frozen=True)
class Problem:
    """A question and its one answer.

    Attributes:
        task: a key of TASKS.
        difficulty: 1 to the task's highest.
        key: what makes it this problem, whatever its wording.
        pieces: the question; the marks between its texts are not part of it.
        answer: what must be said, exactly.
        scratch: partial results that are known only after the question, in the order in which
            they can be found; for training, like the marks.
    """

    task: str
    difficulty: int
    key: str
    pieces: tuple[str | Mark, ...]
    answer: str
    scratch: str = ""

    @property
    def question(self) -> str:
        """The question's text."""
        return "".join(piece for piece in self.pieces if isinstance(piece, str))

    @property
    def held_out(self) -> bool:
        """Whether it is for evaluation only."""
        return is_held_out(self.task, self.difficulty, self.key)


class Draft(NamedTuple):
    """What a task's function makes: a Problem but for its task and difficulty."""

    key: str
    pieces: tuple[str | Mark, ...]
    answer: str
    scratch: str = ""


Random = random.Random


def _digits(rng: Random, size: int) -> int:
    return rng.randrange(10 ** (size - 1) if size > 1 else 0, 10**size)


def _addition(rng: Random, difficulty: int) -> Draft:
    numbers = [_digits(rng, difficulty), _digits(rng, rng.randint(1, difficulty))]
    rng.shuffle(numbers)
    a, b = numbers
    wording = rng.choice(
        (
            "What is {} + {}?",
            "What is {} + {}?",
            "{} + {}",
            "{} + {} = ?",
            "{}+{}",
            "What is {}+{}?",
            "Add {} and {}.",
            "How much is {} plus {}?",
            "{} plus {}",
            "what is {} plus {}",
            "whats {} + {}",
            "What's {} + {}?",
        )
    )
    answer = str(a + b)
    return Draft(f"{min(a, b)}+{max(a, b)}", (wording.format(a, b),), answer, answer[::-1])


def _subtraction(rng: Random, difficulty: int) -> Draft:
    b, a = sorted((_digits(rng, difficulty), _digits(rng, rng.randint(1, difficulty))))
    wording = rng.choice(
        (
            "What is {0} - {1}?",
            "What is {0} - {1}?",
            "{0} - {1}",
            "{0} - {1} = ?",
            "{0}-{1}",
            "What is {0}-{1}?",
            "Take {1} from {0}.",
            "How much is {0} minus {1}?",
            "{0} minus {1}",
            "what is {0} minus {1}",
            "whats {0} - {1}",
            "What's {0} - {1}?",
        )
    )
    answer = str(a - b)
    return Draft(f"{a}-{b}", (wording.format(a, b),), answer, answer[::-1])


def _multiplication(rng: Random, difficulty: int) -> Draft:
    numbers = [_digits(rng, difficulty), rng.randrange(10)]
    rng.shuffle(numbers)
    a, b = numbers
    wording = rng.choice(
        (
            "What is {} * {}?",
            "What is {} times {}?",
            "{} * {}",
            "{} * {} = ?",
            "{}*{}",
            "{} x {}",
            "{} times {}",
            "Multiply {} by {}.",
            "How much is {} times {}?",
            "what is {} times {}",
            "whats {} times {}",
            "What's {} * {}?",
        )
    )
    answer = str(a * b)
    return Draft(f"{min(a, b)}*{max(a, b)}", (wording.format(a, b),), answer, answer[::-1])


LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _chain(rng: Random, difficulty: int) -> Draft:
    names = rng.sample(LETTERS, difficulty + 1)
    value = rng.randrange(10)
    key = str(value)
    body: list[str | Mark] = [f"{names[0]} = {value}", Mark(key, 0, key)]
    for i, (before, name) in enumerate(pairwise(names)):
        operator = rng.choice("+-*")
        n = rng.randrange(2 if operator == "*" else 1, 10)
        value = {"+": value + n, "-": value - n, "*": value * n}[operator] % 10
        key += f" {operator}{n}"
        body += [f", {name} = {before} {operator} {n}", Mark(str(value), i + 1, key)]
    start, end = rng.choice(
        (
            ("", "; what is {} mod 10?"),
            ("", ". What is {} mod 10?"),
            ("Given ", ", what is {} mod 10?"),
            ("Mod 10: ", "; what is {}?"),
        )
    )
    return Draft(key, (start, *body, end.format(names[-1])), str(value))


PLACES = "ABCDEFGHIJKL"


def _hops(rng: Random, difficulty: int) -> Draft:
    names = rng.sample(PLACES, rng.randint(max(difficulty + 1, 4), max(difficulty + 1, 7)))
    ways = list(pairwise(names))
    rng.shuffle(ways)
    first = rng.randrange(len(names) - difficulty)
    path = names[first : first + difficulty + 1]
    verb = rng.choice(("hop", "step", "go"))
    start, middle, end = rng.choice(
        (
            ("Ways: ", ". Start at", ". Where?"),
            ("", ". Start at", ". Where?"),
            ("Ways: ", ". From", ": where?"),
            ("", ". From", ": where?"),
        )
    )
    body: list[str | Mark] = [start]
    known: dict[str, str] = {}
    for i, (a, b) in enumerate(ways):
        body.append(f"{', ' * (i > 0)}{a} to {b}")
        if b in known:  # where it leads to was said before
            body.append(Mark(known[b], 1, _hops_key(ways[: i + 1], b, 1)))
        known[a] = b
    body += [f"{middle} {path[0]}", Mark(path[1], 1, _hops_key(ways, path[0], 1))]
    for i, name in enumerate(path[1:], 1):
        body += [f", {verb}", Mark(name, i, _hops_key(ways, path[0], i))]
    return Draft(_hops_key(ways, path[0], difficulty), (*body, end), path[-1])


def _hops_key(ways: list[tuple[str, str]], start: str, difficulty: int) -> str:
    """The graph with its places numbered as they appear."""
    numbers: dict[str, int] = {}
    for place in chain.from_iterable(ways):
        numbers.setdefault(place, len(numbers))
    graph = " ".join(f"{numbers[a]}>{numbers[b]}" for a, b in ways)
    return f"{graph} from {numbers[start]}, {difficulty}"


def _parity(rng: Random, difficulty: int) -> Draft:
    bits = "".join(rng.choice("01") for _ in range(2 * difficulty + rng.randint(2, 3)))
    body: list[str | Mark] = []
    answer = ""
    for i, bit in enumerate(bits):
        answer = "odd" if bits[: i + 1].count("1") % 2 else "even"
        body += [bit, Mark(answer, max(0, (i - 1) // 2), bits[: i + 1])]
    start, end = rng.choice(
        (
            ("Is the number of ones in ", " even or odd?"),
            ("Is the count of ones in ", " even or odd?"),
            ("Parity of ", "?"),
            ("", ": is the number of ones even or odd?"),
        )
    )
    return Draft(bits, (start, *body, end), answer)


def _counting(rng: Random, difficulty: int) -> Draft:
    wanted, *others = rng.sample("abcxyz", 3)
    items = [
        wanted if rng.random() < 0.5 else rng.choice(others)
        for _ in range(2 * difficulty + rng.randint(1, 2))
    ]
    roles = {wanted: "w"}
    key, count = "", 0
    body: list[str | Mark] = []
    for i, item in enumerate(items):
        count += item == wanted
        key += roles.setdefault(item, str(len(roles)))
        body += [f"{' ' * (i > 0)}{item}", Mark(str(count % 10), i // 2, key)]
    start, end = rng.choice(
        (
            ("How many {} are in ", "?"),
            ("How many {} are there: ", "?"),
            ("Count the {} in ", "."),
            ("Count the {}: ", "."),
        )
    )
    return Draft(key, (start.format(wanted), *body, end), str(count))


def _sorting(rng: Random, difficulty: int) -> Draft:
    digits = "".join(str(rng.randrange(10)) for _ in range(difficulty + 1))
    wording = rng.choice(("Sort {}.", "Sort the digits {}.", "Put {} in order.", "Sort {}"))
    return Draft(digits, (wording.format(digits),), "".join(sorted(digits)))


NAMES = "Ann Ben Eva Max Mia Tom Zoe".split()
THINGS = "apples books coins eggs nuts pens".split()
GAINS, LOSSES = "Finds Gets Buys Makes".split(), "Loses Sells Eats Drops".split()


def _story(rng: Random, difficulty: int) -> Draft:
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    value = rng.randrange(1, 10)
    key = str(value)
    body: list[str | Mark] = [f"{name} has {value} {things}.", Mark(key, 0, key)]
    for i in range(difficulty):
        lose = rng.random() < 0.5 if value > 0 else False
        n = rng.randint(1, min(9, value)) if lose else rng.randint(1, 9)
        if value + n > 19 and not lose:
            lose, n = True, min(n, value)
        value += -n if lose else n
        key += f" {'-' if lose else '+'}{n}"
        sentence = f" {rng.choice(LOSSES if lose else GAINS)} {n}."
        body += [sentence, Mark(str(value % 10), i + 1, key)]
    end = rng.choice((f" How many {things} now?", f" How many {things} has {name} now?"))
    return Draft(key, (*body, end), str(value))
