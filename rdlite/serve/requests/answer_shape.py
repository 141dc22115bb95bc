"""What a request may say of the shape of its answer: response_format, grammar, regex."""

from typing import Any, Literal

from pydantic import Field

from rdlite.config.constraint import Constraint
from rdlite.errors import InputError
from rdlite.serve.requests.strict import Label, Strict

#: Longest schema, grammar or regular expression, in characters.
MAX_SHAPE = 2**18


class JsonSchema(Strict):
    """A named JSON schema; it is always kept strictly."""

    name: Label | None = None
    description: str | None = Field(default=None, max_length=MAX_SHAPE)
    strict: bool | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponseFormat(Strict):
    """Text, any JSON object, or JSON that fits a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


def constraint_for(
    response_format: ResponseFormat | None, grammar: str | None, regex: str | None
) -> Constraint | None:
    """Return the constraint that a request asks for; raises InputError for more than one."""
    found: list[Constraint] = []
    if response_format is not None and response_format.type != "text":
        schema: dict[str, Any] = {"type": "object"}
        if response_format.type == "json_schema":
            given = response_format.json_schema
            if given is None or given.schema_ is None:
                raise InputError("response_format json_schema needs json_schema: {schema: {...}}")
            schema = given.schema_
        found.append(Constraint(json_schema=schema))
    if grammar is not None:
        found.append(Constraint(grammar=grammar))
    if regex is not None:
        found.append(Constraint(regex=regex))
    if len(found) > 1:
        raise InputError("give one of response_format, grammar and regex")
    return found[0] if found else None
