"""The loop: chunking never changes a result, seeds do, and every ending is reported."""

import numpy as np
import pytest

import rdlite
from rdlite import ContextError, Depth, InputError, Sampling
from rdlite.ort.rng import fill_initial_states

TEXT = "The quick brown fox jumps over the lazy dog, again and again and again." * 2


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
@pytest.mark.parametrize("initial_state", ["zeros", "random", "embeds"])
def test_any_chunking_gives_the_same_logits(model, steps, initial_state):
    ids = model.tokenizer.encode(TEXT)

    def logits(chunk):
        return model.logits(ids, steps, initial_state, seed=7, chunk=chunk)

    whole = logits(4096)
    for chunk in (1, 2, 7, 64):
        assert np.abs(logits(chunk) - whole).max() <= 1e-5 * np.abs(whole).max()


def test_the_same_seed_gives_the_same_text_whatever_the_chunking(model):
    def text(seed, chunk):
        sampling = Sampling(temperature=1.0)
        return model.generate(TEXT, 40, sampling=sampling, seed=seed, chunk=chunk).ids

    assert text(3, 1) == text(3, 5) == text(3, 4096)
    assert text(3, 64) != text(4, 64)


def test_initial_states_are_a_function_of_seed_and_position(model):
    recurrence = model.config.recurrence
    whole = np.empty((9, 64), np.float32)
    fill_initial_states(whole, recurrence, seed=5, start=0)
    part = np.empty((4, 64), np.float32)
    fill_initial_states(part, recurrence, seed=5, start=3)
    assert np.array_equal(part, whole[3:7])
    part[:] = 7  # what is kept for the next text of the seed is not what was handed out
    far = np.empty((90, 64), np.float32)
    fill_initial_states(far, recurrence, seed=5, start=2)
    assert np.array_equal(far[:7], whole[2:])
    one = np.empty((1, 64), np.float32)
    fill_initial_states(one, recurrence, seed=5, start=63)
    assert np.array_equal(one[0], far[61])
    fill_initial_states(part, recurrence, seed=6, start=3)
    assert not np.array_equal(part, whole[3:7])
    many = np.empty((512, 64), np.float32)
    fill_initial_states(many, recurrence, seed=1, start=0)
    assert np.abs(many).max() <= 3 * recurrence.initial_std
    # cut off at three standard deviations, a normal keeps 0.9866 of its own
    assert np.isclose(many.std(), 0.9866 * recurrence.initial_std, rtol=0.02)


def test_another_seed_is_another_initial_state(model):
    a, b = (model.logits([1, 2, 3], 1, "random", seed=seed) for seed in (0, 1))
    assert np.abs(a - b).max() > 1e-3


def test_tokens_carry_text_id_steps_and_log_probability(model):
    ids = model.tokenizer.encode("hello")
    (token,) = model.generate("hello", 1, depth=Depth(3), seed=2)
    logits = model.logits(ids, 3, "random", seed=2)[-1].astype(np.float64)
    assert token.id == logits.argmax()
    assert token.steps == 3
    expected = logits[token.id] - np.log(np.exp(logits).sum())
    assert np.isclose(token.logprob, expected, atol=1e-4)


def test_stats_count_and_say_why_it_ended(model):
    generation = model.generate("hello", 6, depth=Depth(2))
    stats = generation.stats
    assert (stats.prompt_tokens, stats.new_tokens, stats.core_steps) == (5, 6, 12)
    assert stats.finish == "length"
    assert (stats.mean_steps, stats.mean_prompt_steps, stats.prompt_steps) == (2, 2, 10)
    assert stats.time_to_first_token > 0
    assert stats.tokens_per_second > 0
    values = stats.as_dict()
    assert values["time_to_first_token"] == stats.time_to_first_token
    assert values["mean_prompt_steps"] == 2


def test_stop_ids_end_it_and_have_no_text(model):
    stop = model.generation_config.stop_ids[0]
    (token,) = model.generate("hello", 20, sampling=Sampling(logit_bias={stop: 1000}))
    assert (token.id, token.text) == (stop, "")
    generation = model.generate("hello", 20, sampling=Sampling(logit_bias={stop: 1000}))
    assert generation.stats.finish == "stop"


