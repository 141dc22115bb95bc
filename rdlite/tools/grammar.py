"""The grammar of calls: a model's syntax around its functions' names and arguments."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from rdlite.errors import InputError
from rdlite.tools.function import Function
from rdlite.tools.syntax import ToolSyntax
from rdlite.tools.values import Value, in_place

Schema = dict[str, Any]
#: The id of an added token by how it is written, or None.
TokenId = Callable[[str], int | None]
#: What the schema of a function may say where arguments are not written as JSON.
_KNOWN = {
    *("type", "properties", "required", "additionalProperties", "$defs", "definitions"),
    *("title", "description", "$schema", "$id", "$comment", "examples", "default"),
}


def arguments_schema(function: Function) -> Schema:
    """Return the schema of a function's arguments, as JSON; arguments are the named ones alone."""
    schema = dict(function.parameters) | {"type": "object"}
    if schema.get("properties") == {}:
        schema.pop("required", None)
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return in_place(schema, {})


def values_of(function: Function, where: str) -> dict[str, Value]:
    """Return how each argument of a function is written where that is not JSON.

    Raises InputError for a schema that says more of the arguments together than their names.
    """
    schema = function.parameters
    unknown = sorted(schema.keys() - _KNOWN)
    if unknown:
        raise InputError(
            f"{where} uses what is not supported: {', '.join(unknown):.100}; leave it out"
        )
    properties = dict(schema.get("properties", {}))
    for name in required(function):
        properties.setdefault(name, True)
    return {
        name: Value(value, schema, f"{where}.properties.{name:.60}")
        for name, value in properties.items()
    }


def required(function: Function) -> list[str]:
    """Return the names of arguments that a call must have; raises InputError if they are none."""
    names = function.parameters.get("required") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"required of the function {function.name} must be a list of names")
    return names


def call_rules(
    syntax: ToolSyntax,
    functions: Sequence[Function],
    values: Sequence[dict[str, Value]],
    added: Sequence[str],
    token_id: TokenId,
) -> list[str]:
    """Return the rules of `call`, which follows the head of one, `head`, `after_mark`, `between`.

    Args:
        syntax: of the model.
        functions: that may be called, at least one.
        values: of each, where arguments are not JSON.
        added: tokens added to the vocabulary, the longest first; the syntax may have some.
        token_id: of one of these.
    """

    def text(literal: str) -> str:
        return _literal(literal, added, token_id)

    rules = [
        f"call: {' | '.join(f'f{number}' for number in range(len(functions)))}",
        f"head: {text(syntax.head)}",
        f"after_mark: {text(syntax.head.removeprefix(syntax.mark))}",
        f"between: {text(syntax.between)}",
    ]
    for number, function in enumerate(functions):
        begin = text(function.name + syntax.middle)
        if not syntax.key:
            schema = json.dumps(arguments_schema(function))
            rules.append(f"f{number}: {begin} f{number}_json {text(syntax.tail)}")
            rules.append(f"f{number}_json: %json {schema}")
            continue
        needed, parts = set(required(function)), []
        for index, (name, value) in enumerate(values[number].items()):
            part = f"f{number}_p{index}"
            parts.append(part if name in needed else f"{part}?")
            rules.append(f"{part}: {text(syntax.key + name + syntax.equals)} {part}_value")
            rules += value.rules(f"{part}_value", syntax.end, text(syntax.end))
        rules.append(" ".join([f"f{number}:", begin, *parts, text(syntax.tail)]))
    return rules


def _literal(text: str, added: Sequence[str], token_id: TokenId) -> str:
    """Return a text as the grammar writes it; what is one token may come as that or in pieces."""
    for token in added:
        before, found, after = text.partition(token)
        if found and (id := token_id(token)) is not None:
            parts = [f"(<[{id}]> | {json.dumps(token, ensure_ascii=False)})"]
            parts = [_literal(before, added, token_id) if before else "", *parts]
            parts.append(_literal(after, added, token_id) if after else "")
            return " ".join(filter(None, parts))
    return json.dumps(text, ensure_ascii=False)
