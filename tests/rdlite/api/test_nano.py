"""The model that ships: exact answers, depth that pays, a recurrence that stays where it is."""

import numpy as np
import pytest

import rdlite
from rdlite.loader import SHIPPED, verify_bundle
from rdlite.measure.answers import answer, held_out_problems


@pytest.fixture(scope="module")
def answers(nano):
    return answer(nano, held_out_problems(6, seed=11), (1, 16, 32, 64))


def ask(nano, *questions, steps=None):
    chat = nano.chat(depth=rdlite.Depth(steps))
    return [chat.send(question, max_tokens=60).text for question in questions]


def test_it_is_small_and_whole():
    assert len(list(verify_bundle("nano"))) == 12
    assert sum(path.stat().st_size for path in (SHIPPED / "nano").iterdir()) < 8 * 2**20
    assert (SHIPPED / "nano" / "README.md").exists()


def test_it_answers_at_its_default_depth(nano):
    assert ask(nano, "What is 48 + 76?") == ["124"]
    assert ask(nano, "What is 93 - 57?") == ["36"]
    assert ask(nano, "Is the number of ones in 1011010 even or odd?") == ["even"]
    assert ask(nano, "Sort 52714.") == ["12457"]


def test_what_is_no_problem_gets_a_sentence(nano):
    for said, begins in (
        ("hello", "Hello! I can add, subtract"),
        ("Who are you?", "I am nano"),
        ("What is the capital of France?", "I can't do that; I can add"),
        ("whats the weather like", "I can't do that; I can add"),
    ):
        (reply,) = ask(nano, said)
        assert reply.startswith(begins)
        assert reply.endswith("short stories.")
    assert ask(nano, "thanks") == ["You're welcome."]


def test_it_multiplies_and_goes_on_from_its_last_answer(nano):
    assert ask(nano, "whats 12 times 3", "and plus 3?", "minus 20") == ["36", "39", "19"]


def test_a_conversation_goes_on(nano):
    replies = ask(nano, "What is 48 + 76?", "hello", "What is 15 + 27?")
    assert replies[0] == "124"
    assert replies[1].startswith("Hello! I can add")
    assert replies[2] == "42"


def test_depth_pays(answers):
    at_1, at_16, _, _ = answers.accuracy()
    assert at_16 >= 0.95
    assert at_16 >= at_1 + 0.3


def test_hard_chains_need_more_steps_than_easy_ones(nano):
    depths = tuple(range(1, 17))
    measured = answer(nano, held_out_problems(20, seed=3, tasks=("chain",)), depths)
    needed = [
        next(
            d for d, share in zip(depths, measured.accuracy("chain", k), strict=True) if share > 0.8
        )
        for k in (1, 4, 8)
    ]
    assert needed == sorted(set(needed))


def test_thinking_longer_than_in_training_does_no_harm(answers, nano):
    _, _, at_32, at_64 = answers.accuracy()
    assert at_64 >= at_32 - 0.01
    ids = nano.encode_chat([{"role": "user", "content": "What is 48 + 76?"}])
    logits = [x.copy() for _, x in nano.logits_by_depth(ids, (32, 64, 256), last=1)]
    assert len({int(x.argmax()) for x in logits}) == 1
    assert np.isfinite(logits[-1]).all()


def test_it_is_the_default_model(nano):
    with rdlite.load() as model:
        assert model.bundle.folder == nano.bundle.folder
