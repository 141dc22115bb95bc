"""Penalties and the least length of an answer: what they say, alone and with everything else."""

import itertools

import numpy as np
import pytest

from rdlite import Constraint, Depth, InputError, Sampling
from rdlite.decode.logit_rules import Penalties
from rdlite.decode.sampler import Sampler

QUESTION = [{"role": "user", "content": "What is 48 + 76?"}]
SHALLOW = Depth(4)


@pytest.mark.parametrize(
    ("frequency", "presence"), [*itertools.product([-2, -0.5, 0, 0.5, 2], repeat=2)]
)
def test_penalties_are_those_of_openais_formula(frequency, presence):
    rng, rule = np.random.default_rng(0), Penalties(frequency, presence, 8)
    for _ in range(2):  # what the answer before had does not count
        rule.begin(3)
        counts = np.zeros(8)
        for position in range(3, 40):
            before = rng.random(8, np.float32)
            logits = before.copy()
            rule.apply(logits, position)
            wanted = before - counts * frequency - (counts > 0) * presence
            assert np.allclose(logits, wanted, atol=1e-5)
            rule.guessed(int(rng.integers(8)), position)  # drafts do not count
            token = int(rng.integers(6))
            rule.chose(token, position)
            counts[token] += 1


def test_penalties_count_the_answer_and_not_the_prompt():
    logits = np.array([1.0, 0.9, 0.0], np.float32)
    sampler = Sampler(Sampling(frequency_penalty=0.2), 3, 0)
    sampler.begin([0, 0, 0])
    assert [sampler(logits, position)[0] for position in range(3, 8)] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty"])
@pytest.mark.parametrize("value", [2.01, -2.01, float("nan"), "1", True])
def test_penalties_have_two_bounds(name, value):
    with pytest.raises(InputError, match=f"{name} must be a number from -2 to 2"):
        Sampling(**{name: value})


@pytest.mark.parametrize("speculate", [None, (4, 2)])
def test_no_stop_token_ends_an_answer_before_it_has_its_least_tokens(nano, speculate):
    prompt = nano.encode_chat(QUESTION)
    stop_ids = set(nano.generation_config.stop_ids)
    assert nano.generate(prompt, depth=SHALLOW).stats.new_tokens < 9
    for least in (0, 9, 15):
        ids = nano.generate(prompt, 20, SHALLOW, min_tokens=least, speculate=speculate).ids
        assert stop_ids.isdisjoint(ids[:least])
        assert len(ids) > least
    assert nano.generate(prompt, 5, SHALLOW, min_tokens=9).stats.new_tokens == 5


@pytest.mark.parametrize("speculate", [None, (4, 2)])
def test_no_stop_text_ends_an_answer_before_it_has_its_least_tokens(nano, speculate):
    digits = Constraint(regex="(124){9}")
    options = {"depth": SHALLOW, "constraint": digits, "speculate": speculate}

    def said(**more):
        generation = nano.generate("hi", 64, **options, **more)
        return generation.text, generation.stats.finish

    assert said(stop="24") == ("1", "stop-string")
    assert said(stop="24", min_tokens=2) == ("1", "stop-string")  # it ends with the third token
    assert said(stop="24", min_tokens=3) == ("1241", "stop-string")
    assert said(stop="24", min_tokens=26) == ("124" * 8 + "1", "stop-string")
    assert said(stop="24", min_tokens=27) == ("124" * 9, "stop")
    assert said(stop=["x"] * 16 + ["41"], min_tokens=4) == ("12412", "stop-string")


def test_a_constraint_that_is_met_ends_an_answer_that_is_too_short(nano):
    generation = nano.generate("hi", constraint=Constraint(regex="no"), min_tokens=30)
    assert (generation.text, generation.stats.finish) == ("no", "stop")


@pytest.mark.parametrize("exit", [None, "latent-diff", "kl"])
@pytest.mark.parametrize("constraint", [None, Constraint(regex='[a-z0-9" ]{90,400}')])
@pytest.mark.parametrize("temperature", [0, 4])
def test_drafts_give_the_same_with_penalties_a_least_length_and_a_seed(
    nano, exit, constraint, temperature
):
    options = {
        "max_tokens": 40,
        "depth": Depth(8, exit=exit),
        "sampling": Sampling(
            temperature, top_p=0.9, frequency_penalty=0.7, presence_penalty=-0.4,
            repetition_penalty=1.1,
        ),
        "seed": 5,
        "min_tokens": 20,
        "constraint": constraint,
        "stop": ["7"],
        "top_logprobs": 3,
    }  # fmt: skip
    plain = [*nano.generate("count:", **options)]
    for speculate in ((4, 4), "auto"):
        assert [*nano.generate("count:", **options, speculate=speculate)] == plain
    assert len(plain) > 20
    if temperature and constraint is None:  # which leaves nano little choice
        assert nano.generate("count:", **options | {"seed": 6}).ids != [t.id for t in plain]
