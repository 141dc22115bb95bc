"""Functions that answers call, as OpenAI's client asks for them; a server for each syntax."""

import json

import openai
import pytest

CITY = {"type": "string", "maxLength": 9}
DAYS = {"type": "integer", "minimum": 0, "maximum": 9}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"city": CITY, "days": DAYS},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
NOW = {"type": "function", "function": {"name": "now", "parameters": None}}
QUESTION = {"role": "user", "content": "What is 12 + 30?"}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture(scope="module")
def tools_server(start, tool_nano):
    with start(tool_nano) as running:
        yield running


@pytest.fixture(scope="module")
def client(tools_server):
    with tools_server.client() as client:
        yield client


def ask(client, *messages, **options):
    options = {"tools": [WEATHER, NOW], "seed": 3, "max_tokens": 200} | options
    return client.chat.completions.create(
        model="nano", messages=list(messages or [QUESTION]), **options
    )


def check(call, name="get_weather"):
    assert (call.type, call.function.name) == ("function", name)
    assert call.id.startswith("call_")
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"city", "days"}
    assert isinstance(arguments["city"], str)
    assert arguments["days"] in range(10)


def test_a_round_trip(client):
    (choice,) = ask(client, tool_choice="required", parallel_tool_calls=False).choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (choice,) = ask(client, tool_choice=NAMED, parallel_tool_calls=False).choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    check(call)
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    answer = ask(client, QUESTION, choice.message, result)
    assert answer.choices[0].finish_reason in ("stop", "length")
    without = ask(client)
    assert answer.usage.prompt_tokens > without.usage.prompt_tokens


def test_a_stream_brings_the_same_calls_in_pieces(client):
    whole = ask(client, tool_choice=NAMED).choices[0].message.tool_calls
    names, arguments, ids, finish = [], [], [], None
    for chunk in ask(client, tool_choice=NAMED, stream=True):
        (choice,) = chunk.choices
        assert not choice.delta.content
        finish = choice.finish_reason or finish
        for part in choice.delta.tool_calls or []:
            if part.id:
                assert part.index == len(names)
                names.append(part.function.name)
                ids.append(part.id)
                arguments.append("")
            arguments[part.index] += part.function.arguments
    assert finish == "tool_calls"
    assert names == [call.function.name for call in whole]
    assert arguments == [call.function.arguments for call in whole]
    assert len(set(ids)) == len(ids)


def test_the_clients_own_stream_helper_puts_calls_together(client):
    with client.chat.completions.stream(
        model="nano", messages=[QUESTION], tools=[WEATHER], tool_choice="required", seed=3
    ) as stream:
        stream.until_done()
        message = stream.get_final_completion().choices[0].message
    for call in message.tool_calls:
        assert set(call.function.parsed_arguments) == {"city", "days"}


def test_auto_answers_as_without_a_constraint_and_none_as_without_tools(client, tools_server):
    plain = ask(client, tools=openai.omit)
    none = ask(client, tool_choice="none")
    assert none.usage.prompt_tokens == plain.usage.prompt_tokens
    assert none.choices[0].message.content == plain.choices[0].message.content
    auto = ask(client)
    assert auto.usage.prompt_tokens > plain.usage.prompt_tokens
    assert auto.choices[0].message.content
    assert not auto.choices[0].message.tool_calls
    streamed = "".join(c.choices[0].delta.content or "" for c in ask(client, stream=True))
    assert streamed == auto.choices[0].message.content
    marks = json.loads(tools_server.post("/tokenize", {"content": "<tool_call>"})[2])["tokens"]
    if len(marks) == 1:  # it is one token, which a bias can bring
        answer = ask(client, logit_bias={str(marks[0]): 1000})
        assert answer.choices[0].finish_reason == "tool_calls"


def test_choices_call_each_for_themselves(client):
    answer = ask(client, tool_choice=NAMED, n=2, temperature=2)
    calls = [choice.message.tool_calls[0] for choice in answer.choices]
    assert len({call.id for call in calls}) == 2
    for call in calls:
        check(call)


