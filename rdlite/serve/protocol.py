"""What clients may ask for: every parameter, its type and its bounds; anything else is refused."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    model_validator,
)

from rdlite.utils.checks import check_integer

MAX_MESSAGES = 2048
MAX_BIASES = 4096
MAX_TOKENS = 2**22


def _only(*neutral: object) -> BeforeValidator:
    """Accept a parameter of OpenAI's that is not supported, with what it is without effect."""

    def check(value: object) -> object:
        if value is None or any(value == v and type(value) is not bool for v in neutral):
            return None
        if any(value is v for v in neutral):
            return None
        shown = " or ".join(repr(v) for v in neutral)
        raise ValueError(f"is not supported: leave it out, or give {shown or 'null'}")

    return BeforeValidator(check)


def _text_of(value: object) -> object:
    """Return what a message says: text, or the texts of its parts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("must be text, or a list of parts of the type 'text'")
    texts = []
    for part in value:
        if not (
            isinstance(part, dict)
            and part.keys() == {"type", "text"}
            and part["type"] == "text"
            and isinstance(part["text"], str)
        ):
            raise ValueError("has a part that is not {'type': 'text', 'text': ...}; only text is")
        texts.append(part["text"])
    return "".join(texts)


def _stops(value: object) -> object:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(t, str) and t for t in texts):
        raise ValueError("must be a text or a list of texts, none empty")
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


def _few(value: object) -> object:
    if isinstance(value, dict) and len(value) > MAX_BIASES:
        raise ValueError(f"must have at most {MAX_BIASES} tokens, has {len(value)}")
    return value


def _biases(value: dict[str, float]) -> dict[str, float]:
    for key in value:
        if not (key.isascii() and key.isdecimal() and len(key) < 9):
            raise ValueError(f"has the key {key!r:.40}, which is no token id")
    return value


def _seed(value: int) -> int:
    return check_integer("it", value, -(2**63), 2**64 - 1) % 2**64


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, value: object) -> object:
        # Every unknown key is an error of its own, and a body has room for half a million.
        if isinstance(value, dict) and len(value) > len(cls.model_fields):
            unknown = next(key for key in value if key not in cls.model_fields)
            raise ValueError(f"has an unknown or unsupported parameter {unknown!r:.80}")
        return value


class DepthRequest(_Strict):
    """How deep to think; what is left out is as the server was started. See `rdlite.Depth`."""

    max_steps: int | None = Field(default=None, ge=1, le=1024)
    min_steps: int | None = Field(default=None, ge=1, le=1024)
    exit: str | None = Field(default=None, max_length=40)
    threshold: float | None = Field(default=None, ge=-1e6, le=1e6)
    check_every: int | None = Field(default=None, ge=1, le=1024)
    prompt: Literal["mean", "each"] | None = None
    changes: bool | None = Field(default=None, description="Tell how far each step moved the state")


class StreamOptions(_Strict):
    """What a stream brings besides tokens."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[None, _only(False)] = None


class Message(_Strict):
    """What somebody said."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text_of)]
    # Clients send answers back as they got them, with all that is empty there.
    name: Annotated[None, _only()] = None
    refusal: Annotated[None, _only()] = None
    tool_calls: Annotated[None, _only([])] = None
    function_call: Annotated[None, _only()] = None
    annotations: Annotated[None, _only([])] = None
    audio: Annotated[None, _only()] = None


class _Common(_Strict):
    model: str = Field(max_length=200)
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
    stop: Annotated[list[str], BeforeValidator(_stops)] | None = None
    seed: Annotated[int, AfterValidator(_seed)] | None = None
    depth: DepthRequest | None = None
    n: Annotated[None, _only(1)] = None
    presence_penalty: Annotated[None, _only(0)] = None
    frequency_penalty: Annotated[None, _only(0)] = None
    user: Annotated[None, _only()] = None


class ChatRequest(_Common):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], FailFast()] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: Annotated[None, _only({"type": "text"})] = None
    modalities: Annotated[None, _only(["text"])] = None
    tools: Annotated[None, _only([])] = None
    tool_choice: Annotated[None, _only("none")] = None
    parallel_tool_calls: Annotated[None, _only(True, False)] = None
    functions: Annotated[None, _only([])] = None
    function_call: Annotated[None, _only("none")] = None
    audio: Annotated[None, _only()] = None
    prediction: Annotated[None, _only()] = None
    reasoning_effort: Annotated[None, _only()] = None
    metadata: Annotated[None, _only({})] = None
    service_tier: Annotated[None, _only("auto", "default")] = None
    store: Annotated[None, _only(False)] = None


class CompletionRequest(_Common):
    """The body of /v1/completions."""

    prompt: Annotated[Any, BeforeValidator(_prompt)]
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: Annotated[None, _only(False)] = None
    best_of: Annotated[None, _only(1)] = None
    suffix: Annotated[None, _only("")] = None
