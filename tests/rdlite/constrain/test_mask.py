"""Constraints: every answer fits, the choice stays the model's, and drafts change nothing."""

import json
import random
import re

import jsonschema
import numpy as np
import pytest

import rdlite
from rdlite import Constraint, Depth, InputError, Sampling
from rdlite.constrain.compiled import Constraints

SHALLOW = Depth(2)
NUMBER = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["x"],
    "additionalProperties": False,
}


def random_schema(rng, depth=0):
    """A schema of the kinds that public suites have."""
    leaves = [
        lambda: {"type": "string", "pattern": rng.choice(["^[a-c]{2,4}$", "^(u|v)+w$"])},
        lambda: {"type": "string", "pattern": "[0-9]{3}-x", "maxLength": rng.randint(5, 9)},
        lambda: {"type": "string", "minLength": rng.randint(0, 2), "maxLength": rng.randint(2, 6)},
        lambda: {"type": "string", "format": rng.choice(["date", "uuid", "ipv4", "time"])},
        lambda: {"enum": rng.sample(["a", "b", 1, 2.5, None, True, "long words", ["x"], {}], 3)},
        lambda: {"const": rng.choice(["k", 0, False, None])},
        lambda: {"type": "integer", "minimum": rng.randint(-50, 0), "maximum": rng.randint(0, 500)},
        lambda: {"type": "integer", "multipleOf": rng.choice([3, 5]), "minimum": 0, "maximum": 60},
        lambda: {"type": "number", "exclusiveMinimum": -1, "exclusiveMaximum": rng.randint(0, 9)},
        lambda: {"type": ["boolean", "null"]},
    ]  # fmt: skip
    if depth > 2 or rng.random() < 0.35:
        return rng.choice(leaves)()

    def inner():
        return random_schema(rng, depth + 1)

    def members():
        names = rng.sample(["a", "b", "name", "list of", "ключ", 'q"'], rng.randint(1, 3))
        needed = rng.sample(names, rng.randint(0, len(names)))
        return {
            "type": "object",
            "properties": {name: inner() for name in names},
            "required": needed,
            "additionalProperties": False,
        }

    nodes = [
        members,
        lambda: {"type": "array", "items": inner(), "minItems": rng.randint(0, 2), "maxItems": 3},
        lambda: {"type": "array", "prefixItems": [inner(), inner()], "items": False, "minItems": 2},
        lambda: {"anyOf": [inner(), inner()]},
        lambda: {"oneOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "null"}]},
    ]
    schema = rng.choice(nodes)()
    if depth == 0 and rng.random() < 0.5:
        tree = {
            "type": "object",
            "properties": {"v": inner(), "next": {"anyOf": [{"$ref": "#/$defs/t"}, {"const": 0}]}},
            "required": ["v"],
            "additionalProperties": False,
        }  # fmt: skip
        schema = {
            "type": "object",
            "properties": {"t": {"$ref": "#/$defs/t"}, "s": schema},
            "required": ["t", "s"],
            "$defs": {"t": tree},
            "additionalProperties": False,
        }
    return schema


def test_300_random_schemas_are_kept_by_every_answer(nano):
    rng, ended = random.Random(24), 0
    for number in range(300):
        schema = random_schema(rng)
        sampling = Sampling(temperature=0.8) if number % 2 else None
        generation = nano.generate("json:", 500, SHALLOW, sampling, seed=number, constraint=schema)
        value = json.loads(generation.text)
        jsonschema.validate(value, schema, jsonschema.Draft202012Validator)
        ended += generation.stats.finish == "stop"
    assert ended > 250  # the others were closed where there was no more room


@pytest.mark.parametrize(
    "keyword",
    [
        {"type": "array", "uniqueItems": True},
        {"type": "object", "propertyNames": {"maxLength": 2}},
        {"not": {"type": "string"}},
        {"type": "array", "contains": {"type": "null"}},
        {"if": {"type": "null"}},
        {"type": "object", "dependentRequired": {"a": ["b"]}},
        {"type": "object", "unevaluatedProperties": False},
    ],
)
def test_keywords_that_cannot_be_kept_are_refused_by_name(nano, keyword):
    name = next(key for key in keyword if key != "type")
    with pytest.raises(InputError, match=f"not supported: {name}; leave it out"):
        nano.generate("json:", constraint=keyword)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"json_schema": {}, "regex": "a"}, "exactly one of"),
        ({}, "exactly one of"),
        ({"regex": "a" * 2**19}, "has 524288 characters"),
        ({"regex": 5}, "regex must be text"),
        ({"json_schema": {"a": {1, 2}}}, "cannot be written as JSON"),
        ({"json_schema": 5}, "must be a mapping"),
        ({"json_schema": "{"}, "json_schema cannot be used"),
        ({"json_schema": {"type": "foo"}}, "Invalid type: foo"),
        ({"json_schema": {"not": {}}}, "not supported: not"),
        ({"json_schema": {"$ref": "http://example.org/a"}}, "not present in a registry"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"regex": "("}, "regex cannot be used"),
        ({"grammar": "start: nothing_here"}, "grammar cannot be used"),
    ],
)
def test_what_is_no_constraint_is_refused_in_one_line(nano, given, message):
    with pytest.raises(InputError, match=message) as problem:
        nano.generate("json:", constraint=Constraint(**given))
    assert "\n" not in str(problem.value)


