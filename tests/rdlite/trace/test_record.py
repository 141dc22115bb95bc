"""Watching changes nothing of what is generated; what is seen is what would have been said."""

import dataclasses
import json

import numpy as np
import pytest

import rdlite
from rdlite import Cache, Depth, Sampling
from rdlite.config.exit_rules import rules_for
from rdlite.decode.loop import generate_tokens
from rdlite.trace.record import Watcher, trace

PROMPT = "Thinking takes a while, and so it should. " * 4  # longer than two chunks
CHAIN = "a = 7, b = a + 5, c = b * 3, d = c - 4, e = d * 7; what is e mod 10?"
EACH = Depth(6, exit="latent-diff", threshold=0.2, prompt="each")


def told(generation):
    return [(t.id, t.text, t.steps, t.exit_value, t.logprob) for t in generation]


def seen(found):
    return [(t.id, t.text, t.steps, t.thoughts[-1].exit_value, t.logprob) for t in found.tokens]


@pytest.mark.parametrize("sampling", [None, Sampling(temperature=1.5, top_k=20)])
@pytest.mark.parametrize(
    "depth",
    [
        None,
        Depth(1),
        Depth(5),
        Depth(7, min_steps=2, exit="latent-diff", threshold=0.2, check_every=2),
        EACH,
        Depth(6, min_steps=3, exit="acceleration", threshold=0.5, prompt="each"),
    ],
)
def test_what_is_generated_is_the_same(model, depth, sampling):
    how = {"max_tokens": 12, "depth": depth, "sampling": sampling, "seed": 3}
    for prompt in (PROMPT, PROMPT[:70], "a"):
        expected = model.generate(prompt, **how)
        found = trace(model, prompt, **how)
        assert seen(found) == told(expected)
        assert found.text == expected.text
        assert found.stats.prompt_steps == expected.stats.prompt_steps
        assert found.stats.finish == expected.stats.finish


def test_no_exit_rule_is_misled_and_no_answer_changed(nano):
    for rule in rules_for(nano.config):
        depth = Depth(32, exit=rule)
        found = trace(nano, CHAIN, depth=depth, chat=True)
        assert seen(found) == told(nano.chat(depth=depth).send(CHAIN)), rule
        assert found.depth.threshold is not None
    assert found.prompt == CHAIN


def test_a_prompt_whose_tokens_leave_one_by_one_is_read_the_same(nano):
    for exit in ("latent-diff", "acceleration"):
        depth = Depth(32, exit=exit, prompt="each")
        for question in ("What is 4848 + 1576?", "Sort 5271493.", "Who are you?"):
            expected = told(nano.chat(depth=depth).send(question, 16))
            assert seen(trace(nano, question, 16, depth=depth, chat=True)) == expected


def test_decoding_afterwards_leaves_the_cache_as_it_was(model):
    ids = model.tokenizer.encode(PROMPT)
    sequence, size = model.new_sequence(), model.config.vocab_size
    watcher = Watcher(EACH, EACH.max_steps, size, sequence, len(ids))
    plan = dataclasses.replace(model.plan(2, EACH, None, 0, ()), controller=watcher)
    tokens = generate_tokens(sequence, ids, plan)
    first = next(tokens)
    held = sequence.outer_slot("coda").data[..., : len(ids), :]
    before = held.copy()
    watcher._seen[-1][2].fill(1)  # as if a runner of one rounded otherwise
    assert watcher.thoughts(first.id, 1, str)
    assert np.array_equal(held, before)


@pytest.mark.parametrize("cache", [Cache("last"), Cache(1), Cache(2, 8), Cache(None, 8)])
@pytest.mark.parametrize("depth", [Depth(4), EACH])
def test_no_cache_is_disturbed(scaled_bundle, cache, depth):
    with rdlite.load(scaled_bundle, cache=cache) as model:
        expected = told(model.generate(PROMPT, 12, depth))
        assert seen(trace(model, PROMPT, 12, depth)) == expected


