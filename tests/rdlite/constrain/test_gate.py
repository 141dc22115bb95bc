"""Constraints that begin after a text: free up to there, kept from there on, drafts or not."""

import random
import re

import numpy as np
import pytest

from rdlite import Constraint, Depth, InputError, Sampling
from rdlite.constrain.compiled import Constraints

DIGITS = Constraint(regex="[0-9]{6}", after="subtract")


def test_an_answer_is_free_up_to_a_text_and_fits_from_there_on(nano):
    free = nano.generate("hi", 40).text
    before, mark, _ = free.partition("subtract")
    assert mark
    kept = nano.generate("hi", 40, constraint=DIGITS)
    assert re.fullmatch(re.escape(before + mark) + "[0-9]{6}", kept.text)
    assert kept.stats.finish == "stop"
    twice = Constraint(regex="[0-9]{3}", after=["add", "subtract"])
    assert re.fullmatch(".*add.*subtract[0-9]{3}", nano.generate("hi", 40, constraint=twice).text)


def test_drafts_and_exit_rules_change_nothing(nano):
    for depth in (Depth(8), Depth(8, exit="latent-diff"), Depth(8, exit="kl")):
        for sampling in (None, Sampling(temperature=0.7)):
            options = {"depth": depth, "constraint": DIGITS, "sampling": sampling, "seed": 4}
            plain = nano.generate("hi", 60, **options)
            drafted = nano.generate("hi", 60, **options, speculate=(4, 4))
            assert drafted.ids == plain.ids


def test_free_text_is_not_closed_before_its_room_is_used(nano):
    never = Constraint(regex="[0-9]", after="nothing like this", optional=True)
    assert nano.generate("hi", 64, constraint=never).ids == nano.generate("hi", 64).ids


def test_an_answer_does_not_end_before_its_constraint_unless_it_may(nano):
    question = nano.encode_chat([{"role": "user", "content": "What is 12 + 30?"}])
    free = {"after": "never said", "regex": "[0-9]"}
    may = nano.generate(question, 12, constraint=Constraint(**free, optional=True))
    assert (may.text, may.stats.finish) == ("42", "stop")
    must = nano.generate(question, 12, constraint=Constraint(**free))
    assert (must.stats.new_tokens, must.stats.finish) == (12, "length")


def mask_of(nano, **constraint):
    return Constraints(nano.tokenizer, 512, [505], 1024).compile(Constraint(**constraint), 1000)


def barred(mask, position):
    logits = np.zeros(512, np.float32)
    mask.apply(logits, position)
    return {id for id in range(512) if logits[id] != 0}


def say(mask, nano, text, position=0):
    for token in nano.encode(text, add_special_tokens=False):
        mask.chose(token, position)
        position += 1
    return position


def test_json_after_a_text_may_begin_on_a_line_of_its_own(nano):
    mask = mask_of(nano, json_schema={"type": "integer", "minimum": 1, "maximum": 9}, after="add")
    mask.begin(0)
    position = 0
    for text, lines in (("add", True), ("\n", True), ("\n", False)):
        position = say(mask, nano, text, position)
        allowed = {nano.tokenizer.decode([id]) for id in set(range(501)) - barred(mask, position)}
        assert allowed >= set("123456789")
        assert ("\n" in allowed) == lines


def test_no_token_goes_beyond_the_end_of_the_text(nano):
    mask = mask_of(nano, regex="x", after="can a", optional=True)
    mask.begin(0)
    beyond = {id for id in range(501) if "can a" in nano.tokenizer.decode([id])[:-1]}
    assert barred(mask, 0) >= beyond
    position = say(mask, nano, "can ")
    words = {id for id in range(501) if re.match("a.", nano.tokenizer.decode([id]), re.DOTALL)}
    assert words
    assert barred(mask, position) >= words
    position = say(mask, nano, "a", position)
    assert barred(mask, position) == set(range(512)) - {nano.encode("x", False)[0]}


def test_what_an_answer_thinks_does_not_begin_its_constraint(nano):
    for spaces in ("", " \n"):
        mask = mask_of(nano, regex="x", after="<call>", optional=True)
        mask.begin(0)
        position = say(mask, nano, f"{spaces}<think>or <call>? no")
        assert not barred(mask, position)
        position = say(mask, nano, "</think> <think> <call>", position)
        assert len(barred(mask, position)) == 511
    # Where the prompt opened the block, the end of thinking is waited for like any other text.
    mask = mask_of(nano, regex="x", after=["</think>", "<call>"], optional=True)
    mask.begin(0)
    position = say(mask, nano, "<think> <call> </think>")
    assert len(barred(mask, position)) < 511
    assert len(barred(mask, say(mask, nano, "<call>", position))) == 511


def test_it_follows_drafts_that_are_taken_back(nano):
    rng = random.Random(3)
    alphabet = [nano.encode(text, False)[0] for text in ("a", "b", "c")]
    wanted = {"regex": "(abc)+", "after": "aab", "optional": True}
    drafted, plain = mask_of(nano, **wanted), mask_of(nano, **wanted)
    constrained = 0
    for _ in range(30):
        drafted.begin(7)
        plain.begin(7)
        for position in range(7, 27):
            allowed = sorted(set(alphabet) - barred(plain, position))
            constrained += len(barred(plain, position)) > 400
            if not allowed:
                break
            for ahead in range(position, position + rng.randint(0, 4)):
                choices = sorted(set(alphabet) - barred(drafted, ahead))
                if not choices:
                    break
                drafted.guessed(rng.choice(choices), ahead)
            assert barred(drafted, position) == barred(plain, position)
            token = rng.choice(allowed)
            drafted.chose(token, position)
            plain.chose(token, position)
    assert constrained > 100


@pytest.mark.parametrize("after", [["a"] * 5, [""], ["x" * 257], [3]])
def test_texts_to_wait_for_are_few_and_short(after):
    with pytest.raises(InputError, match="after must be at most 4 texts of 1 to 256 characters"):
        Constraint(regex="a", after=after)
