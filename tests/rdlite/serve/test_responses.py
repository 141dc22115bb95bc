"""/v1/responses, as OpenAI's client asks for them, and what is kept of them."""

import json

import openai
import pydantic
import pytest

from rdlite.serve.items.store import ResponseStore
from rdlite.serve.requests.functions import ParameterError
from rdlite.serve.requests.items import UnknownResponseError, messages_of

INPUT = {"type": "input_text"}
SUM = "What is 48 + 76?"
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a place.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 9},
            "days": {"type": "integer", "minimum": 0, "maximum": 9},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Answer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    x: int = pydantic.Field(ge=0, le=99)


@pytest.fixture(scope="module")
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def caller(start, tool_nano):
    """A client of a server whose model calls functions."""
    with start(tool_nano) as running, running.client() as client:
        yield client


def respond(client, given=SUM, **options):
    return client.responses.create(model="nano", input=given, **options)


def test_text_in_text_out(client):
    answer = respond(client)
    assert (answer.output_text, answer.status) == ("124", "completed")
    assert [item.type for item in answer.output] == ["message"]
    assert answer.usage.output_tokens == len(answer.depth["steps"])
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    cut = respond(client, max_output_tokens=1)
    assert (cut.output_text, cut.status) == ("1", "incomplete")
    assert cut.incomplete_details.reason == "max_output_tokens"
    assert cut.output[0].status == "incomplete"


def test_effort_is_depth(client):
    least, most = (respond(client, reasoning={"effort": effort}) for effort in ("low", "high"))
    assert least.usage.mean_steps < most.usage.mean_steps


def test_a_conversation_goes_on_from_a_response(client):
    first = respond(client, instructions="Be brief.")
    second = respond(client, "What is 12 + 30?", previous_response_id=first.id)
    assert second.output_text == "42"
    assert second.previous_response_id == first.id
    items = [{"role": "user", "content": SUM}, *first.output]
    by_hand = respond(client, [*items, {"role": "user", "content": "What is 12 + 30?"}])
    assert by_hand.usage.input_tokens == second.usage.input_tokens  # instructions do not go on
    assert first.usage.input_tokens > respond(client).usage.input_tokens


def test_responses_are_kept_until_they_are_deleted(client):
    answer = respond(client)
    assert client.responses.retrieve(answer.id) == answer
    client.responses.delete(answer.id)
    unkept = respond(client, store=False)
    for id in (answer.id, unkept.id, "resp_0"):
        with pytest.raises(openai.NotFoundError, match="there is no response"):
            client.responses.retrieve(id)
        with pytest.raises(openai.NotFoundError):
            client.responses.delete(id)
        with pytest.raises(openai.BadRequestError) as refused:
            respond(client, previous_response_id=id)
        assert refused.value.param == "previous_response_id"