def test_what_thinks_first_calls_after_it(client):
    (choice,) = ask(
        client,
        tool_choice="required",
        max_tokens=40,
        extra_body={"enable_thinking": True},
    ).choices
    assert choice.finish_reason == "length"  # nano never ends its thinking
    assert choice.message.reasoning_content
    assert not choice.message.tool_calls
    (choice,) = ask(
        client,
        tools=openai.omit,
        response_format={"type": "json_object"},
        max_tokens=40,
        extra_body={"enable_thinking": True},
    ).choices
    assert choice.message.reasoning_content
    assert not choice.message.reasoning_content.startswith("{")


def test_calls_and_json_share_an_answer(client):
    schema = {"type": "object", "properties": {"x": DAYS}, "required": ["x"]}
    shape = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    (choice,) = ask(client, tools=[NOW], response_format=shape).choices
    if choice.message.tool_calls:
        assert choice.message.tool_calls[0].function.arguments == "{}"
    else:
        assert json.loads(choice.message.content)["x"] in range(10)


@pytest.mark.parametrize(
    ("options", "param", "said"),
    [
        ({"tools": [WEATHER, WEATHER]}, "tools", "has the function 'get_weather' twice"),
        ({"tools": [{"type": "web_search"}]}, "tools", "must have the type 'function'"),
        ({"tools": [NOW] * 129}, "tools", "129"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tools", "got 'f'"),
        ({"tool_choice": "always"}, "tool_choice", "tool_choice"),
        ({"tools": openai.omit, "tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"extra_body": {"grammar": 'start: "a"'}}, "tools", "exclude each other"),
        ({"extra_body": {"functions": [{}]}}, "functions", "not supported"),
    ],
)
def test_what_cannot_be_done_names_the_parameter(client, options, param, said):
    with pytest.raises(openai.BadRequestError, match=said) as refused:
        ask(client, **options)
    assert refused.value.param.startswith(param)


def call_of(arguments, **more):
    function = {"name": "now", "arguments": arguments}
    return {"id": "1", "type": "function", "function": function} | more


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "assistant", "tool_calls": [call_of("{")]}, "arguments"),
        ({"role": "assistant", "tool_calls": [call_of("[]")]}, "JSON of an object"),
        ({"role": "assistant", "tool_calls": [call_of({})]}, "JSON of an object"),
        ({"role": "user", "content": "a", "tool_calls": [call_of("{}")]}, "only an assistant"),
        ({"role": "user", "content": "a", "tool_call_id": "1"}, "only the role 'tool'"),
        ({"role": "tool", "tool_call_id": "1"}, "content"),
    ],
)
def test_messages_that_are_none_are_refused(tools_server, message, said):
    status, _, text = tools_server.post(
        "/v1/chat/completions", {"messages": [QUESTION, message], "tools": [NOW]}
    )
    assert status == 400
    assert said in json.loads(text)["error"]["message"]


def test_what_clients_keep_with_a_call_passes(tools_server):
    message = {"role": "assistant", "content": None, "tool_calls": [call_of("", index=0, x=[1])]}
    result = {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "noon"}]}
    status, _, text = tools_server.post(
        "/v1/chat/completions",
        {"messages": [QUESTION, message, result, QUESTION], "max_tokens": 4},
    )
    assert status == 200, text


def test_a_model_without_tools_refuses_them_and_calls_of_before(server):
    status, _, text = server.post(
        "/v1/chat/completions",
        {"messages": [{"role": "assistant", "tool_calls": [call_of("{}")]}, QUESTION]},
    )
    assert status == 400
    assert json.loads(text)["error"]["param"] == "messages"
    status, _, text = server.post(
        "/v1/chat/completions", {"messages": [QUESTION], "tools": [NOW], "tool_choice": "none"}
    )
    assert status == 200, text
