"""Sampling: each filter keeps what it says, draws follow the distribution, bounds hold."""

import numpy as np
import pytest

from rdlite import InputError, RuntimeFailure, Sampling
from rdlite.decode.sampler import BLOCK, Sampler, likeliest

LOGITS = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05], np.float32))


def drawn(sampling, logits=LOGITS, count=2000, seen=()):
    sampler = Sampler(sampling, logits.size, seed=11)
    sampler.accept(seen)
    ids = [sampler(logits, position)[0] for position in range(count)]
    return np.bincount(ids, minlength=logits.size) / count


def test_greedy_takes_the_likeliest_and_reports_its_log_probability():
    token, logprob = Sampler(Sampling(), 5, 0)(LOGITS, 0)
    assert token == 0
    assert np.isclose(logprob, np.log(0.4), atol=1e-6)


def test_temperature_one_follows_the_distribution():
    assert np.allclose(drawn(Sampling(temperature=1)), np.exp(LOGITS), atol=0.04)


def test_low_temperature_sharpens_and_high_flattens():
    sharp = drawn(Sampling(temperature=0.25))
    weights = np.exp(LOGITS / 0.25)
    assert np.allclose(sharp, weights / weights.sum(), atol=0.04)
    assert np.allclose(drawn(Sampling(temperature=100)), 0.2, atol=0.04)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=1, top_k=2), {0, 1}),
        (Sampling(temperature=1, top_k=99), {0, 1, 2, 3, 4}),
        (Sampling(temperature=1, top_p=0.65), {0, 1}),
        (Sampling(temperature=1, top_p=0.71), {0, 1, 2}),
        (Sampling(temperature=1, top_p=1e-9), {0}),
        (Sampling(temperature=1, min_p=0.3), {0, 1, 2}),
        (Sampling(temperature=1, min_p=1), {0}),
        (Sampling(temperature=1, top_k=3, top_p=0.5), {0, 1}),
    ],
)
def test_filters_keep_what_they_say(sampling, kept):
    assert set(np.flatnonzero(drawn(sampling))) == kept


def test_bias_moves_the_choice():
    assert Sampler(Sampling(logit_bias={4: 10}), 5, 0)(LOGITS, 0)[0] == 4
    assert drawn(Sampling(temperature=1, logit_bias={0: -1000}))[0] == 0


def test_repetition_penalty_works_on_seen_tokens_of_either_sign():
    logits = np.array([2.0, 1.5, -1.0, -1.2], np.float32)
    sampler = Sampler(Sampling(repetition_penalty=2), 4, 0)
    assert sampler(logits, 0)[0] == 0
    assert sampler(logits, 1)[0] == 1  # 0 is seen now: 2.0 / 2 < 1.5
    low = Sampler(Sampling(repetition_penalty=2, logit_bias={0: -1000, 1: -1000}), 4, 0)
    low.accept([2])
    assert low(logits, 0)[0] == 3  # -1.0 * 2 < -1.2


def test_draws_depend_on_seed_and_position_alone():
    def draws(seed):
        sampler = Sampler(Sampling(temperature=1), 5, seed)
        return [sampler(LOGITS, position)[0] for position in range(50)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    sampler = Sampler(Sampling(temperature=1), 5, 1)
    assert [sampler(LOGITS, position)[0] for position in reversed(range(50))] == draws(1)[::-1]


def test_the_log_probability_is_the_models_own_whatever_was_sampled():
    sampling = Sampling(temperature=3, logit_bias={2: 1000}, repetition_penalty=2)
    token, logprob = Sampler(sampling, 5, 0)(LOGITS, 0)
    assert token == 2
    assert np.isclose(logprob, np.log(0.15), atol=1e-6)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-40, 1e-6])
def test_a_tiny_temperature_is_greedy(temperature):
    logits = np.array([-5, 3, 2, 1, 0], np.float32)
    assert drawn(Sampling(temperature=temperature), logits, 50)[1] == 1


def test_the_first_of_equals_wins():
    logits = np.array([1, 7, 7, 7], np.float32)
    assert Sampler(Sampling(), 4, 0)(logits, 0)[0] == 1
    assert drawn(Sampling(temperature=1, top_k=1), logits, 50)[1] == 1
    assert set(np.flatnonzero(drawn(Sampling(temperature=1, top_k=2), logits, 200))) == {1, 2}


@pytest.mark.parametrize("count", [1, 5, 40, 400])
@pytest.mark.parametrize("size", [400, 40 * BLOCK, 40 * BLOCK + 3])
def test_the_likeliest_are_those_of_a_stable_sort(size, count):
    rng = np.random.default_rng(size)
    few = rng.integers(0, 6, size).astype(np.float32)  # equals, across blocks too
    few[rng.random(size) < 0.5] = -np.inf
    for values in (few, rng.normal(size=size).astype(np.float32), np.zeros(size)):
        wanted = np.argsort(-values, kind="stable")[:count]
        assert np.array_equal(likeliest(values, count), wanted)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_no_numbers_are_an_error(value, temperature):
    logits = np.full(4, value, np.float32)
    with pytest.raises(RuntimeFailure, match="logits are not numbers"):
        Sampler(Sampling(temperature=temperature), 4, 0)(logits, 0)


def test_a_large_nucleus_needs_more_than_the_first_candidates():
    flat = np.zeros(5000, np.float32)
    assert (drawn(Sampling(temperature=1, top_p=0.5), flat, 3000) > 0).sum() > 1000
    assert np.flatnonzero(drawn(Sampling(temperature=1, top_p=0.5), flat, 3000)).max() < 2500


def test_the_logits_are_left_as_they_are():
    logits = LOGITS.copy()
    sampling = Sampling(temperature=0.5, repetition_penalty=3, logit_bias={1: 2})
    Sampler(sampling, 5, 0)(logits, 0)
    assert np.array_equal(logits, LOGITS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature must be a number from 0 to 100, got -0.1"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_p": 0}, "top_p must be above 0"),
        ({"top_p": 1.01}, "top_p"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": [(1, 2)]}, "logit_bias must map token ids to numbers"),
        ({"logit_bias": {-1: 1}}, "a token id in logit_bias"),
        ({"logit_bias": {1: 1e9}}, "the logit_bias of token 1"),
    ],
)
def test_numbers_out_of_bounds_are_refused_by_name(options, message):
    with pytest.raises(InputError, match=message):
        Sampling(**options)


def test_a_bias_on_a_token_the_model_lacks_is_refused():
    with pytest.raises(InputError, match="names token 9; ids go up to 4"):
        Sampler(Sampling(logit_bias={9: 1}), 5, 0)