def test_a_stream_has_openais_events_and_ends_with_the_response(client):
    events = list(respond(client, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    ends = ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert kinds[-4:] == ends
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert "".join(event.delta for event in events[4:-4]) == "124"
    whole = events[-1].response
    assert (whole.output_text, whole.status) == ("124", "completed")
    assert {event.item_id for event in events[3:-2]} == {whole.output[0].id}
    assert client.responses.retrieve(whole.id) == whole


def test_a_class_is_filled(client):
    said = client.responses.parse(model="nano", input="What is 12 + 30?", text_format=Answer)
    assert isinstance(said.output_parsed, Answer)
    answer = respond(client, "json", text={"format": {"type": "json_object"}}, max_output_tokens=80)
    assert isinstance(json.loads(answer.output_text), dict)


def test_a_round_trip_of_a_function(caller):
    asked = {"role": "user", "content": SUM}
    named = {"type": "function", "name": "get_weather"}
    options = {"tools": [WEATHER], "parallel_tool_calls": False, "max_output_tokens": 200}
    first = respond(caller, [asked], tool_choice=named, **options)
    (call,) = first.output
    assert (call.type, call.name, call.status) == ("function_call", "get_weather", "completed")
    assert json.loads(call.arguments)["days"] in range(10)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    options["max_output_tokens"] = 8
    kept = respond(caller, [result], previous_response_id=first.id, **options)
    sent = respond(caller, [asked, call, result], **options)
    assert kept.output_text
    assert kept.usage.input_tokens == sent.usage.input_tokens > first.usage.input_tokens


def test_a_call_is_streamed_piece_by_piece(caller):
    with caller.responses.stream(
        model="nano", input=SUM, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False
    ) as stream:
        events = list(stream)
        (call,) = stream.get_final_response().output
    assert set(call.parsed_arguments) == {"city", "days"}
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == call.arguments
    (done,) = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert (done.name, done.arguments) == ("get_weather", call.arguments)


def test_what_is_thought_is_an_item_of_its_own(start, thinking_nano):
    with start(thinking_nano) as running, running.client() as client:
        answer = respond(client)
        assert [item.type for item in answer.output] == ["reasoning", "message"]
        assert (answer.output[0].content[0].text, answer.output_text) == ("hm", "4")
        assert 0 < answer.usage.output_tokens_details.reasoning_tokens < answer.usage.output_tokens
        kinds = [event.type for event in respond(client, stream=True)]
        assert kinds.count("response.output_item.done") == 2
        assert "response.reasoning_text.delta" in kinds
        again = respond(client, [{"role": "user", "content": SUM}, *answer.output, {
            "role": "user", "content": SUM}])  # fmt: skip
        assert again.status == "completed"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"given": []}, "input"),
        ({"given": [{"type": "image"}]}, "input"),
        ({"given": [{"role": "user"}]}, "input"),
        ({"given": [{"role": "robot", "content": "hi"}]}, "input"),
        ({"given": [{"type": "function_call", "name": "f", "arguments": "{"}]}, "input"),
        ({"given": [{"type": "function_call_output", "output": 3}]}, "input"),
        ({"background": True}, "background"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"tools": [WEATHER]}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"text": {"format": {"type": "yaml"}}}, "text"),
        ({"reasoning": {"effort": "huge"}}, "reasoning"),
        ({"extra_body": {"messages": []}}, "messages"),
    ],
)
def test_what_cannot_be_done_names_the_parameter(client, options, param):
    with pytest.raises(openai.BadRequestError) as refused:
        respond(client, **options)
    assert refused.value.param.split(".")[0] == param


def test_a_response_answers_only_to_the_key_that_made_it(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("alice alice-long-key tokens-per-minute=1000\nbob bob-long-key\n")
    with start("--api-keys", keys) as running:
        with running.client(api_key="alice-long-key") as alice:
            answer = respond(alice)
            assert alice.responses.retrieve(answer.id).output_text == "124"
        with running.client(api_key="bob-long-key") as bob:
            for ask in (bob.responses.retrieve, bob.responses.delete):
                with pytest.raises(openai.NotFoundError):
                    ask(answer.id)
            with pytest.raises(openai.BadRequestError):
                respond(bob, previous_response_id=answer.id)
        spent = running.get("/metrics", Authorization="Bearer bob-long-key")[2]
        lines = [line for line in spent.splitlines() if 'alice"' in line and "tokens_total" in line]
        numbers = sorted(float(line.rpartition(" ")[2]) for line in lines)
        usage = sorted([answer.usage.input_tokens, answer.usage.output_tokens])
        assert [number for number in numbers if number] == usage


def test_the_store_keeps_what_was_used_lately_within_its_bytes():
    store = ResponseStore(most=300)
    for id in "abc":
        store.put(None, {"id": id, "text": "x" * 60}, [])
    store.response(None, "a")
    store.put(None, {"id": "d", "text": "x" * 60}, [])
    assert store.size <= 300
    with pytest.raises(UnknownResponseError):
        store.response(None, "b")
    assert store.messages(None, "a") == []
    store.put(None, {"id": "huge", "text": "x" * 400}, [])
    assert store.response(None, "d")["id"] == "d"
    for id in "acd":
        store.remove(None, id)
    assert store.size == 0


def test_items_become_the_messages_of_a_chat():
    given = [
        {"role": "user", "content": [INPUT | {"text": "hi"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": "well", "id": "1", "status": "x"},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "2", "name": "g", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "1", "output": "one"},
        {"type": "function_call_output", "call_id": "2", "output": [INPUT | {"text": "2"}]},
    ]  # fmt: skip
    user, answer, one, two = messages_of(given)
    assert user["role"] == "user"
    assert (answer["content"], answer["reasoning_content"]) == ("well", "hm")
    assert [call["function"]["name"] for call in answer["tool_calls"]] == ["f", "g"]
    assert [(m["role"], m["tool_call_id"]) for m in (one, two)] == [("tool", "1"), ("tool", "2")]
    with pytest.raises(ParameterError, match=r"input\[1\] has the type 'item_reference'"):
        messages_of([given[0], {"type": "item_reference", "id": "1"}])
