"""The body of /v1/responses: its parameters, and its items as the messages of a chat."""

import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from rdlite.errors import InputError
from rdlite.serve.requests.effort import Effort
from rdlite.serve.requests.functions import Functions, ParameterError
from rdlite.serve.requests.messages import Message, text_of
from rdlite.serve.requests.protocol import (
    MAX_MESSAGES,
    MAX_TOKENS,
    ChatRequest,
    DepthRequest,
    _seed,
    _variables,
)
from rdlite.serve.requests.strict import MAX_LABEL, Harmless, Label, Strict, _small, only

Json = dict[str, Any]
#: Parameters that are the same in a chat.
SHARED = """model stream temperature top_p top_k min_p seed parallel_tool_calls
    chat_template_kwargs""".split()


class UnknownResponseError(InputError):
    """There is no such response, or it is another key's."""

    def __init__(self, id: str) -> None:
        super().__init__(
            f"there is no response {id!r:.80}: it was not stored, is another key's, or had to make "
            "room for later ones"
        )


class TextFormat(Strict):
    """Text, any JSON object, or JSON that fits a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: Label | None = None
    description: str | None = Field(default=None, max_length=MAX_LABEL)
    strict: bool | None = None
    schema_: Json | None = Field(default=None, alias="schema")


class TextOptions(Strict):
    """What the text of an answer looks like."""

    format: TextFormat | None = None
    verbosity: Label | None = None


class ReasoningOptions(Strict):
    """How deep to think; there are no summaries of it."""

    effort: Effort | None = None
    summary: Label | None = None
    generate_summary: Label | None = None
    context: Label | None = None


class NamedFunction(Strict):
    """The one function to call."""

    type: Literal["function"]
    name: str = Field(max_length=MAX_LABEL)


class ResponseStreamOptions(Strict):
    """Nothing that is not without effect."""

    include_obfuscation: Annotated[None, only(False)] = None


class ResponsesRequest(Strict):
    """The body of /v1/responses."""

    model: str | None = Field(default=None, max_length=200)
    input: str | Annotated[list[Json], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    previous_response_id: Label | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=2**22)
    min_p: float | None = Field(default=None, ge=0, le=1)
    seed: Annotated[int, AfterValidator(_seed)] | None = None
    depth: DepthRequest | None = None
    chat_template_kwargs: Annotated[Json, AfterValidator(_variables)] | None = None
    tools: Functions | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: list[Literal["reasoning.encrypted_content"]] | None = Field(default=None, max_length=8)
    # What is not supported, with what it may say.
    background: Annotated[None, only(False)] = None
    truncation: Annotated[None, only("disabled")] = None
    conversation: Annotated[None, only()] = None
    prompt: Annotated[None, only()] = None
    max_tool_calls: Annotated[None, only()] = None
    top_logprobs: Annotated[None, only(0)] = None
    # Who asks, and bookkeeping: without effect.
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: Label | None = None
    prompt_cache_options: Harmless = None
    metadata: Annotated[Json, AfterValidator(_small)] | None = None
    service_tier: Label | None = None
    client_metadata: Harmless = None

    def as_chat(self, messages: Sequence[Json]) -> ChatRequest:
        """Return the same as the body of a chat; raises ParameterError for what none can have.

        Args:
            messages: of the conversation, `input` included.
        """
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        body: Json = {"messages": [*system, *messages]}
        for name in SHARED:
            body[name] = getattr(self, name)
        body["depth"] = self.depth and self.depth.model_dump()
        body["max_completion_tokens"] = self.max_output_tokens
        body["reasoning_effort"] = self.reasoning and self.reasoning.effort
        body["tools"] = self.tools and [_nested(tool) for tool in self.tools]
        choice = self.tool_choice
        if isinstance(choice, NamedFunction):
            body["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
        else:
            body["tool_choice"] = choice
        shape = self.text and self.text.format
        if shape:
            body["response_format"] = {"type": shape.type}
            if shape.type == "json_schema":
                said = shape.model_dump(exclude={"type"}, exclude_none=True, by_alias=True)
                body["response_format"]["json_schema"] = said
        try:
            return ChatRequest.model_validate(body)
        except ValidationError as problem:
            raise _refusal("input", problem) from None


def messages_of(given: str | Sequence[Json]) -> list[Json]:
    """Return `input` as messages of a chat; raises ParameterError for items that are none."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[Json] = []
    thought = ""
    for index, item in enumerate(given):
        where = f"input[{index}]"
        item = {key: value for key, value in item.items() if value is not None}
        kind = item.get("type", "message")
        if kind == "reasoning":
            parts = item.get("content", [])
            thought += _thought(parts, where)
            continue
        message = _message(kind, item, where)
        if message["role"] == "assistant":
            if thought:
                message["reasoning_content"], thought = thought, ""
            if kind == "function_call" and messages and messages[-1]["role"] == "assistant":
                messages[-1].setdefault("tool_calls", []).extend(message["tool_calls"])
                continue
        try:
            Message.model_validate(message)
        except ValidationError as problem:
            raise _refusal(where, problem) from None
        messages.append(message)
    return messages


def _message(kind: object, item: Json, where: str) -> Json:
    match kind:
        case "message":
            return {"role": item.get("role"), "content": item.get("content")}
        case "function_call":
            call = {"name": item.get("name"), "arguments": item.get("arguments")}
            id = item.get("call_id") or f"call_{uuid.uuid4().hex[:24]}"
            calls = [{"id": id, "type": "function", "function": call}]
            return {"role": "assistant", "content": "", "tool_calls": calls}
        case "function_call_output":
            return {
                "role": "tool",
                "tool_call_id": item.get("call_id"),
                "content": item.get("output"),
            }
    raise ParameterError(
        f"{where} has the type {kind!r:.40}; message, reasoning, function_call and "
        "function_call_output are read",
        "input",
    )


def _thought(parts: object, where: str) -> str:
    if not parts:
        return ""
    try:
        texts = [part | {"type": "text"} for part in parts if isinstance(part, dict)]  # type: ignore[attr-defined]
        return str(text_of(texts))
    except (TypeError, ValueError) as problem:
        raise ParameterError(f"{where} {problem}", "input") from None


def _nested(tool: Json) -> Json:
    """Return a tool as chats have it: what says of the function in a part of its own."""
    rest = {key: value for key, value in tool.items() if key != "type"}
    return {"type": tool.get("type"), "function": rest}


def _refusal(where: str, problem: ValidationError) -> ParameterError:
    found = problem.errors()[0]
    path = ".".join(str(part) for part in found["loc"] if part != "messages")
    message = found["msg"].removeprefix("Value error, ")
    return ParameterError(f"{where}: {path} {message}"[:400], where.partition("[")[0])
