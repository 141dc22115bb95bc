"""Speculation gives what plain decoding gives: tokens, steps, values; and rolls back cleanly."""

import dataclasses
import random

import numpy as np
import pytest

import rdlite
from rdlite import Depth, Sampling
from rdlite.decode.loop import generate_tokens
from rdlite.decode.speculation.draft_schedule import LEAST, Round, Schedules
from rdlite.decode.speculation.staggered_schedule import AutoStagger
from rdlite.measure.answers import held_out_problems

DEPTHS = {
    "fixed": Depth(12),
    "latent-diff": Depth(12, exit="latent-diff", threshold=0.05),
    "latent-diff, seldom": Depth(10, 3, "latent-diff", 0.1, check_every=2),
    "acceleration": Depth(12, exit="acceleration", threshold=0.1),
    "cosine": Depth(12, exit="cosine", threshold=0.01),
    "kl": Depth(12, exit="kl"),
    "gated-kl": Depth(12, exit="gated-kl"),
    "minp-kl": Depth(12, exit="minp-kl"),
    "entropy-diff": Depth(12, exit="entropy-diff"),
    "argmax-stability": Depth(12, exit="argmax-stability"),
}
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=0.8, min_p=0.05),
    Sampling(temperature=1, repetition_penalty=1.2),
)


@pytest.fixture(scope="module")
def staggered_nano(full_nano):
    """Nano in the way of large models."""
    with rdlite.load(full_nano, threads=1) as model:
        model.plan._staggers = Schedules(AutoStagger)
        yield model


@pytest.fixture(params=["staggered", "rounds"])
def either(request, exact_nano, staggered_nano):
    return exact_nano if request.param == "rounds" else staggered_nano


def tokens(generation):
    return [(t.id, t.text, t.steps) for t in generation]


def endless(model, sampling):
    """Never choose a token that ends the text."""
    never = dict.fromkeys(model.generation_config.stop_ids, -1000.0)
    return dataclasses.replace(sampling, logit_bias=never)


@pytest.mark.parametrize("name", DEPTHS)
def test_it_equals_plain_decoding(either, name):
    rng = random.Random(name)
    for number in range(20):
        ids = [rng.randrange(either.config.vocab_size) for _ in range(rng.randint(1, 30))]
        how = {
            "max_tokens": 20,
            "depth": DEPTHS[name],
            "sampling": rng.choice(SAMPLINGS),
            "seed": number,
        }
        plain = list(either.generate(ids, **how))
        fast = either.generate(ids, **how, speculate=(rng.randint(1, 6), rng.randint(1, 14)))
        assert tokens(fast) == tokens(plain)
        values = [token.exit_value for token in plain]
        again = [t.exit_value for t in either.generate(ids, **how, speculate=(4, 3))]
        assert [value is None for value in again] == [value is None for value in values]
        pairs = [pair for pair in zip(again, values, strict=True) if None not in pair]
        assert all(np.isclose(a, b, rtol=1e-3, atol=1e-5) for a, b in pairs)


class Restless:
    """Asks for another kind of round each time."""

    choice = (16, 1)

    def __init__(self, rng, depth):
        self.rng, self.depth = rng, depth

    def next_round(self):
        rng = self.rng
        return Round(
            rng.randint(1, 16),
            rng.randint(1, self.depth + 2),
            rng.choice((None, *LEAST, 0.99)),
            tuple(sorted(rng.sample(range(1, self.depth), 4))) if rng.random() < 0.3 else (),
        )

    def learn(self, report):
        assert 0 < report.positions <= 16
        assert report.alone >= report.positions
        assert min(report.thinking, report.around, report.finishing) > 0


