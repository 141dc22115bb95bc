"""Prompts read with each position at its own step: as if read one by one, however they are cut."""

import numpy as np
import pytest

import rdlite
from rdlite import Cache, Depth, Sampling
from rdlite.decode.prefill import read
from rdlite.exit.controller import Controller
from rdlite.measure.answers import encode_problem, held_out_problems
from rdlite.ort.initial_state import start_at

EACH = {
    "latent-diff": Depth(32, exit="latent-diff", prompt="each"),
    "cosine": Depth(32, exit="cosine", prompt="each"),
    "acceleration": Depth(32, exit="acceleration", prompt="each"),
    "seldom": Depth(24, 4, "latent-diff", 0.1, check_every=3, prompt="each"),
    "never": Depth(7, exit="latent-diff", threshold=0, prompt="each"),
}


@pytest.fixture(scope="module")
def problems(exact_nano):
    """Questions and answers of every task, easy and hard, as token ids."""
    return [encode_problem(exact_nano, problem) for problem in held_out_problems(1)[::5]]


@pytest.fixture(scope="module")
def text(problems):
    """Some hundred tokens."""
    return [token for question, answer in problems for token in question + answer][:300]


def read_all(model, ids, depth, chunk):
    """Logits of every position [S, V], core steps in all, the last position's steps and value."""
    controller = Controller(depth, depth.max_steps, model.config.vocab_size)
    start = start_at(model.config, "random", seed=3)
    logits, steps = [], 0
    for read_chunk in read(model.new_sequence(), ids, controller, start, chunk):
        logits.append(read_chunk.runner.logits(read_chunk.steps, read_chunk.runner.size).copy())
        steps += read_chunk.all_steps
    return np.concatenate(logits), steps, read_chunk.steps, read_chunk.value


@pytest.mark.parametrize("name", EACH)
def test_any_chunking_is_reading_one_by_one(exact_nano, problems, text, name):
    for ids in (problems[0][0], problems[-1][0], text):
        alone, steps, last, value = read_all(exact_nano, ids, EACH[name], 1)
        for chunk in (2, 7, 64, 4096):
            logits, *rest, its_value = read_all(exact_nano, ids, EACH[name], chunk)
            assert rest == [steps, last]
            assert np.abs(logits - alone).max() <= 1e-5 * np.abs(alone).max()
            assert np.isclose(its_value, value, rtol=1e-3)


def test_a_rule_that_is_never_content_is_plain_reading(exact_nano, text):
    never, steps, *_ = read_all(exact_nano, text, EACH["never"], 64)
    plain, *_ = read_all(exact_nano, text, Depth(7), 64)
    assert steps == 7 * len(text)
    assert np.array_equal(never, plain)


@pytest.mark.parametrize("rule", ["latent-diff", "cosine", "acceleration"])
def test_it_takes_fewer_steps_than_their_mean(exact_nano, problems, text, rule):
    mean = Depth(32, exit=rule)
    for ids in ([question for question, _ in problems], [text]):
        steps = [
            sum(exact_nano.generate(prompt, 1, depth).stats.prompt_steps for prompt in ids)
            for depth in (Depth(32), mean, EACH[rule])
        ]
        assert steps[2] < 0.9 * steps[1] < 0.9 * steps[0]


def test_every_position_has_settled(exact_nano, text):
    """At the mean, some are left behind."""
    plain, *_ = read_all(exact_nano, text, Depth(32), 64)
    far = [
        np.abs(read_all(exact_nano, text, depth, 64)[0] - plain).max(axis=1)
        for depth in (EACH["latent-diff"], Depth(32, exit="latent-diff"))
    ]
    assert np.quantile(far[0], 0.99) < 0.8 * np.quantile(far[1], 0.99)


def told(tokens):
    return [(token.id, token.steps) for token in tokens]


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("speculate", [None, (4, 6)])
def test_generation_goes_on_as_if_the_prompt_had_been_generated(
    exact_nano, problems, name, speculate
):
    """So a prompt that ends anywhere in what was said makes the same of the rest."""
    for number, (question, _) in enumerate(problems[::3]):
        how = {"depth": EACH[name], "seed": number, "speculate": speculate}
        whole = list(exact_nano.generate(question, 8, **how))
        ids = [token.id for token in whole]
        for said in range(1, len(whole)):
            rest = list(exact_nano.generate(question + ids[:said], 8 - said, **how))
            assert told(rest) == told(whole[said:])
            values = [[t.exit_value for t in tokens] for tokens in (rest, whole[said:])]
            assert np.allclose(*values, rtol=1e-3)


def test_answers_are_those_at_full_depth(exact_nano):
    for problem in held_out_problems(1)[1::2]:
        question, answer = encode_problem(exact_nano, problem)
        each, full = (
            exact_nano.generate(question, len(answer) + 1, depth).ids
            for depth in (EACH["latent-diff"], Depth(32))
        )
        assert each == full


@pytest.mark.parametrize("share", [1, 2, 4])
def test_shared_slots_keep_what_was_written_last(problems, share):
    with rdlite.load("nano", threads=1, cache=Cache(share)) as model:
        right = 0
        for question, answer in problems:
            generation = model.generate(question, len(answer) + 1, EACH["latent-diff"])
            right += generation.ids[:-1] == answer
            assert generation.stats.mean_prompt_steps < 24
        assert right >= len(problems) - 1
        if share == 1:
            return
        controller = Controller(EACH["latent-diff"], 32, model.config.vocab_size)
        sequence = model.new_sequence()
        question = problems[-1][0]
        for _ in read(sequence, question, controller, start_at(model.config, "random")):
            pass
        a, b = (slot.data[..., : len(question), :] for slot in sequence.steps_cache.slots[:2])
        assert (a != b).any(axis=(0, 1, 2, 3, 5)).all()  # none was filled from its neighbour


def test_a_conversation_does_not_depend_on_what_is_in_the_cache(exact_nano):
    talk = exact_nano.chat(depth=EACH["latent-diff"], sampling=Sampling(), history="all")
    for turn, question in enumerate(("What is 48 + 76?", "hello", "Sort 3142.", "What is 9 + 9?")):
        answer = talk.send(question)
        tokens, stats = list(answer), answer.stats
        assert (stats.reused_tokens > 0) == (turn > 0)
        assert 4 < stats.mean_prompt_steps < 20
        prompt = exact_nano.encode_chat(talk.messages[:-1])
        assert told(exact_nano.generate(prompt, depth=EACH["latent-diff"])) == told(tokens)
    assert talk.messages[1]["content"] == "124"
    assert talk.messages[-1]["content"] == "18"


def test_a_prompt_read_at_the_mean_counts_a_chunk_at_a_time(exact_nano, text):
    depth = Depth(32, exit="latent-diff")
    stats = exact_nano.generate(text[:100], 1, depth, chunk=60).stats
    alone = exact_nano.generate(text[:60], 1, depth, chunk=60).stats
    first = alone.prompt_steps // 60
    assert alone.prompt_steps == 60 * first
    assert (stats.prompt_steps - 60 * first) % 40 == 0
    assert stats.mean_prompt_steps == stats.prompt_steps / 100
