"""The clients that people use, each against a real server: chats, shapes, functions, responses."""

import asyncio
import json
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pydantic
import pytest

JS = Path(__file__).parents[3] / "js"
QUESTION = "What is 48 + 76?"
#: What the clients warn of is theirs.
pytestmark = pytest.mark.filterwarnings("default")


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in so many days.",
        "parameters": {
            "type": "object",
            "properties": {"days": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["days"],
            "additionalProperties": False,
        },
    },
}


class Answer(pydantic.BaseModel):
    """What a class looks like whose users want it filled."""

    model_config = pydantic.ConfigDict(extra="forbid")
    x: int = pydantic.Field(ge=0, le=99)


def needs(package, there=None):
    """Skip where a client is not installed, unless RDLITE_CLIENTS says that all are."""
    if os.environ.get("RDLITE_CLIENTS") == "all":
        return
    if not (find_spec(package) if there is None else there):
        pytest.skip(f"{package} is not installed: pip install '.[clients]', make test-js")


@pytest.fixture(scope="module")
def url(start):
    with start("--threads", 1) as server:
        yield server.url + "/v1"


@pytest.fixture(scope="module")
def tools_url(start, tool_nano):
    with start(tool_nano, "--threads", 1) as server:
        yield server.url + "/v1"


def test_openai_in_javascript(url):
    node = shutil.which("node")
    needs("openai for JavaScript", bool(node) and (JS / "node_modules" / "openai").is_dir())
    done = subprocess.run(
        [node, JS / "test" / "openai_client.mjs", url.removesuffix("/v1")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert 0 <= told.pop("x") <= 99
    assert told == {
        "model": "nano",
        "chat": ["124"] * 3,
        "stream": "124",
        "response": "124",
        "events": "42",
        "refused": [400, "n"],
    }


def test_langchain(url):
    needs("langchain_openai")
    from langchain_core.messages import HumanMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=url, api_key="none", model="nano", max_retries=0)
    answer = model.invoke(QUESTION)
    assert answer.content == "124"
    assert answer.usage_metadata["output_tokens"] == 4
    assert "".join(chunk.content for chunk in model.stream(QUESTION)) == "124"
    shaped = model.with_structured_output(Answer, method="json_schema", strict=True)
    assert isinstance(shaped.invoke(QUESTION), Answer)
    (choices,) = model.generate([[HumanMessage(QUESTION)]], n=3).generations
    assert [choice.text for choice in choices] == ["124"] * 3
    responses = ChatOpenAI(base_url=url, api_key="none", model="nano", use_responses_api=True)
    assert responses.invoke(QUESTION).text == "124"


def test_langchain_calls_a_function(tools_url):
    needs("langchain_openai")
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=tools_url, api_key="none", model="nano", max_tokens=200, seed=3)
    asked = [HumanMessage(QUESTION)]
    said = model.bind_tools([WEATHER], tool_choice="get_weather").invoke(asked)
    call = said.tool_calls[0]
    assert (call["name"], set(call["args"])) == ("get_weather", {"days"})
    results = [ToolMessage("sunny", tool_call_id=each["id"]) for each in said.tool_calls]
    silent = model.bind_tools([WEATHER], tool_choice="none")
    answer = silent.invoke([*asked, said, *results])
    assert not answer.tool_calls


def test_pydantic_ai(url):
    needs("pydantic_ai")
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel("nano", provider=OpenAIProvider(base_url=url, api_key="none"))

    async def ask():
        said = await Agent(model).run(QUESTION)
        async with Agent(model).run_stream(QUESTION) as streamed:
            text = await streamed.get_output()
        shaped = await Agent(model, output_type=NativeOutput(Answer, strict=True)).run(QUESTION)
        return said.output, text, shaped.output

    said, streamed, shaped = asyncio.run(ask())
    assert (said, streamed) == ("124", "124")
    assert isinstance(shaped, Answer)


def test_litellm(url, monkeypatch):
    needs("litellm")
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # nothing is fetched
    import litellm

    asked = {
        "model": "openai/nano",
        "api_base": url,
        "api_key": "none",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_retries": 0,
    }
    answer = litellm.completion(**asked, n=3, user="u-1")
    assert [choice.message.content for choice in answer.choices] == ["124"] * 3
    streamed = litellm.completion(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == "124"
    said = litellm.responses(
        model="openai/nano", input=QUESTION, api_base=url, api_key="none", max_retries=0
    )
    assert said.output[-1].content[0].text == "124"
    shaped = litellm.completion(**asked, response_format=Answer)
    Answer.model_validate_json(shaped.choices[0].message.content)
    with pytest.raises(litellm.BadRequestError, match="'frequency_penalty'"):
        litellm.completion(**asked, frequency_penalty=3)


def test_litellm_calls_a_function(tools_url, monkeypatch):
    needs("litellm")
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    answer = litellm.completion(
        model="openai/nano",
        api_base=tools_url,
        api_key="none",
        messages=[{"role": "user", "content": QUESTION}],
        tools=[WEATHER],
        tool_choice="required",
        max_tokens=200,
        seed=3,
    )
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["days"] in range(10)