@pytest.mark.parametrize("name", DEPTHS)
def test_the_text_stays_the_same_however_rounds_change(exact_nano, name):
    rng, rounds = random.Random(name), 0
    for number in range(6):
        ids = [rng.randrange(exact_nano.config.vocab_size) for _ in range(rng.randint(1, 30))]
        sampling = endless(exact_nano, rng.choice(SAMPLINGS))
        how = (40, DEPTHS[name], sampling, number, ())
        expected = tokens(exact_nano.generate(ids, *how))
        plan = exact_nano.plan(*how, speculate=(16, 1))
        plan.speculation.schedule = Restless(rng, DEPTHS[name].max_steps)
        assert tokens(generate_tokens(exact_nano.new_sequence(), ids, plan)) == expected
        rounds += plan.stats.rounds
    assert rounds > 24  # of any size: six texts of 40 tokens take 18 at least


@pytest.mark.parametrize("name", DEPTHS)
def test_auto_equals_plain_decoding(either, name):
    rng = random.Random(name)
    for number in range(6):
        ids = [rng.randrange(either.config.vocab_size) for _ in range(rng.randint(1, 30))]
        how = (40, DEPTHS[name], endless(either, rng.choice(SAMPLINGS)), number)
        fast = either.generate(ids, *how, speculate="auto")
        assert tokens(fast) == tokens(either.generate(ids, *how))


@pytest.mark.parametrize("staggers", [True, False])
def test_auto_learns_from_one_generation_to_the_next(staggers):
    """And keeps apart what is asked at another depth."""
    with rdlite.load("nano") as model:
        model.plan._staggers = Schedules(AutoStagger) if staggers else None
        model.generate("hello", 60, Depth(32), speculate="auto").stats  # noqa: B018
        schedule = model.plan(8, Depth(32), None, 0, (), speculate="auto").speculation.schedule
        assert schedule._ends >= 0
        other = model.plan(8, Depth(16), None, 0, (), speculate="auto").speculation.schedule
        assert other is not schedule
        chat = model.chat(depth=Depth(32), sampling=Sampling(), speculate="auto")
        chat.send("hello").stats  # noqa: B018
        again = model.plan(8, Depth(32), None, 0, (), speculate="auto").speculation.schedule
        assert again is schedule


@pytest.mark.parametrize("depth", [Depth(1), Depth(12, exit="kl")])
def test_auto_is_plain_decoding_where_no_draft_could_be_made(either, depth):
    stats = either.generate("hello", 8, depth, speculate="auto").stats
    assert (stats.rounds, stats.drafted, stats.speculation) == (0, 0, None)


def test_drafts_are_counted(exact_nano):
    stats = exact_nano.generate("hello", 30, Depth(16), speculate=(4, 8)).stats
    assert stats.speculation == (4, 8)
    assert 0 < stats.accepted <= stats.drafted <= 3 * stats.rounds
    assert stats.new_tokens == 1 + stats.rounds + stats.accepted
    assert stats.acceptance == stats.accepted / stats.drafted
    assert exact_nano.generate("hello", 3, Depth(16)).stats.acceptance is None


def test_nothing_is_drafted_after_the_end(exact_nano):
    prompt = exact_nano.encode_chat([{"role": "user", "content": "Add 6 and 8."}])
    stats = exact_nano.generate(prompt, 16, Depth(16), speculate=(12, 12)).stats
    assert (stats.new_tokens, stats.finish) == (3, "stop")
    assert (stats.rounds, stats.drafted, stats.accepted) == (1, 1, 1)


def test_drafts_are_accepted_several_at_a_time(exact_nano):
    generation = exact_nano.generate("hello", 30, Depth(16), speculate=(4, 8))
    stats = generation.stats
    assert stats.rounds < 0.6 * stats.new_tokens
    assert stats.core_steps == 16 * stats.new_tokens


def test_a_draft_at_full_depth_is_always_right(exact_nano):
    stats = exact_nano.generate("hello", 21, Depth(6), speculate=(5, 6)).stats
    assert stats.rounds == 4  # the first token comes with the prompt