def test_stop_strings_end_it_and_are_not_in_the_text(model):
    a, b = (model.tokenizer.encode(letter)[0] for letter in "ab")
    only_ab = Sampling(temperature=1, logit_bias={a: 1000, b: 1000})
    whole = model.generate("x", 60, sampling=only_ab, seed=1).text
    assert set(whole) == {"a", "b"}
    generation = model.generate("x", 60, sampling=only_ab, seed=1, stop=["abba", "never"])
    assert generation.text == whole[: whole.index("abba")]
    assert generation.stats.finish == "stop-string"
    # what was held back as the possible start of a stop comes out at the end
    cut = model.generate("x", len("x" + whole) - 1, sampling=only_ab, seed=1, stop=[whole + "b"])
    assert cut.text == whole


def test_the_bundles_own_stop_strings_count(bundle_copy, sign):
    (bundle_copy / "generation_config.json").write_text('{"stop_strings": ["ba"]}')
    sign(bundle_copy)
    with rdlite.load(bundle_copy) as model:
        a, b = (model.tokenizer.encode(letter)[0] for letter in "ab")
        only_ab = Sampling(temperature=1, logit_bias={a: 1000, b: 1000})
        generation = model.generate("x", 60, sampling=only_ab, seed=1)
        assert "ba" not in generation.text
        assert generation.stats.finish == "stop-string"


def test_half_a_character_is_dropped_where_the_length_cuts_it(model):
    (lead,) = [0xE2]
    token = model.tokenizer.encode("\N{EURO SIGN}")[0]
    assert model.tokenizer.decode([token]) == "\N{REPLACEMENT CHARACTER}", lead
    only = Sampling(logit_bias={token: 1000})
    assert model.generate("x", 1, sampling=only).text == ""


def test_the_context_ends_it(text_bundle):
    with rdlite.load(text_bundle, context=12) as small:
        generation = small.generate("123456789", 100)
        assert len(generation.ids) == 4  # positions 9 to 11 are read, the last new token is not
        assert generation.stats.finish == "context"
        with pytest.raises(ContextError, match=r"13 tokens, the context is 12"):
            small.generate("1234567890123")
        assert small.generate("123456789012", 5).stats.new_tokens == 1


def test_capacity_grows_without_changing_the_text(text_bundle, model):
    ids = model.tokenizer.encode("abc" * 80)  # 240: the first capacity, 256, is passed on the way
    endless = Sampling(logit_bias=dict.fromkeys(model.generation_config.stop_ids, -1000))
    long = model.generate(ids, 60, sampling=endless).ids
    assert len(long) == 60
    again = []
    for _ in range(60):
        again += model.generate(ids + again, 1, sampling=endless).ids
    assert long == again


def test_a_generation_can_be_closed_and_the_model_used_again(model):
    generation = model.generate("hello", 50)
    first = next(iter(generation))
    generation.close()
    assert generation.ids == [first.id]
    assert generation.stats.finish == "cancelled"
    assert model.generate("hello", 1).ids == [first.id]


def test_two_generations_interleave(model):
    alone = [model.generate(text, 8).ids for text in ("one", "two")]
    together = [model.generate(text, 8) for text in ("one", "two")]
    pairs = list(zip(*together, strict=True))
    assert [[token.id for token in column] for column in zip(*pairs, strict=True)] == alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be a whole number from 1 to 4194304, got 0"),
        ({"depth": 5}, r"depth must be rdlite.Depth\(...\), got 5"),
        ({"sampling": {"temperature": 1}}, r"sampling must be rdlite.Sampling\(...\)"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"seed": 2**64}, "seed must be"),
        ({"chunk": 0}, "chunk must be"),
        ({"stop": [""]}, "stop must be"),
        ({"stop": None}, "stop must be text or a sequence, got None"),
        ({"initial_state": object()}, "must be an array of numbers"),
        ({"stop": ["x"] * 65}, "at most 64"),
        ({"initial_state": "ones"}, "initial_state must be random, zeros, embeds"),
        ({"initial_state": np.zeros((3, 64))}, "given to logits and logits_by_depth only"),
    ],
)
def test_bad_arguments_are_refused_by_name(model, arguments, message):
    with pytest.raises(InputError, match=message):
        model.generate("hello", **arguments)


