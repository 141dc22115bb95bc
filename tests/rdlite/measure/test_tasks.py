"""Problems: right answers (found again here by other means), seeds, and the held-out split."""

import random
import re
from itertools import accumulate

import pytest

from rdlite.measure.task_kinds import Mark, Problem, is_held_out
from rdlite.measure.tasks import TASKS, draw

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


def solve_multiplication(question):
    a, b = map(int, re.findall(r"\d+", question))
    return str(a * b)


def solve_chain(question):
    values = {}
    for name, value in re.findall(r"([a-z]) = ([^,;.]+)", question):
        values[name] = eval(value, {}, values)
    asked = re.search(r"what is ([a-z])\b", question.lower())
    return str(values[asked[1] if asked else name] % 10)


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
    items = re.search(r"(?:in|there:|[a-z]:) ((?:[a-z] ?)+)", question)[1].split()
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


def prefixes(problem):
    """The question up to each mark, and the mark."""
    before = ""
    for piece in problem.pieces:
        if isinstance(piece, Mark):
            yield before, piece
        else:
            before += piece


@pytest.mark.parametrize("task", ["chain", "parity", "counting", "story"])
def test_marks_are_what_can_be_known_there(task):
    solve = globals()[f"solve_{task}"]
    for problem in some(task, 5):
        difficulties = []
        for before, mark in prefixes(problem):
            known = solve(before)
            assert mark.text == (known[-1] if known.isdigit() else known), before
            difficulties.append(mark.difficulty)
        assert difficulties == sorted(difficulties)
        assert difficulties[-1] == 5


def test_marks_of_hops_say_where_a_place_leads():
    for problem in some("hops", 5):
        for before, mark in prefixes(problem):
            if "Start" in before or "From" in before:
                hops = max(1, len(re.findall(r", (?:hop|step|go)\b", before)))
                end = re.sub(r"(, (?:hop|step|go))*$", ", hop" * hops, before, count=1)
                assert mark.text == solve_hops(end)
                assert mark.difficulty == hops
            else:
                assert f"{before[-1]} to {mark.text}" in before


@pytest.mark.parametrize("task", ["addition", "subtraction", "multiplication"])
def test_scratch_is_the_answer_from_its_end(task):
    for problem in some(task, 3):
        assert problem.scratch == problem.answer[::-1]


def content(task, question):
    """What a problem is, found from its question alone: no names, no phrases, no order of terms."""
    numbers = re.findall(r"\d+", question)
    if task == "addition":
        return tuple(sorted(numbers))
    if task in ("subtraction", "multiplication"):
        return tuple(sorted(map(int, numbers)))
    if task == "chain":
        return tuple(value[-3:] for value in re.findall(r"[a-z] = ([^,;.]+)", question))
    if task == "hops":
        places = re.findall(r"\b[A-Z]\b", question)
        return tuple(map(places.index, places)), len(re.findall(r", (?:hop|step|go)\b", question))
    if task == "counting":
        letters = re.findall(r"\b[a-z]\b", question)
        return tuple(map(letters.index, letters))
    if task == "story":
        events = re.findall(r"(\w+) (\d+)", question)
        return tuple((verb in "Finds Gets Buys Makes has", number) for verb, number in events)
    return numbers[0]


@pytest.mark.parametrize(("task", "difficulty"), EVERY)
def test_no_problem_is_both_held_out_and_trained_on(task, difficulty):
    trained = {content(task, p.question) for p in some(task, difficulty, 1000)}
    held_out = {content(task, p.question) for p in some(task, difficulty, 100, True, seed=1)}
    assert len(held_out) >= 4
    assert not trained & held_out


@pytest.mark.parametrize("task", ["chain", "hops", "parity", "counting", "story"])
def test_training_is_not_told_the_answers_of_held_out_problems_on_the_way(task):
    """A long problem begins like shorter ones; training leaves out marks that answer those."""
    held_out = {p.key for d in (1, 2, 3) for p in some(task, d, 100, held_out=True)}
    seen = 0
    for problem in some(task, 6, 1500):
        for _, mark in prefixes(problem):
            if mark.key in held_out:
                assert is_held_out(task, mark.difficulty, mark.key)
                seen += 1
    assert seen


@pytest.mark.parametrize(("difficulty", "share"), [(2, 26 / 256), (5, 13 / 256)])
def test_some_are_held_out_and_more_of_the_easy_ones(difficulty, share):
    rng = random.Random(0)
    draft = TASKS["chain"].draft
    made = [Problem("chain", difficulty, *draft(rng, difficulty)) for _ in range(4000)]
    assert share - 0.02 < sum(problem.held_out for problem in made) / len(made) < share + 0.02


def test_the_same_seed_gives_the_same_problems():
    assert some("story", 4, 5, seed=7) == some("story", 4, 5, seed=7)
    assert some("story", 4, 5, seed=7) != some("story", 4, 5, seed=8)
