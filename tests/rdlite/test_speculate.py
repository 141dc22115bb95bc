"""Speculation gives what plain decoding gives: tokens, steps, values; and rolls back cleanly."""

import random

import numpy as np
import pytest

import rdlite
from rdlite import Depth, Sampling

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


def tokens(generation):
    return [(t.id, t.text, t.steps) for t in generation]


@pytest.mark.parametrize("name", DEPTHS)
def test_it_equals_plain_decoding(nano, name):
    rng = random.Random(name)
    for number in range(20):
        ids = [rng.randrange(nano.config.vocab_size) for _ in range(rng.randint(1, 30))]
        how = {
            "max_tokens": 20,
            "depth": DEPTHS[name],
            "sampling": rng.choice(SAMPLINGS),
            "seed": number,
        }
        plain = list(nano.generate(ids, **how))
        fast = nano.generate(ids, **how, speculate=(rng.randint(1, 6), rng.randint(1, 14)))
        assert tokens(fast) == tokens(plain)
        values = [token.exit_value for token in plain]
        again = [t.exit_value for t in nano.generate(ids, **how, speculate=(4, 3))]
        assert [value is None for value in again] == [value is None for value in values]
        pairs = [pair for pair in zip(again, values, strict=True) if None not in pair]
        assert all(np.isclose(a, b, rtol=1e-3, atol=1e-5) for a, b in pairs)


def test_drafts_are_accepted_several_at_a_time(nano):
    generation = nano.generate("hello", 30, Depth(16), speculate=(4, 8))
    stats = generation.stats
    assert stats.rounds < 0.6 * stats.new_tokens
    assert stats.core_steps == 16 * stats.new_tokens


def test_a_draft_at_full_depth_is_always_right(nano):
    stats = nano.generate("hello", 21, Depth(6), speculate=(5, 6)).stats
    assert stats.rounds == 4  # the first token comes with the prompt


def test_the_context_and_the_number_of_tokens_are_kept_to(nano):
    assert len(nano.generate("hello", 7, speculate=(6, 4)).ids) == 7
    with rdlite.load("nano", context=24) as small:
        ids = list(range(1, 20))
        plain = small.generate(ids, 100, Depth(8))
        fast = small.generate(ids, 100, Depth(8), speculate=(8, 4))
        assert fast.ids == plain.ids
        assert fast.stats.finish == plain.stats.finish


def test_stopping_early_leaves_a_chat_in_order(nano):
    """What was drafted and not said is forgotten."""
    prompt = [3, 1, 4, 1, 5]
    expected = nano.generate(prompt, 12, Depth(8)).ids
    generation = nano.generate(prompt, 12, Depth(8), speculate=(6, 4))
    first = next(iter(generation))
    generation.close()
    assert first.id == expected[0]
    assert nano.generate(prompt, 12, Depth(8)).ids == expected


def test_drafting_and_rejecting_leaves_the_logits_as_they_were(model):
    sequence, rng = model.new_sequence(), random.Random(0)

    def take(ids, steps):
        lane = sequence.begin(ids, 8)
        lane.states[0].fill(0.1)
        for number in range(steps):
            lane.step(number)
        logits = lane.logits(steps).copy()
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
        (4, r"speculate must be None or \(drafts, steps\) like \(4, 8\), got 4"),
        ("fast", "speculate must be None or"),
    ],
)
def test_what_is_out_of_bounds_is_refused(model, speculate, message):
    with pytest.raises(rdlite.InputError, match=message):
        model.generate("hi", 4, speculate=speculate)


def test_shared_slots_cannot_be_speculated_on(text_bundle):
    shared = rdlite.load(text_bundle, cache=rdlite.Cache(1))
    with shared, pytest.raises(rdlite.InputError, match="a cache slot for each step"):
        shared.generate("hi", 4, speculate=(2, 2))


def test_a_conversation_is_the_same_with_it(nano):
    plain = nano.chat(depth=Depth(16))
    fast = nano.chat(depth=Depth(16), speculate=(4, 6))
    for question in ("What is 48 + 76?", "hello", "Sort 3142."):
        expected = plain.send(question)
        answer = fast.send(question)
        assert answer.text == expected.text
        assert answer.ids == expected.ids
    assert fast.messages == plain.messages