def test_the_context_and_the_number_of_tokens_are_kept_to(either):
    assert len(either.generate("hello", 7, speculate=(6, 4)).ids) == 7
    with rdlite.load("nano", context=24) as small:
        ids = list(range(1, 20))
        plain = small.generate(ids, 100, Depth(8))
        fast = small.generate(ids, 100, Depth(8), speculate=(8, 4))
        assert fast.ids == plain.ids
        assert fast.stats.finish == plain.stats.finish


def test_stopping_early_leaves_a_chat_in_order(either):
    """What was drafted and not said is forgotten."""
    prompt = [3, 1, 4, 1, 5]
    expected = either.generate(prompt, 12, Depth(8)).ids
    generation = either.generate(prompt, 12, Depth(8), speculate=(6, 4))
    first = next(iter(generation))
    generation.close()
    assert first.id == expected[0]
    assert either.generate(prompt, 12, Depth(8)).ids == expected


def test_drafting_and_rejecting_leaves_the_logits_as_they_were(model):
    sequence, rng = model.new_sequence(), random.Random(0)

    def take(ids, steps):
        runner = sequence.begin(ids, 8)
        runner.states[0].fill(0.1)
        for number in range(steps):
            runner.step(number)
        logits = runner.logits(steps).copy()
        sequence.commit(len(ids))
        return logits

    take([5, 6, 7], 8)
    expected = take([8], 8)
    for _ in range(20):
        sequence.truncate(3)
        for _ in range(rng.randint(1, 4)):
            take([rng.randrange(200)], rng.randint(1, 8))
        sequence.truncate(3)
        assert np.array_equal(take([8], 8), expected)


@pytest.mark.parametrize(
    ("speculate", "message"),
    [
        ((0, 4), "drafts must be a whole number from 1 to 16, got 0"),
        ((17, 4), "drafts must be a whole number from 1 to 16, got 17"),
        ((4, 0), "steps of a draft must be a whole number from 1 to 1024, got 0"),
        (4, r"speculate must be None, 'auto' or \(drafts, steps\) like \(4, 8\), got 4$"),
        ("fast", "speculate must be None, 'auto' or"),
        ("Auto", "got 'Auto'; did you mean auto"),
        ((4, 1025), "steps of a draft must be a whole number from 1 to 1024, got 1025"),
        ((4, 8, 2), "speculate must be None, 'auto' or"),
    ],
)
def test_what_is_out_of_bounds_is_refused(model, speculate, message):
    with pytest.raises(rdlite.InputError, match=message):
        model.generate("hi", 4, speculate=speculate)


def test_shared_slots_cannot_be_speculated_on(text_bundle):
    with rdlite.load(text_bundle, cache=rdlite.Cache(1)) as shared:
        for speculate in ((2, 2), "auto"):
            with pytest.raises(rdlite.InputError, match="a cache slot for each step"):
                shared.generate("hi", 4, speculate=speculate)


@pytest.mark.parametrize("speculate", [(4, 6), "auto"])
def test_a_conversation_is_the_same_with_it(either, speculate):
    plain = either.chat(depth=Depth(16))
    fast = either.chat(depth=Depth(16), speculate=speculate)
    for question in ("What is 48 + 76?", "hello", "Sort 3142."):
        expected = plain.send(question)
        answer = fast.send(question)
        assert answer.text == expected.text
        assert answer.ids == expected.ids
    assert fast.messages == plain.messages


@pytest.mark.parametrize("speculate", [(4, 8), "auto"])
def test_answers_of_the_shipped_nano_stay_the_same(nano, speculate):
    """Its activations are int8: what rounding adds does not decide between words it is sure of."""
    for problem in held_out_problems(1, seed=2)[::2]:
        ids = nano.encode_chat([{"role": "user", "content": problem.question}])
        plain = nano.generate(ids, 24, Depth(32))
        assert nano.generate(ids, 24, Depth(32), speculate=speculate).ids == plain.ids
