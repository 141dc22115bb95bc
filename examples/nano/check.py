"""Checks what nano says to what is no single problem: small talk, follow-ups, whole chats.

    python examples/nano/check.py [MODEL]

Prints how many of questions.txt (none of them trained on) are answered with a number, how many
follow-ups are right, and how many answers are right in each turn of chats of 16 problems. All
problems are held out from training; answers are greedy.
"""

import random
import re
from pathlib import Path

import click
from follow_ups import follow_up

import rdlite
from rdlite.measure.task_kinds import Problem
from rdlite.measure.tasks import TASKS, draw

QUESTIONS = Path(__file__).with_name("questions.txt").read_text("utf-8").splitlines()
#: Tasks whose answer is a number that can be followed up.
COUNTED = ("addition", "subtraction", "multiplication", "story", "counting", "chain")


def wrong_numbers(model: rdlite.Model) -> list[tuple[str, str]]:
    """Return the questions that got something else than a sentence, and what they got."""
    answers = ((question, model.chat().send(question).text) for question in QUESTIONS)
    return [(q, a) for q, a in answers if not re.fullmatch(r"\D{8,}", a)]


def follow_ups(model: rdlite.Model, count: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """Ask a problem and then one or two follow-ups, `count` times.

    Returns: of each follow-up, what was asked, what nano said and what is right.
    """
    rng, asked = random.Random(seed), []
    for _ in range(count):
        chat = model.chat()
        task = rng.choice(COUNTED)
        last = chat.send(problem(rng, task).question).text
        for _ in range(rng.randint(1, 2)):
            then = follow_up(rng, last, held_out=True)
            if not then:
                break
            said = chat.send(then.question).text
            asked.append((f"{last}; {then.question}", said, then.answer))
            last = said
    return asked


def problem(rng: random.Random, task: str) -> Problem:
    """Return a held-out problem of a task, of any difficulty."""
    return draw(rng, task, rng.randint(1, TASKS[task].highest), held_out=True)


def turns(model: rdlite.Model, chats: int, length: int, seed: int = 0) -> list[float]:
    """Return the share of right answers in each turn of chats of `length` problems."""
    rng, right = random.Random(seed), [0] * length
    for _ in range(chats):
        chat = model.chat()
        for turn in range(length):
            asked = problem(rng, rng.choice(list(TASKS)))
            right[turn] += chat.send(asked.question).text == asked.answer
    return [count / chats for count in right]


@click.command(help=__doc__)
@click.argument("model", default="")
@click.option("--chats", default=60, show_default=True, help="Chats of 16 problems.")
@click.option("--count", default=200, show_default=True, help="Problems to follow up.")
def main(model: str, chats: int, count: int) -> None:
    """Check nano."""
    with rdlite.load(model) if model else rdlite.load() as loaded:
        wrong = wrong_numbers(loaded)
        click.echo(f"{len(QUESTIONS) - len(wrong)} of {len(QUESTIONS)} questions get a sentence")
        for question, answer in wrong:
            click.echo(f"  {question} -> {answer}")
        asked = follow_ups(loaded, count)
        missed = [each for each in asked if each[1] != each[2]]
        click.echo(f"{len(asked) - len(missed)} of {len(asked)} follow-ups are right")
        for question, said, answer in missed[:10]:
            click.echo(f"  {question} -> {said}, not {answer}")
        shares = turns(loaded, chats, 16)
        click.echo("right by turn: " + " ".join(f"{share:.0%}" for share in shares))


if __name__ == "__main__":
    main()
