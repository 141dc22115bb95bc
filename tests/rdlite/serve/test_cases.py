"""What front ends and agents send: each request gets the status that the list of cases says."""

import json
from pathlib import Path

import jsonschema
import pytest

CASES = [
    json.loads(line)
    for line in Path(__file__).with_name("cases.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.fixture(scope="module")
def lenient(start):
    with start("--lenient") as running:
        yield running
        running.stop()  # what it ignored is in its log


def ask(server, body):
    status, headers, text = server.post("/v1/chat/completions", body)
    return status, headers, json.loads(text)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_case(server, lenient, case):
    body = {"max_tokens": 64} | case["body"]  # nano would write JSON until its context ends
    if body.get("user") == "<10,000 characters>":
        body["user"] = "u" * 10_000
    status, _, answer = ask(server, body)
    assert status == case["status"], answer
    if "param" in case:
        assert answer["error"]["param"] == case["param"]
    if "choices" in case:
        assert [choice["index"] for choice in answer["choices"]] == list(range(case["choices"]))
    if "validates" in case or "parses" in case:
        value = json.loads(answer["choices"][0]["message"]["content"])
        shape = body["response_format"].get("json_schema", {"schema": {"type": "object"}})
        jsonschema.validate(value, shape["schema"])
    if "fewer_steps_than" in case:
        more = ask(server, body | {"reasoning_effort": case["fewer_steps_than"]})[2]
        assert answer["usage"]["mean_steps"] < more["usage"]["mean_steps"]
    if "status_lenient" in case:
        status, headers, _ = ask(lenient, body)
        assert status == case["status_lenient"]
        dropped = headers["X-Rdlite-Ignored"].split(", ")
        assert set(dropped) == case["body"].keys() - {"messages"}


def test_what_a_lenient_server_ignores_is_in_its_log(start):
    with start("--lenient") as running:
        status, headers, _ = ask(
            running, {"messages": [{"role": "user", "content": "hi"}], "colour": "red"}
        )
        assert (status, headers["X-Rdlite-Ignored"]) == (200, "colour")
        assert "ignored what is not supported: colour" in running.stop()[1]


def test_choices_of_a_seed_differ_come_again_and_stream_by_index(server):
    asked = {
        "model": "nano",
        "messages": [{"role": "user", "content": "hello"}],
        "n": 3,
        "seed": 7,
        "temperature": 30,
        "max_tokens": 12,
    }
    with server.client() as client:
        first = client.chat.completions.create(**asked)
        texts = [choice.message.content for choice in first.choices]
        assert len(set(texts)) > 1
        again = client.chat.completions.create(**asked)
        assert [choice.message.content for choice in again.choices] == texts
        streamed = ["", "", ""]
        for chunk in client.chat.completions.create(**asked, stream=True):
            for choice in chunk.choices:
                streamed[choice.index] += choice.delta.content or ""
        assert streamed == texts
    assert first.usage.completion_tokens > max(
        len(choice.depth["steps"]) for choice in first.choices
    )


def test_a_pydantic_class_is_filled(server):
    pydantic = pytest.importorskip("pydantic")

    class Answer(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        x: int = pydantic.Field(ge=0, le=99)

    with server.client() as client:
        said = client.chat.completions.parse(
            model="nano",
            messages=[{"role": "user", "content": "What is 12 + 30?"}],
            response_format=Answer,
        )
    assert isinstance(said.choices[0].message.parsed, Answer)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"response_format": {"type": "json_schema"}}, "needs json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
            "not supported: not",
        ),
        ({"regex": "(?=a)"}, "look-around"),
        ({"regex": "a", "grammar": "start: /a/"}, "give one of"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"n": 0}, "'n'"),
        ({"min_tokens": -1}, "'min_tokens'"),
        ({"reasoning_effort": "huge"}, "'reasoning_effort'"),
        ({"presence_penalty": -2.5}, "'presence_penalty'"),
    ],
)
def test_what_cannot_be_done_is_a_400_that_says_so(server, given, said):
    body = {"model": "nano", "messages": [{"role": "user", "content": "hi"}]} | given
    status, _, answer = ask(server, body)
    assert status == 400
    assert said in answer["error"]["message"]


def test_tokens_and_texts_can_be_told(server):
    status, _, text = server.post("/tokenize", {"prompt": "What is 12 + 30?"})
    told = json.loads(text)
    assert (status, told["count"]) == (200, len(told["tokens"]))
    back = json.loads(server.post("/detokenize", {"tokens": told["tokens"]})[2])
    assert back["prompt"] == "What is 12 + 30?"
    assert server.post("/tokenize", {})[0] == 400
    assert server.post("/detokenize", {"tokens": [10**6]})[0] == 400
    status, _, text = server.post("/v1/embeddings", {"input": "hi"})
    assert status == 400
    assert "no embeddings" in text
