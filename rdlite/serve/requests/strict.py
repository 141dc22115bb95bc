"""The ground that bodies of requests are checked on: exact keys and types, null as left out."""

import json
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema

MAX_KEYS = 256
#: Of the JSON of a value that has no effect.
MAX_HARMLESS_CHARACTERS = 64 * 1024
#: Of a text that only says who asks, or what for.
MAX_LABEL = 1024

#: A text that changes nothing about the answer: whose request it is, what clients keep.
Label = Annotated[str, Field(max_length=MAX_LABEL)]


class Strict(BaseModel):
    """Known keys of exact types; a null is as if the key were not there, whatever the key."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Say of unknown keys that they may be null."""
        schema = handler(core)
        own = handler.resolve_ref_schema(schema)
        if own.get("additionalProperties") is False:
            own["additionalProperties"] = {"type": "null"}
        return schema

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        given = {key: item for key, item in value.items() if item is not None}
        # Every unknown key is an error of its own, and a body has room for half a million.
        if cls.model_config["extra"] == "forbid" and len(given) > len(cls.model_fields):
            unknown = next(key for key in given if key not in cls.model_fields)
            raise ValueError(f"has an unknown or unsupported parameter {unknown!r:.80}")
        if len(given) > MAX_KEYS:
            raise ValueError(f"has {len(given)} keys, at most {MAX_KEYS} are read")
        return given


def only(*neutral: object) -> BeforeValidator:
    """Accept a parameter that is not supported, with what it is without effect."""

    def check(value: object) -> object:
        if any(value == v and type(value) is not bool for v in neutral):
            return None
        if any(value is v for v in neutral):
            return None
        shown = " or ".join(repr(v) for v in neutral)
        raise ValueError(f"is not supported: leave it out, or give {shown or 'null'}")

    schema = WithJsonSchema({"enum": [None, *neutral]})
    return BeforeValidator(check, json_schema_input_type=Annotated[Any, schema])


def _small(value: Any) -> Any:
    size = len(json.dumps(value))
    if size > MAX_HARMLESS_CHARACTERS:
        raise ValueError(
            f"has {size} characters as JSON, at most {MAX_HARMLESS_CHARACTERS} are let pass"
        )
    return value


#: Any JSON, bounded.
Harmless = Annotated[Any, AfterValidator(_small)]
