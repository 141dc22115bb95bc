"""A generation can be ended from another thread, and leaves its caches in good order."""

import threading

import pytest

import rdlite
from rdlite import Cache, Depth


@pytest.fixture(scope="module")
def nano():
    with rdlite.load() as model:
        yield model


def cancelled_while(generation, sequence_calls):
    """Cancel from a thread as soon as so many core steps were taken; returns what came."""
    reached, done = threading.Event(), threading.Event()

    def cancel():
        reached.wait(30)
        generation.cancel()
        done.set()

    thread = threading.Thread(target=cancel)
    thread.start()
    count = 0

    def step(run):
        nonlocal count
        count += 1
        if count == sequence_calls:
            reached.set()
            done.wait(30)
        return run()

    return thread, step


@pytest.mark.parametrize("share", [None, 2, "last"])
@pytest.mark.parametrize("at", [3, 40, 75, 110])
def test_it_ends_within_a_call_and_the_chat_goes_on_as_if_it_had_not_been(monkeypatch, share, at):
    """The prompt has 150 tokens in three chunks of up to 32 steps; then come tokens."""
    from rdlite.ort.runner import Runner

    question = "What is " + "1 + " * 40 + "1?"
    depth = Depth(32)
    with rdlite.load(cache=Cache(share)) as model:
        plain = model.chat(depth=depth)
        expected = plain.send("What is 48 + 76?").text
        chat = model.chat(depth=depth)
        generation = chat.send(question, 50)
        thread, around = cancelled_while(generation, at)
        step, call = Runner.step, Runner._block
        with monkeypatch.context() as patch:
            patch.setattr(
                Runner, "step", lambda runner, number: around(lambda: step(runner, number))
            )
            patch.setattr(Runner, "_block", lambda *given: around(lambda: call(*given)))
            tokens = list(generation)
        thread.join()
        assert generation.stats.finish == "cancelled"
        assert len(tokens) < 50
        assert chat.messages == [] or chat.messages[-1]["role"] == "assistant"
        chat.reset()
        assert chat.send("What is 48 + 76?").text == expected


def test_one_that_was_cancelled_before_it_began_gives_nothing(nano):
    generation = nano.generate([1, 2, 3], 8)
    generation.cancel()
    assert list(generation) == []
    assert generation.stats.finish == "cancelled"
    assert nano.generate([1, 2, 3], 8).ids  # the buffers it would have used serve again


def test_one_that_is_cancelled_between_tokens_ends(nano):
    generation = nano.generate([1, 2, 3], 8, depth=Depth(2), speculate=None)
    tokens = iter(generation)
    next(tokens)
    generation.cancel()
    assert list(tokens) == []
    generation.cancel()  # once more does nothing


def test_one_that_ended_stays_as_it_was(nano):
    generation = nano.generate([1, 2, 3], 2)
    finish = generation.stats.finish
    generation.cancel()
    assert generation.stats.finish == finish != "cancelled"
    assert len(nano.generate([1, 2, 3], 2).ids) == 2


def test_drafts_are_cancelled_too(nano):
    chat = nano.chat(depth=Depth(32), speculate=(4, 4))
    generation = chat.send("What is 48 + 76?")
    tokens = iter(generation)
    next(tokens)
    generation.cancel()
    rest = list(tokens)
    assert generation.stats.finish == "cancelled"
    assert len(rest) < 4
    chat.reset()
    assert (
        chat.send("What is 48 + 76?").text
        == nano.chat(depth=Depth(32)).send("What is 48 + 76?").text
    )


def test_a_chat_saved_after_a_cancelled_prompt_can_be_loaded(nano, tmp_path, monkeypatch):
    from rdlite.ort.runner import Runner

    chat = nano.chat(depth=Depth(16))
    generation = chat.send("What is " + "1 + " * 40 + "1?")
    original = Runner.step

    def step(runner, number):
        if number == 7:
            generation.cancel()
        original(runner, number)

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "step", step)
        assert list(generation) == []
    chat.save(tmp_path / "chat")
    again = nano.chat(depth=Depth(16))
    again.load(tmp_path / "chat")
    assert again.send("hello").text == nano.chat(depth=Depth(16)).send("hello").text
