"""Problems: right answers (found again here by other means), seeds, and the held-out split."""

import random
import re
from itertools import accumulate

import pytest

from rdlite.tasks import TASKS, Mark, Problem, draw

EVERY = [(task, d) for task in TASKS for d in range(1, TASKS[task].highest + 1)]


def some(task, difficulty, count=60, held_out=False, seed=0):
    rng = random.Random(seed)
    return [draw(rng, task, difficulty, held_out) for _ in range(count)]


def solve_addition(question):
    a, b = map(int, re.findall(r"\d+", question))
    return str(a + b)


def solve_subtraction(question):
    a, b = map(int, re.findall(r"\d+", question))
    return str(b - a) if question.startswith("Take") else str(a - b)


def solve_chain(question):
    values = {}
    for name, value in re.findall(r"([a-z]) = ([^,;.]+)", question):
        values[name] = eval(value, {}, values)
    return str(values[re.search(r"what is ([a-z])\b", question.lower())[1]] % 10)


def solve_hops(question):
    ways = dict(re.findall(r"([A-Z]) to ([A-Z])", question))
    place = re.search(r"(?:Start at|From) ([A-Z])", question)[1]
    for _ in re.findall(r", (?:hop|step|go)\b", question):
        place = ways[place]
    return place


def solve_parity(question):
    return ("even", "odd")[re.search(r"[01]+", question)[0].count("1") % 2]


def solve_counting(question):
    wanted = re.search(r"(?:many|the) ([a-z])\b", question)[1]
    items = re.search(r"(?:in|there:|[a-z]:) ((?:[a-z] ?)+)[?.]", question)[1].split()
    return str(items.count(wanted))


def solve_sorting(question):
    return "".join(sorted(re.search(r"\d+", question)[0]))


def solve_story(question):
    value = int(re.search(r"has (\d+)", question)[1])
    for verb, number in re.findall(r"(\w+) (\d+)\.", question):
        value += int(number) if verb in "Finds Gets Buys Makes" else -int(number)
    return str(value)


@pytest.mark.parametrize(("task", "difficulty"), EVERY)
def test_answers_are_right(task, difficulty):
    solve = globals()[f"solve_{task}"]
    for problem in some(task, difficulty):
        assert solve(problem.question) == problem.answer, problem.question
        assert (problem.task, problem.difficulty) == (task, difficulty)


def test_stories_never_owe_anything():
    for problem in some("story", 8, 200):
        start = int(re.search(r"has (\d+)", problem.question)[1])
        changes = [
            int(n) if verb in "Finds Gets Buys Makes" else -int(n)
            for verb, n in re.findall(r"(\w+) (\d+)\.", problem.question)
        ]
        assert min(accumulate(changes, initial=start)) >= 0


@pytest.mark.parametrize("task", ["chain", "hops", "parity", "counting", "story"])
def test_the_last_mark_is_the_answer(task):
    for problem in some(task, 3):
        marks = [piece.text for piece in problem.pieces if isinstance(piece, Mark)]
        assert marks[-1] == problem.answer[-1:] or marks[-1] == problem.answer


@pytest.mark.parametrize("task", ["addition", "subtraction"])
def test_scratch_is_the_answer_from_its_end(task):
    for problem in some(task, 3):
        assert problem.scratch == problem.answer[::-1]


@pytest.mark.parametrize(("task", "difficulty"), EVERY)
def test_no_problem_is_both_held_out_and_trained_on(task, difficulty):
    trained = {p.key for p in some(task, difficulty, 400)}
    held_out = {p.key for p in some(task, difficulty, 100, held_out=True, seed=1)}
    assert trained
    assert held_out
    assert not trained & held_out


def test_the_wording_does_not_decide_what_is_held_out():
    numbers = {}
    for held_out in (True, False):
        for problem in some("addition", 1, 500, held_out):
            pair = tuple(sorted(map(int, re.findall(r"\d+", problem.question))))
            assert numbers.setdefault(pair, held_out) == held_out
    assert set(numbers.values()) == {True, False}


def test_about_one_in_twenty_is_held_out():
    rng = random.Random(0)
    made = [Problem("chain", 4, *TASKS["chain"].draft(rng, 4)) for _ in range(4000)]
    assert 0.03 < sum(problem.held_out for problem in made) / len(made) < 0.07


def test_the_same_seed_gives_the_same_problems():
    assert some("story", 4, 5, seed=7) == some("story", 4, 5, seed=7)
    assert some("story", 4, 5, seed=7) != some("story", 4, 5, seed=8)