def test_a_schema_can_be_a_mapping_text_or_a_pydantic_model(nano):
    pydantic = pytest.importorskip("pydantic")

    class Answer(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        x: int = pydantic.Field(ge=0, le=99)

    given = [NUMBER, Constraint(json_schema=json.dumps(NUMBER)), Answer]
    for constraint in given:
        Answer.model_validate_json(nano.generate("json:", constraint=constraint).text)
    with pytest.raises(InputError, match="constraint must be"):
        nano.generate("json:", constraint="json")


def test_regular_expressions_and_grammars_of_both_kinds(nano):
    lark = 'start: "a" /[0-9]{1,3}/ "b"'
    gbnf = 'root ::= "a" [0-9] "b"'
    assert re.fullmatch(
        "(yes|no)+", nano.generate("hi", constraint=Constraint(regex="(yes|no)+")).text
    )
    for grammar in (lark, gbnf):
        text = nano.generate("hi", constraint=Constraint(grammar=grammar)).text
        assert re.fullmatch("a[0-9]{1,3}b", text)


def test_the_choice_among_what_is_allowed_is_the_models(nano):
    prompt = nano.encode_chat([{"role": "user", "content": "What is 12 + 30?"}])
    assert nano.generate(prompt, constraint=Constraint(regex="[0-9]+")).text == "42"


def test_drafts_and_exit_rules_give_what_plain_decoding_gives(nano):
    letters = Constraint(regex='[a-z0-9" ]{60}')
    for depth in (Depth(8), Depth(8, exit="latent-diff"), Depth(8, exit="kl")):
        options = {"max_tokens": 70, "depth": depth, "constraint": letters}
        plain = nano.generate("json:", **options)
        drafted = nano.generate("json:", **options, speculate=(4, 4))
        assert drafted.ids == plain.ids
        assert depth.exit == "kl" or drafted.stats.accepted > 5
        assert len(plain.text) == 60


def test_a_mask_follows_drafts_that_are_taken_back(nano):
    rng = random.Random(7)

    def mask():
        given = Constraint(json_schema=random_schema(rng))
        return Constraints(nano.tokenizer, 512, [505], 1024).compile(given, 1000)

    for _ in range(20):
        state = rng.getstate()
        drafted = mask()
        rng.setstate(state)
        plain = mask()
        drafted.begin(5)
        plain.begin(5)
        for position in range(5, 45):
            for ahead in range(position, position + rng.randint(0, 4)):
                allowed = row(drafted, ahead)
                if allowed == [505]:
                    break
                drafted.guessed(rng.choice([id for id in allowed if id != 505]), ahead)
            allowed = row(plain, position)
            assert row(drafted, position) == allowed
            if allowed == [505]:
                break
            token = rng.choice([id for id in allowed if id != 505])
            drafted.chose(token, position)
            plain.chose(token, position)
            assert drafted.allowed().tolist() == row(plain, position + 1)


def row(mask, position):
    logits = np.zeros(512, np.float32)
    mask.apply(logits, position)
    return np.flatnonzero(logits == 0).tolist()


@pytest.mark.parametrize("rule", ["kl", "minp-kl", "entropy-diff", "argmax-stability", "gated-kl"])
def test_a_rule_that_looks_at_predictions_judges_those_that_are_allowed(nano, rule):
    fixed = Constraint(regex="I can't do that")
    depth = Depth(24, exit=rule)
    tokens = list(nano.generate("hi", depth=depth, constraint=fixed))
    free = list(nano.generate("hi", depth=depth, max_tokens=len(tokens)))
    # Of a prompt it judges what the model says; then nothing is left to think about, until several
    # tokens may end it.
    assert tokens[0].steps == free[0].steps
    looks = {"argmax-stability": 9, "entropy-diff": 2}.get(rule, 1)
    certain = [token.steps for token in tokens[1:-1]]
    if rule == "gated-kl":
        assert 1 < min(certain) < 12  # once the states have all but settled
    else:
        assert set(certain) == {looks}


def test_an_answer_that_would_be_cut_is_closed_in_time(nano):
    schema = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 200}
    endless = {"type": "array", "items": {"type": "integer", "minimum": 10}, "minItems": 2}
    cut = nano.generate("json:", 40, SHALLOW, constraint=schema)
    assert (cut.stats.finish, cut.stats.new_tokens) == ("length", 40)  # there is no way to its end
    for most in (12, 40, 200):
        for drafts in (None, (4, 2)):
            closed = nano.generate(
                "json:", most, SHALLOW, Sampling(logit_bias={nano.encode("]")[0]: -50}),
                constraint=endless, speculate=drafts,
            )  # fmt: skip
            assert closed.stats.finish == "length"
            jsonschema.validate(json.loads(closed.text), endless)


def test_the_context_closes_it_too():
    with rdlite.load(context=48) as small:
        ids = small.encode("json:")
        generation = small.generate(ids, 1000, SHALLOW, constraint={"type": "array", "minItems": 1,
            "items": {"type": "integer", "minimum": 10**9}})  # fmt: skip
        assert json.loads(generation.text)
        assert generation.stats.finish == "length"


def test_a_model_without_a_stop_token_or_a_tokenizer_says_so(nano):
    wanted = Constraint(regex="a")
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        Constraints(None, 512, [1], 64).compile(wanted, 8)
    with pytest.raises(InputError, match="no token that ends a text"):
        Constraints(nano.tokenizer, 512, [], 64).compile(wanted, 8)
