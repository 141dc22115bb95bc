"""What clients may ask for: every parameter, its type and its bounds; anything else is refused."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, FailFast, Field

from rdlite.errors import InputError
from rdlite.serve.requests.answer_shape import MAX_SHAPE, ResponseFormat
from rdlite.serve.requests.effort import Effort
from rdlite.serve.requests.functions import Functions, ToolChoice
from rdlite.serve.requests.messages import Message
from rdlite.serve.requests.strict import Harmless, Label, Strict, _small, only
from rdlite.tokenizer.chat_template import check_variables
from rdlite.utils.checks import check_integer

MAX_MESSAGES = 2048
MAX_BIASES = 4096
MAX_TOKENS = 2**22
MAX_CHOICES = 8


def _stops(value: object) -> object:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(t, str) and t for t in texts):
        raise ValueError("must be a text or a list of texts, and none may be empty")
    if len(texts) > 16 or any(len(text) > 1000 for text in texts):
        raise ValueError("must be at most 16 texts of up to 1000 characters")
    return texts


def _prompt(value: object) -> object:
    """Take text, or token ids, or a list with one of these."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(type(token) is int for token in value):
        return value
    raise ValueError("must be one text, or one list of token ids")


#: What `_stops` and `_prompt` take, for the description.
Stops = (
    str
    | Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=16)]
)
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**22)]], Field(min_length=1)]
Prompt = str | Ids | Annotated[list[str | Ids], Field(min_length=1, max_length=1)]


def _few(value: object) -> object:
    if isinstance(value, dict) and len(value) > MAX_BIASES:
        raise ValueError(f"must have at most {MAX_BIASES} tokens, has {len(value)}")
    return value


def _biases(value: dict[str, float]) -> dict[str, float]:
    for key in value:
        if not (key.isascii() and key.isdecimal() and len(key) < 9):
            raise ValueError(f"has the key {key!r:.40}, which is not a token id")
    return value


def _seed(value: int) -> int:
    return check_integer("it", value, -(2**63), 2**64 - 1) % 2**64


def _variables(value: dict[str, Any]) -> dict[str, Any]:
    try:
        return check_variables(value)
    except InputError as problem:
        raise ValueError(str(problem)) from None


class DepthRequest(Strict):
    """How deep to think; what is left out is as the server was started. See `rdlite.Depth`."""

    max_steps: int | None = Field(default=None, ge=1, le=1024)
    min_steps: int | None = Field(default=None, ge=1, le=1024)
    exit: str | None = Field(default=None, max_length=40)
    threshold: float | None = Field(default=None, ge=-1e6, le=1e6)
    check_every: int | None = Field(default=None, ge=1, le=1024)
    prompt: Literal["mean", "each"] | None = None
    changes: bool | None = Field(default=None, description="Tell how far each step moved the state")
    sampler: str | None = Field(
        default=None, max_length=400, description="plain, or parallel[:KNOB=VALUE,...]"
    )


class StreamOptions(Strict):
    """What a stream brings besides tokens."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[None, only(False)] = None


class _Common(Strict):
    model: str | None = Field(default=None, max_length=200)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=2**22)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)
    logit_bias: (
        Annotated[
            dict[str, Annotated[float, Field(ge=-1000, le=1000)]],
            BeforeValidator(_few),
            AfterValidator(_biases),
        ]
        | None
    ) = None
    stop: Annotated[list[str], BeforeValidator(_stops, json_schema_input_type=Stops)] | None = None
    seed: Annotated[int, AfterValidator(_seed)] | None = None
    depth: DepthRequest | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    min_tokens: int | None = Field(default=None, ge=0, le=MAX_TOKENS)
    response_format: ResponseFormat | None = None
    grammar: str | None = Field(default=None, max_length=MAX_SHAPE)
    regex: str | None = Field(default=None, max_length=MAX_SHAPE)
    # Who asks, and bookkeeping of OpenAI's: without effect here.
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: Label | None = None
    prompt_cache_options: Harmless = None
    metadata: Annotated[dict[str, Any], AfterValidator(_small)] | None = None
    store: bool | None = None
    service_tier: Label | None = None
    verbosity: Label | None = None
    client_metadata: Harmless = None


class ChatRequest(_Common):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], FailFast()] = Field(min_length=1, max_length=MAX_MESSAGES)
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(_variables)] | None = Field(
        default=None, description="Variables of the chat template's own"
    )
    enable_thinking: bool | None = Field(default=None, description="One of those variables")
    history: Literal["trained", "all"] | Annotated[int, Field(ge=16, le=MAX_TOKENS)] | None = Field(
        default=None, description="How long a conversation may be before old turns are left out"
    )
    add_generation_prompt: Annotated[None, only(True)] = None
    continue_final_message: Annotated[None, only(False)] = None
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    modalities: Annotated[None, only(["text"])] = None
    tools: Functions | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[None, only([])] = None
    function_call: Annotated[None, only("none")] = None
    audio: Annotated[None, only()] = None
    prediction: Annotated[None, only()] = None
    reasoning_effort: Effort | None = None


class CompletionRequest(_Common):
    """The body of /v1/completions."""

    prompt: Annotated[Any, BeforeValidator(_prompt, json_schema_input_type=Prompt)]
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: Annotated[None, only(False)] = None
    best_of: Annotated[None, only(1)] = None
    suffix: Annotated[None, only("")] = None