def test_a_step_says_what_stopping_there_would_have_said(model):
    found = trace(model, PROMPT[:60], 1, Depth(6), seed=2).tokens[0]
    assert found.steps == 6
    for steps, thought in enumerate(found.thoughts, 1):
        (token,) = model.generate(PROMPT[:60], 1, Depth(steps), seed=2)
        best = thought.likeliest[0]
        assert best.id == token.id
        assert np.isclose(np.log(best.probability), token.logprob, atol=1e-5)
        chances = [each.probability for each in thought.likeliest]
        assert chances == sorted(chances, reverse=True)
    assert np.isclose(np.log(found.thoughts[-1].probability), found.logprob, atol=1e-5)


def test_a_prompts_last_token_that_leaves_alone_is_seen_as_if_it_was_read_alone(model):
    *ids, last = model.tokenizer.encode(PROMPT)
    forced = Sampling(logit_bias={last: 1000.0})
    alone = trace(model, ids, 2, EACH, forced).tokens[1]
    (together,) = trace(model, [*ids, last], 1, EACH, forced).tokens
    assert together.steps == alone.steps > 1
    for a, b in zip(together.thoughts, alone.thoughts, strict=True):
        assert [c.id for c in a.likeliest] == [c.id for c in b.likeliest]
        mine, other = ([c.probability for c in each.likeliest] for each in (a, b))
        assert np.allclose(mine, other, rtol=1e-3)
        assert np.isclose(a.change, b.change, rtol=1e-3)
        assert np.isclose(a.exit_value, b.exit_value, rtol=1e-3)


def test_the_change_is_what_latent_diff_looks_at(model):
    depth = Depth(5, exit="latent-diff", threshold=0.0)
    for token in trace(model, "abc", 4, depth).tokens[1:]:
        assert [t.change for t in token.thoughts] == [t.exit_value for t in token.thoughts]


def test_a_chain_is_worked_out_step_by_step(nano):
    answer, end = trace(nano, CHAIN, depth=Depth(16), chat=True).tokens
    assert answer.token == "4"
    assert 4 < answer.settled < 12
    assert answer.thoughts[answer.settled - 2].likeliest[0].token != "4"
    assert (end.token, end.text) == ("<|end_turn|>", "")


def test_all_of_it_is_json(nano):
    found = trace(nano, CHAIN, chat=True, top=3, seed=7)
    report = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert report["model"] == "nano"
    assert (report["prompt"], report["text"], report["chat"]) == (CHAIN, found.text, True)
    assert report["depth"]["exit"] == nano.default_depth.exit
    assert report["stats"]["new_tokens"] == len(report["tokens"])
    for entry, token in zip(report["tokens"], found.tokens, strict=True):
        assert entry["steps"] == len(entry["thoughts"]) == token.steps
        assert [len(thought["likeliest"]) for thought in entry["thoughts"]] == [3] * token.steps


def test_progress_counts_tokens(model):
    calls = []
    found = trace(model, "abc", 5, Depth(1), progress=lambda *call: calls.append(call))
    assert calls == [(i, 5) for i in range(1, len(found.tokens) + 1)]


def test_without_a_tokenizer_tokens_are_called_by_their_ids(oracle):
    found = trace(oracle.model, oracle.ids, 3, Depth(2), top=100)
    assert [token.token for token in found.tokens] == [f"#{token.id}" for token in found.tokens]
    assert found.prompt is None
    assert seen(found) == told(oracle.model.generate(oracle.ids, 3, Depth(2)))


@pytest.mark.parametrize(
    ("prompt", "how", "message"),
    [
        ("text", {}, r"no tokenizer\.json"),
        ("text", {"chat": True}, "no chat template"),
        ([1, 2], {"chat": True}, r"a message must be text, got \[1, 2\]"),
        ([1, 2], {"top": 0}, "top must be a whole number from 1 to 100, got 0"),
        ([1, 2], {"top": 101}, "top must be"),
        ([1, 2], {"max_tokens": 0}, "max_tokens must be"),
        ([], {}, "the prompt is empty"),
        ([-1], {}, "a token id must be"),
    ],
)
def test_what_cannot_be_traced_is_refused(oracle, prompt, how, message):
    with pytest.raises(rdlite.InputError, match=message):
        trace(oracle.model, prompt, **how)