@pytest.mark.parametrize("ids", [[], [288], [-1], ["a"], [1.5], [True], None, 5])
def test_bad_token_ids_are_refused(model, ids):
    with pytest.raises(InputError):
        model.generate(ids)


def test_bad_depth_threads_context_and_device_are_refused(text_bundle, model):
    for steps in (0, -1, 1025, 2.5, "4"):
        with pytest.raises(InputError, match="steps must be a whole number from 1 to 1024"):
            Depth(steps)
    with pytest.raises(InputError, match="steps must be"):
        model.logits([1], steps=0)
    with pytest.raises(InputError, match="threads must be"):
        rdlite.load(text_bundle, threads=0)
    with pytest.raises(InputError, match="context must be a whole number from 1 to 640, got 641"):
        rdlite.load(text_bundle, context=641)
    with pytest.raises(InputError, match=r"device must be auto, cpu, cuda or .*, got 'tpu'"):
        rdlite.load(text_bundle, device="tpu")
    with pytest.raises(InputError, match="path must be the path of a bundle, got None"):
        rdlite.load(None)
    with pytest.raises(InputError, match="share must be"):
        rdlite.Cache(share=0)


@pytest.mark.parametrize("state", [np.zeros((2, 64)), np.zeros(64), np.full((3, 64), np.nan)])
def test_bad_initial_states_are_refused(model, state):
    with pytest.raises(InputError, match=r"shape \(3, 64\)"):
        model.logits([1, 2, 3], 1, state)


def test_a_closed_model_says_so(text_bundle):
    with rdlite.load(text_bundle) as closing:
        closing.generate("a", 1).close()
    with pytest.raises(InputError, match="closed"):
        closing.generate("a", 1)
    closing.close()


def test_text_needs_a_tokenizer(oracle):
    with pytest.raises(InputError, match=r"no tokenizer\.json; give token ids"):
        oracle.model.generate("hello")
    with pytest.raises(InputError, match="no tokenizer"):
        oracle.model.chat()


def test_alternatives_are_the_likeliest_tokens_with_their_log_probabilities(model):
    ids = model.tokenizer.encode("hello")
    (token,) = model.generate("hello", 1, depth=Depth(3), seed=2, top_logprobs=3)
    logits = model.logits(ids, 3, "random", seed=2)[-1].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum())
    expected = np.argsort(-logs, kind="stable")[:3]
    assert [id for id, _ in token.alternatives] == expected.tolist()
    assert np.allclose([log for _, log in token.alternatives], logs[expected], atol=1e-5)
    assert token.alternatives[0] == (token.id, pytest.approx(token.logprob))
    assert next(iter(model.generate("hello", 1))).alternatives == ()


@pytest.mark.parametrize(
    "depth", [Depth(5), Depth(32, exit="latent-diff"), Depth(32, exit="latent-diff", prompt="each")]
)
def test_changes_are_those_of_the_steps_that_chose_a_token(depth):
    from rdlite.trace.record import trace

    with rdlite.load() as nano:
        prompt = "What is 48 + 76?" * 10
        tokens = [*nano.generate(prompt, 4, depth, changes=True)]
        seen = trace(nano, prompt, 4, depth)
        plain = [*nano.generate(prompt, 4, depth)]
    for token, expected, bare in zip(tokens, seen.tokens, plain, strict=True):
        assert token.id == bare.id
        assert bare.changes is None
        assert len(token.changes) == token.steps == expected.steps
        assert token.changes == tuple(thought.change for thought in expected.thoughts)


def test_changes_are_not_seen_of_drafts(model):
    with pytest.raises(InputError, match="speculate=None"):
        model.generate("hello", changes=True, speculate=(2, 2))
    with pytest.raises(InputError, match="top_logprobs must be a whole number from 0 to 100"):
        model.generate("hello", top_logprobs=101)
