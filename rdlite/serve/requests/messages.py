"""Messages as clients send them: what the template is told, what passes without effect."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from rdlite.errors import InputError
from rdlite.serve.requests.strict import (
    MAX_HARMLESS_CHARACTERS,
    MAX_LABEL,
    Label,
    Strict,
    _small,
    only,
)
from rdlite.utils.schema import read_json

MAX_CALLS = 128

#: Keys of a message that elsewhere change what is answered. All that nobody gave a meaning passes.
WITH_EFFECT = frozenset(
    """audio continue continue_final_message documents file files function_call image images
    input_audio partial prefill prefix tools video videos""".split()
)
#: How parts of a message may call text: OpenAI's two APIs do not agree.
TEXT_PARTS = ("text", "input_text", "output_text")


def text_of(value: object) -> object:
    """Return what a message says: text, or the texts of its parts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("must be text, or a list of parts of the type 'text'")
    return "".join(map(_text_of_part, value))


def _text_of_part(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type") not in TEXT_PARTS:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        raise ValueError(f"has a part of the type {kind!r:.40}; only text is read")
    text = part.get("text")
    if not isinstance(text, str):
        raise ValueError("has a part of the type 'text' without a text")
    # What else stands there (cache_control, annotations) is for those who bill or cite.
    _small({key: item for key, item in part.items() if key != "text"})
    return text


#: What may say something, for the description; an answer may have said nothing.
Said = str | Annotated[list[str | dict[str, Any]], Field(min_length=1)] | None
#: Some clients keep nothing as an empty list.
Thought = Annotated[str | None, BeforeValidator(lambda value: None if value == [] else value)]


def _arguments(value: object) -> object:
    """Take the JSON of an object, which templates want as that; nothing is an empty one."""
    if not isinstance(value, str):
        raise ValueError("must be the JSON of an object, as text")
    try:
        read = read_json(value.encode() or b"{}", "it", InputError)
    except InputError as problem:
        raise ValueError(str(problem)) from None
    if not isinstance(read, dict):
        raise ValueError("must be the JSON of an object")
    return read


class CalledFunction(Strict):
    """A function that an answer called, and with what."""

    name: str = Field(min_length=1, max_length=MAX_LABEL)
    arguments: Annotated[
        dict[str, Any], BeforeValidator(_arguments, json_schema_input_type=str)
    ] = Field(default={})


class MessageCall(Strict):
    """A call in an answer of before. Clients keep more in it, like its index."""

    model_config = ConfigDict(extra="ignore")

    id: Label | None = None
    type: Literal["function"] | None = None
    function: CalledFunction


class Message(Strict):
    """What somebody said, or what a function that was called returned.

    Clients send answers back as they got or stored them. What a template may ask for goes to it
    (`name`, `reasoning_content`); a key that would change the answer elsewhere is refused by name
    unless it is empty; any other passes, bounded and without effect.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra={"required": ["role"]})

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str, BeforeValidator(text_of, json_schema_input_type=Said)]
    name: Label | None = None
    reasoning_content: Thought = None
    reasoning: Thought = Field(default=None, description="The same, as newer clients call it")
    refusal: Annotated[None, only("")] = None
    tool_calls: list[MessageCall] | None = Field(default=None, max_length=MAX_CALLS)
    tool_call_id: Label | None = None
    function_call: Annotated[None, only({})] = None
    audio: Annotated[None, only({})] = None

    @model_validator(mode="before")
    @classmethod
    def _silence(cls, value: Any) -> Any:
        # An answer may have been only thinking; everybody else has to say something.
        said = not isinstance(value, dict) or value.get("content") is not None
        return value if said or value.get("role") != "assistant" else value | {"content": ""}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"has tool_calls, which only an assistant makes, not {self.role!r}")
        if self.tool_call_id and self.role != "tool":
            raise ValueError(f"has a tool_call_id, which only the role 'tool' has: {self.role!r}")
        extra = self.model_extra or {}
        for key, value in extra.items():
            if key in WITH_EFFECT and value not in (False, "", [], {}):
                raise ValueError(f"has the key {key!r}, which is not supported: leave it out")
        try:
            _small(extra)
        except ValueError:
            raise ValueError(
                f"has more than {MAX_HARMLESS_CHARACTERS} characters in keys without effect"
            ) from None
        return self

    def for_template(self) -> dict[str, Any]:
        """Return the message as chat templates know it."""
        thought = self.reasoning_content or self.reasoning
        role = "system" if self.role == "developer" else self.role
        message: dict[str, Any] = {"role": role, "content": self.content}
        if self.name is not None:
            message["name"] = self.name
        if thought:
            message["reasoning_content"] = thought
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": call.id or "", "type": "function", "function": call.function.model_dump()}
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


def for_template(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return a conversation as chat templates know it; results get the names of their functions."""
    names: dict[str | None, str] = {}
    told = []
    for message in messages:
        names |= {call.id: call.function.name for call in message.tool_calls or () if call.id}
        said = message.for_template()
        if message.role == "tool" and message.tool_call_id in names:
            said.setdefault("name", names[message.tool_call_id])
        told.append(said)
    return told
