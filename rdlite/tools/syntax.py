"""How a chat template writes calls of functions: found by rendering some, not by a model's name."""

import json
import re
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from rdlite.errors import InputError
from rdlite.tokenizer.chat_template import ChatTemplate

#: What is said of a model whose template has none.
NO_TOOLS = "this model's chat template has no tools, or writes calls in an unknown way"
_QUESTION, _ABOUT, _RESULT = "rdlitequestion", "rdlitedescription", "rdliteresult"
_NAMES = ("rdlitefirst", "rdlitesecond")
_ARGUMENTS = {"rdlitekey": "rdlitevalue", "rdlitename": "rdlitetext"}
_MARK = re.compile(r"<[^<>\s]{1,60}>")


@dataclass(frozen=True, slots=True)
class ToolSyntax:
    """The texts around the parts of a call.

    A call is `head` name `middle` arguments `tail`, and several have `between` between them.
    Arguments are one JSON object; or, where there is `key`, each is `key` its name `equals` its
    value `end`, and values that are texts are written as they are.
    """

    head: str
    middle: str
    tail: str
    between: str
    key: str = ""
    equals: str = ""
    end: str = ""

    @property
    def mark(self) -> str:
        """What `head` begins with: a text that tells calls from answers."""
        found = _MARK.match(self.head)
        assert found is not None
        return found[0]


def find_syntax(template: ChatTemplate) -> ToolSyntax | None:
    """Return how a template writes calls; None if it has no tools, or in no way that is known.

    The template is shown a tool, two calls and a result. It has tools if it shows all of it.
    """
    try:
        text = template.render(_conversation(), False, [_tool(name) for name in _NAMES])
    except InputError:
        return None
    before, _, told = text.partition(_QUESTION)
    if not (told and _ABOUT in before and _RESULT in told and all(n in before for n in _NAMES)):
        return None
    try:
        return _as_json(told) or _as_parameters(told)
    except ValueError:
        return None


def _as_json(told: str) -> ToolSyntax | None:
    """Hermes and others: {"name": "f", "arguments": {"a": 1}} between two marks."""
    arguments = json.dumps(_ARGUMENTS)
    if told.count(arguments) != 2:
        return None
    before, middle, after, second_middle, rest = _split(
        told, _NAMES[0], arguments, _NAMES[1], arguments
    )
    head = _head(before, after)
    tail, between = _tail(after, head, rest)
    if middle != second_middle or not middle:
        raise ValueError
    return ToolSyntax(head, middle, tail, between)


def _as_parameters(told: str) -> ToolSyntax:
    """Nanbeige, Qwen and others: <function=f> with a <parameter=a> for each argument."""
    (key, value), (other, text) = _ARGUMENTS.items()
    before, opening, equals, closing, _, after, *same, rest = _split(
        told, _NAMES[0], key, value, other, text, _NAMES[1], key, value, other, text
    )
    head = _head(before, after)
    key = _head(opening, closing)
    middle, end = opening.removesuffix(key), closing.removesuffix(key)
    if same != [opening, equals, closing, equals] or not (equals and end.strip()):
        raise ValueError
    tail, between = _tail(after.removeprefix(end), head, rest.removeprefix(end))
    return ToolSyntax(head, middle, tail, between, key, equals, end)


def _split(text: str, *parts: str) -> list[str]:
    """Return what stands between parts that follow each other; raises ValueError if they do not."""
    pieces = []
    for part in parts:
        piece, found, text = text.partition(part)
        if not found:
            raise ValueError
        pieces.append(piece)
    return [*pieces, text]


def _common(first: str, second: str) -> str:
    """Return what both texts begin with."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return "".join(a for a, _ in pairs)


def _head(first: str, second: str) -> str:
    """Return what two texts end with, from a mark on; raises ValueError if they have none."""
    common = _common(first[::-1], second[::-1])[::-1]
    found = _MARK.search(common)
    if found is None:
        found = re.search(r"<[^<>\s]*$", common)  # a mark that a name ends
    if found is None:
        raise ValueError
    return common[found.start() :]


def _tail(after: str, head: str, rest: str) -> tuple[str, str]:
    """Return what ends a call, and what stands between two."""
    ending = after.removesuffix(head)
    tail = _common(ending, rest).rstrip()
    if not tail:
        raise ValueError
    return tail, ending[len(tail) :]


def _tool(name: str) -> dict[str, Any]:
    properties = {key: {"type": "string"} for key in _ARGUMENTS}
    parameters = {"type": "object", "properties": properties, "required": list(_ARGUMENTS)}
    function = {"name": name, "description": _ABOUT, "parameters": parameters}
    return {"type": "function", "function": function}


def _conversation() -> list[dict[str, Any]]:
    calls = [
        {
            "id": f"call_{name}",
            "type": "function",
            "function": {"name": name, "arguments": _ARGUMENTS},
        }
        for name in _NAMES
    ]
    return [
        {"role": "user", "content": _QUESTION},
        {"role": "assistant", "content": "", "tool_calls": calls},
        *(
            {"role": "tool", "tool_call_id": call["id"], "name": name, "content": _RESULT}
            for call, name in zip(calls, _NAMES, strict=True)
        ),
        {"role": "user", "content": "thanks"},
    ]
