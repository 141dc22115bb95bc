"""The shapes of answers, as /openapi.json has them. Nothing is checked by them while serving."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

Count = Annotated[int, Field(ge=0)]
Finish = Literal["stop", "length", "tool_calls"] | None


class ErrorDetail(BaseModel):
    """What is wrong, and with which parameter."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """An error as OpenAI's clients read it."""

    error: ErrorDetail


class Health(BaseModel):
    """How the worker is."""

    status: Literal["ok", "failed"]
    problem: str | None
    model: str
    slots: Count
    busy: Count
    waiting: Count


class ModelAnswer(BaseModel):
    """The model; `rdlite` has its family, parameters, context, depth and exit rules."""

    id: str
    object: Literal["model"]
    created: Count
    owned_by: str
    rdlite: dict[str, Any]


class ModelList(BaseModel):
    """The models that are served: one."""

    object: Literal["list"]
    data: list[ModelAnswer] = Field(min_length=1, max_length=1)


class DepthAnswer(BaseModel):
    """Of each token in order: core steps, what the exit rule said last, how far steps moved it."""

    steps: list[Annotated[int, Field(ge=1)]]
    exit_values: list[float | None]
    changes: list[list[float | None]] = []


class CachedTokens(BaseModel):
    """What of a prompt was in the cache already."""

    cached_tokens: Count


class Usage(BaseModel):
    """What an answer took."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: CachedTokens
    core_steps: Count
    mean_steps: float


class Logprob(BaseModel):
    """A token and its natural log-probability under the model's own distribution."""

    token: str
    logprob: Annotated[float, Field(le=0.001)]
    bytes: list[int] | None


class TokenLogprob(Logprob):
    """The same, with the likeliest tokens in its place."""

    top_logprobs: list[Logprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of a chat's answer."""

    content: list[TokenLogprob] | None
    refusal: None


class TextLogprobs(BaseModel):
    """Log-probabilities of a completion."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[Count]


class CalledFunction(BaseModel):
    """A function, and the JSON of its arguments."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call that the model asks for."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(BaseModel):
    """What the model says; `reasoning_content` is what it thought before."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str = ""
    tool_calls: list[ToolCall] = []


class ChatChoice(BaseModel):
    """One answer."""

    index: Count
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish
    depth: DepthAnswer


class ChatAnswer(BaseModel):
    """The answer of /v1/chat/completions; a stream has chunks of the same fields instead."""

    id: str
    object: Literal["chat.completion"]
    created: Count
    model: str
    system_fingerprint: str
    choices: list[ChatChoice] = Field(min_length=1)
    usage: Usage


class TextChoice(BaseModel):
    """One continuation."""

    index: Count
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish
    depth: DepthAnswer


class TextAnswer(BaseModel):
    """The answer of /v1/completions; a stream has chunks of the same fields instead."""

    id: str
    object: Literal["text_completion"]
    created: Count
    model: str
    system_fingerprint: str
    choices: list[TextChoice] = Field(min_length=1)
    usage: Usage


class TokensAnswer(BaseModel):
    """The token ids of a text."""

    tokens: list[Count]
    count: Count
    max_model_len: Count


class DetokenizedAnswer(BaseModel):
    """The text of token ids, twice: other servers call it one or the other."""

    prompt: str
    content: str


class ResponseTokens(BaseModel):
    """What of a prompt was in the cache; nothing is written to one that is paid for."""

    cached_tokens: Count
    cache_write_tokens: Count


class ReasoningTokens(BaseModel):
    """What of an answer was thinking."""

    reasoning_tokens: Count


class ResponseUsage(BaseModel):
    """What a response took."""

    input_tokens: Count
    input_tokens_details: ResponseTokens
    output_tokens: Count
    output_tokens_details: ReasoningTokens
    total_tokens: Count
    core_steps: Count
    mean_steps: float


class OutputItem(BaseModel):
    """What the model thought, said or called; the other fields are those of OpenAI's API."""

    id: str
    type: Literal["reasoning", "message", "function_call"]
    status: Literal["completed", "incomplete"]


class ResponseAnswer(BaseModel):
    """The answer of /v1/responses; what was asked for stands in it too."""

    id: str
    object: Literal["response"]
    created_at: Count
    status: Literal["completed", "incomplete"]
    model: str
    output: list[OutputItem] = Field(min_length=1)
    usage: ResponseUsage
    depth: DepthAnswer


class DeletedAnswer(BaseModel):
    """A response that is forgotten."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]
