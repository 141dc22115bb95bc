"""Calls: well formed whatever the model is, with arguments that fit, told from other text."""

import json
import random
import re

import jsonschema
import pytest

import rdlite
from rdlite import Constraint, Depth, InputError, Sampling
from rdlite.tools.splitter import ArgumentsPart, CallBegins, Said

SHALLOW = Depth(2)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 9},
                "days": {"type": "integer", "minimum": 0, "maximum": 9},
            },
            "required": ["city"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
SHORT = {"type": "string", "maxLength": 16}
QUESTION = [{"role": "user", "content": "What is 12 + 30?"}]


@pytest.fixture(scope="module")
def model(tool_nano):
    with rdlite.load(tool_nano, threads=1) as model:
        yield model


def function(parameters, name="f"):
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def answer(model, constraint, most=250, **options):
    prompt = model.encode_chat(QUESTION)
    return model.generate(prompt, most, SHALLOW, constraint=constraint, **options)


def random_argument(rng):
    kinds = [
        lambda: {"type": "string"},
        lambda: {"type": "string", "maxLength": rng.randint(0, 6)},
        lambda: {"type": "string", "minLength": 2, "maxLength": 5},
        lambda: SHORT | {"pattern": rng.choice(["^[a-c]{2,4}$", "[0-9]/", "y\\$$"])},
        lambda: {"type": "string", "format": rng.choice(["date", "time", "date-time", "uuid"])},
        lambda: SHORT | {"format": rng.choice(["ipv4", "hostname", "email", "uri"])},
        lambda: {"enum": ["a b", "c/d", 'e"', "f\ng", "null"]},
        lambda: {"enum": ["a", 1, None, [2]]},
        lambda: {"const": "<&>"},
        lambda: {"type": "integer", "minimum": -5, "maximum": 50},
        lambda: {"type": "boolean"},
        lambda: {"anyOf": [{"type": "string", "maxLength": 8}, {"type": "null"}]},
        lambda: {"type": ["string", "integer"], "maxLength": 5, "maximum": 99, "minimum": 0},
        lambda: {"type": "array", "items": {"enum": ["x", "</parameter>"]}, "maxItems": 3},
        lambda: {"$ref": "#/$defs/Kind"},
        lambda: {"anyOf": [{"$ref": "#/$defs/Kind"}, {"$ref": "#/$defs/Point"}]},
        lambda: {"title": "Anything"},
    ]  # fmt: skip
    return rng.choice(kinds)() | {"description": "what it is for"}


def random_function(rng, name):
    names = rng.sample(["a", "b_2", "list-of", "ключ", "q r"], rng.randint(0, 4))
    point = {
        "type": "object",
        "properties": {"x": {"type": "integer"}, "y": {"type": "string", "maxLength": 3}},
        "required": ["x"],
        "additionalProperties": False,
    }
    parameters = {
        "type": "object",
        "properties": {name: random_argument(rng) for name in names},
        "required": rng.sample(names, rng.randint(0, len(names))),
        "$defs": {"Kind": {"type": "string", "enum": ["new", "old one"]}, "Point": point},
    }
    return function(parameters, name)


def test_calls_of_random_functions_fit_their_schemas(model):
    rng, arguments = random.Random(24), 0
    for number in range(60):
        functions = [random_function(rng, f"f{i}") for i in range(rng.randint(1, 3))]
        tools = model.tools(functions)
        names = {given["function"]["name"]: given["function"] for given in functions}
        choice = rng.choice(["required", *names])
        constraint = tools.constraint(choice, parallel=number % 2 == 0)
        sampling = Sampling(temperature=2.0) if number % 3 else None
        text = answer(model, constraint, 400, sampling=sampling, seed=number).text
        said, calls = tools.parse(text)
        assert not said
        assert calls
        assert len(calls) == 1 or number % 2 == 0
        for call in calls:
            assert choice in ("required", call.name)
            value = json.loads(call.arguments)
            jsonschema.validate(value, names[call.name]["parameters"])
            arguments += len(value)
        # What comes in pieces is the same.
        splitter, parts = tools.splitter(), []
        while text:
            size = rng.randint(1, 9)
            parts += splitter.push(text[:size])
            text = text[size:]
        parts += splitter.finish()
        assert [part.name for part in parts if isinstance(part, CallBegins)] == [
            call.name for call in calls
        ]
        for index, call in enumerate(calls):
            pieces = [p.text for p in parts if isinstance(p, ArgumentsPart) and p.index == index]
            assert "".join(pieces) == call.arguments
    assert arguments > 40


def test_a_call_is_written_as_the_template_writes_it(model):
    tools = model.tools([WEATHER, NOW])
    text = answer(model, tools.constraint("get_weather", parallel=False)).text
    said, (call,) = tools.parse(text)
    told = {"name": call.name, "arguments": json.loads(call.arguments)}
    message = {"role": "assistant", "content": said, "tool_calls": [{"function": told}]}
    assert f"{text}<|end_turn|>" in model.chat_template.render([*QUESTION, message])


def test_auto_is_the_models_own_answer_until_it_calls(model):
    tools = model.tools([WEATHER, NOW])
    constraint = tools.constraint()
    free = answer(model, None)
    kept = answer(model, constraint)
    assert (kept.text, kept.stats.finish) == (free.text, free.stats.finish)
    assert tools.parse(kept.text) == (free.text, [])
    mark = model.tokenizer.token_id("<tool_call>")
    if mark is None:
        return
    bias = Sampling(logit_bias={mark: 1000})
    called = answer(model, constraint, sampling=bias)
    said, calls = tools.parse(called.text)
    assert not said
    assert {call.name for call in calls} <= {"get_weather", "now"}
    one = answer(model, tools.constraint(parallel=False), sampling=bias)
    assert len(tools.parse(one.text)[1]) == 1


def test_thinking_comes_before_calls_and_may_name_them(model):
    tools = model.tools([NOW])
    begun = "so <tool_call> it is"
    bar = dict.fromkeys(model.generation_config.stop_ids, -1000.0)
    text = answer(
        model,
        tools.constraint("required", thinking=True),
        60,
        sampling=Sampling(logit_bias=bar),
    ).text
    assert "<tool_call>" not in text  # it is still thinking
    call = answer(model, tools.constraint("required")).text
    said, calls = tools.parse(f"{begun}</think>\n\nWell. \n{call}", thinking=True)
    assert (said, [call.name for call in calls]) == ("Well.", ["now"])


def test_an_answer_without_calls_can_have_a_shape_of_its_own(model):
    tools = model.tools([NOW])
    shape = Constraint(json_schema={"type": "integer", "minimum": 10, "maximum": 99})
    for content in (shape, Constraint(regex="4[0-9]/?")):
        constraint = tools.constraint("auto", content=content)
        text = answer(model, constraint).text
        assert re.fullmatch("[0-9]{2}/?", text) or tools.parse(text)[1]
    with pytest.raises(InputError, match="tools and grammar exclude each other"):
        tools.constraint("auto", content=Constraint(grammar="start: /a/"))


def test_an_answer_that_would_be_cut_is_closed(model):
    long = function({"type": "object", "properties": {"text": {"type": "string", "minLength": 5}},
                     "required": ["text"]})  # fmt: skip
    tools = model.tools([long])
    bias = Sampling(logit_bias={model.encode(text)[0]: -100 for text in ('"', "<")})
    cut = answer(model, tools.constraint("required", parallel=False), 160, sampling=bias)
    assert cut.stats.finish == "length"
    _, (call,) = tools.parse(cut.text)
    assert len(json.loads(call.arguments)["text"]) >= 5


@pytest.mark.parametrize(
    "text",
    [
        {"type": "string", "minLength": 1, "maxLength": 100_000},
        {"type": "string", "minLength": 150, "maxLength": 190},
        {"type": "string", "format": "uri", "minLength": 1, "maxLength": 2083},
        {"type": ["string", "null"], "maxLength": 3000},
        {"enum": [f"{number}" * 20 for number in range(1000)]},
    ],
)
def test_long_texts_are_counted(model, text):
    parameters = {"type": "object", "properties": {"text": text}, "required": ["text"]}
    tools = model.tools([function(parameters)])
    said = answer(model, tools.constraint("required", parallel=False), 150).text
    (call,) = tools.parse(said)[1]
    jsonschema.validate(json.loads(call.arguments), parameters)


def test_text_around_what_looks_like_a_call_is_told(model):
    tools = model.tools([NOW])
    for text in ("a < b", "<tool", "<tool_call> is a mark", "x \n", " \n"):
        splitter = tools.splitter()
        parts = [part for one in text for part in splitter.push(one)] + splitter.finish()
        assert "".join(part.text for part in parts) == text
        assert all(isinstance(part, Said) for part in parts)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "tools must be 1 to 128 functions, got 0"),
        ([NOW, NOW], "tools has the function 'now' twice"),
        (["now"], r"tools\[0\] must be an object"),
        ([{"type": "web_search"}], r"tools\[0\] must have the type 'function', got 'web_search'"),
        ([NOW | {"x": 1}], r"tools\[0\] has the unknown or unsupported key 'x'"),
        ([{"type": "function"}], r"tools\[0\].function must be an object, got None"),
        ([function({}, "two words")], r"tools\[0\].function.name must be 1 to 64 letters"),
        ([function({"type": "string"})], "must be a JSON schema of the type 'object'"),
        ([function({"properties": []})], "parameters.properties must be an object"),
        ([NOW, function({"properties": {"a": {"not": {}}}})], r"tools\[1\].*not"),
        ([function({"properties": {"a": {"type": "strng"}}})], r"tools\[0\].*strng"),
        ([function({"properties": {"a": {"$ref": "#/$defs/b"}}})], r"tools\[0\].*#?/\$defs/b"),
        ([function({"properties": {}, "not": {}})], r"tools\[0\].function.parameters.*not"),
        ([function({"properties": {"a": {"type": "string", "pattern": "(?=a)"}}})], "look-around"),
    ],
)
def test_what_is_no_function_is_refused_in_one_line(model, given, said):
    with pytest.raises(InputError, match=said) as problem:
        model.tools(given).constraint("required")
    assert "\n" not in str(problem.value)
    assert len(str(problem.value)) < 500


def test_only_functions_that_are_there_can_be_chosen(model):
    with pytest.raises(InputError, match="tool_choice must be auto, required or a function of"):
        model.tools([NOW]).constraint("later")


def test_a_model_without_tools_says_so(nano):
    with pytest.raises(InputError, match="chat template has no tools"):
        nano.tools([NOW])
