"""Conversations: the cache survives between turns, and nothing is lost when one goes wrong."""

import random

import pytest

import rdlite
from rdlite import ContextError, Depth, InputError, Sampling


@pytest.fixture
def talk(model):
    return model.chat(sampling=Sampling(), depth=Depth(2))


def test_a_turn_reads_only_what_is_new(talk):
    first = talk.send("hello", max_tokens=5)
    assert first.stats.reused_tokens == 0
    second = talk.send("again", max_tokens=5)
    # the whole first prompt is reused; the answer as far as its text encodes to the same tokens
    assert second.stats.reused_tokens >= first.stats.prompt_tokens
    assert second.stats.prompt_tokens > second.stats.reused_tokens
    assert second.stats.mean_prompt_steps == 2  # of those that were read


def test_the_cache_changes_no_answer(model):
    long, answers = model.chat(sampling=Sampling(), depth=Depth(3), seed=5), []
    for message in ("one", "two", "three"):
        answers.append(long.send(message, max_tokens=12).ids)
    fresh = model.chat(sampling=Sampling(), depth=Depth(3), seed=5)
    fresh.messages = long.messages[:4]
    generation = fresh.send("three", max_tokens=12)
    assert generation.ids == answers[2]
    assert generation.stats.reused_tokens == 0


def sums(count, seed=5):
    rng = random.Random(seed)
    pairs = [(rng.randint(10, 99), rng.randint(10, 99)) for _ in range(count)]
    return [(f"What is {a} + {b}?", str(a + b)) for a, b in pairs]


@pytest.fixture(scope="module")
def briefly_trained(short_nano):
    with rdlite.load(short_nano, threads=1) as model:
        yield model


def test_a_chat_longer_than_the_training_leaves_out_its_oldest_turns(briefly_trained):
    nano = briefly_trained
    assert nano.trained_length == 128
    talk = nano.chat("Be right.")
    cuts = []
    for question, answer in sums(16):
        assert talk.send(question).text == answer
        assert talk.context_used <= talk.length == 128
        cuts.append(talk.left_out)
    assert cuts == sorted(cuts)
    assert cuts[0] == 0 < len(set(cuts)) < 12  # several turns go at once, for the cache's sake
    assert len(talk.messages) == 33  # nothing is forgotten
    everything = nano.chat(history="all")
    for question, _ in sums(8):
        everything.send(question).text  # noqa: B018
    assert everything.left_out == 0
    assert everything.length == nano.context
    assert everything.context_used > 128
    everything.history = 40
    assert everything.send("What is 48 + 76?").text == "124"
    assert everything.context_used <= 40
    with pytest.raises(InputError, match="history must be trained, all or a number"):
        nano.chat(history="some")
    with pytest.raises(InputError, match="history must be a whole number from 16"):
        nano.chat(history=3)


def test_what_is_left_out_follows_from_the_messages_alone(briefly_trained):
    nano = briefly_trained
    talk = nano.chat()
    for question, _ in sums(9):
        talk.send(question).text  # noqa: B018
    messages = [*talk.messages, {"role": "user", "content": "What is 1 + 2?"}]
    kept = nano.recent(messages)
    talk.send("What is 1 + 2?").text  # noqa: B018
    assert len(messages) - len(kept) == talk.left_out > 0
    assert kept[0]["role"] == "user"
    long = [{"role": "user", "content": "x" * 300}]
    assert nano.recent([*messages[:-1], *long]) == long  # the last turn is always read


def test_messages_carry_both_sides(model):
    talk = model.chat("Be brief.", depth=Depth(1))
    answer = talk.send("hello", max_tokens=4).text
    assert talk.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": answer},
    ]
    talk.reset()
    assert talk.messages == []


def test_a_stopped_answer_stays_as_far_as_it_went(talk):
    generation = talk.send("hello", max_tokens=50)
    shown = "".join(token.text for _, token in zip(range(6), generation, strict=False))
    generation.close()
    assert talk.messages[-1]["role"] == "assistant"
    assert talk.messages[-1]["content"].startswith(shown)
    assert talk.send("go on", max_tokens=3).stats.new_tokens == 3


def test_another_depth_reads_everything_again(talk):
    talk.send("hello", max_tokens=3).close()
    list(talk.send("hello", max_tokens=3))
    talk.depth = Depth(4)
    generation = talk.send("deeper", max_tokens=3)
    assert generation.stats.reused_tokens == 0
    assert generation.stats.mean_steps == 4


def test_a_message_that_does_not_fit_changes_nothing(text_bundle):
    with rdlite.load(text_bundle, context=64) as small:
        talk = small.chat(depth=Depth(1))
        with pytest.raises(ContextError, match="the context is 64"):
            talk.send("x" * 100)
        assert talk.messages == []
        assert talk.send("hi", max_tokens=2).stats.new_tokens >= 1


def test_a_message_must_be_text(talk):
    with pytest.raises(rdlite.InputError, match="a message must be text, got 3"):
        talk.send(3)


def test_the_default_sampling_is_the_models_own(model):
    assert model.chat().sampling == Sampling(temperature=0.7)
    assert model.generation_config.stop_ids == (256, 257, 260)


def test_a_new_message_closes_the_answer_that_still_runs(model):
    talk = model.chat(sampling=Sampling(), depth=Depth(2))
    first = talk.send("hello there", max_tokens=30)
    begun = [token.id for _, token in zip(range(5), first, strict=False)]
    second = talk.send("something else", max_tokens=6)
    assert [message["content"] for message in talk.messages[:1]] == ["hello there"]
    assert talk.messages[1]["role"] == "assistant"
    ids = second.ids
    assert first.ids == begun
    fresh = model.chat(sampling=Sampling(), depth=Depth(2))
    fresh.messages = talk.messages[:2]
    assert fresh.send("something else", max_tokens=6).ids == ids


def test_an_answer_that_was_never_begun_leaves_no_trace(talk):
    first = talk.send("hello", max_tokens=3)
    second = talk.send("goodbye", max_tokens=3)
    list(second)
    assert first.ids == []
    assert [message["content"] for message in talk.messages[:1]] == ["goodbye"]


def test_reset_empties_the_context(talk):
    list(talk.send("hello", max_tokens=3))
    assert talk.context_used > 0
    talk.reset()
    assert talk.context_used == 0
    assert talk.send("hello", max_tokens=3).stats.reused_tokens == 0


def test_another_seed_reads_everything_again(talk):
    list(talk.send("hello", max_tokens=3))
    talk.seed = 9
    assert talk.send("hello", max_tokens=3).stats.reused_tokens == 0


def test_a_chat_ends_with_its_model(text_bundle):
    with rdlite.load(text_bundle) as model:
        talk = model.chat()
    with pytest.raises(rdlite.InputError, match="closed"):
        talk.send("hello")
