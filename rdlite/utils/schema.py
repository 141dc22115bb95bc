"""Decodes JSON into frozen dataclasses: exact keys, exact types, two bounds on every number.

A field's rule stands in its type, `Annotated[int, Bounds(1, 4096)]`; every error names the field's
full path.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from rdlite.errors import RdliteError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Stands in `Annotated[int, Bounds(low, high)]`: the number lies in [low, high], or is None."""

    low: float
    high: float

    def check(self, name: str, value: Any, error: type[RdliteError]) -> None:
        """Raise `error` unless the value holds."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and self.low <= value <= self.high):
            raise error(
                f"{name} must lie between {self.low:g} and {self.high:g}, got {value!r:.40}"
            )


@dataclass(frozen=True, slots=True)
class Choices:
    """Stands in `Annotated[str, Choices(...)]`: the string is one of these."""

    values: tuple[str, ...]

    def check(self, name: str, value: Any, error: type[RdliteError]) -> None:
        """Raise `error` unless the value holds."""
        if value not in self.values:
            raise error(f"{name} must be one of {', '.join(self.values)}; got {value!r:.60}")


@dataclass(frozen=True, slots=True)
class Line:
    """Stands in `Annotated[str, Line()]`: one printable line of at most 200 characters."""

    def check(self, name: str, value: Any, error: type[RdliteError]) -> None:
        """Raise `error` unless the value holds."""
        if not value.isprintable() or len(value) > 200:
            raise error(f"{name} must be a printable line of up to 200 characters")


def check_fields(instance: Any, where: str, error: type[RdliteError]) -> None:
    """Hold every field of a dataclass instance against what its annotation says."""
    for name, hint in typing.get_type_hints(type(instance), include_extras=True).items():
        for rule in getattr(hint, "__metadata__", ()):
            rule.check(where + name, getattr(instance, name), error)


def decode(cls: type[T], data: object, where: str, error: type[RdliteError]) -> T:
    """Build the dataclass `cls` from parsed JSON; refuses missing, unknown and mistyped keys.

    Args:
        cls: a dataclass; its field types may be scalars, None-able, other dataclasses,
            `Mapping[str, X]` or `tuple[X, ...]`.
        data: what `json.loads` returned.
        where: the path of `data` in its file, for messages.
        error: the class of error to raise.
    """
    if not isinstance(data, dict):
        raise error(f"{where} must be an object, got {_kind(data)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise error(f"{where} has an unknown key {key!r:.60}; known are {', '.join(fields)}")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], f"{where}.{name}", error)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise error(f"{where} lacks the key {name!r}")
    instance = cls(**values)
    check_fields(instance, f"{where}.", error)
    return instance


def read_json(text: bytes, where: str, error: type[RdliteError]) -> Any:
    """Parse JSON, refusing bad encodings, duplicate keys, NaN and infinities."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            raise error(f"{where} names a key twice")
        return result

    def constant(name: str) -> None:
        raise error(f"{where} contains {name}, which is not JSON")

    try:
        value = json.loads(text.decode(), object_pairs_hook=pairs, parse_constant=constant)
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # raises for a lone surrogate
    except (ValueError, RecursionError) as problem:
        raise error(f"{where} is not valid JSON: {problem}") from None
    return value


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _convert(hint: Any, value: Any, where: str, error: type[RdliteError]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        if value is None:
            return None
        (hint,) = (argument for argument in arguments if argument is not types.NoneType)
        return _convert(hint, value, where, error)
    if origin is tuple:
        if not isinstance(value, list):
            raise error(f"{where} must be a list, got {_kind(value)}")
        return tuple(_convert(arguments[0], item, f"{where}[]", error) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise error(f"{where} must be an object, got {_kind(value)}")
        return {
            key: _convert(arguments[1], item, f"{where}.{key}", error)
            for key, item in value.items()
        }
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast("type[Any]", hint), value, where, error)
    if hint is float and type(value) is int:
        value = float(value) if abs(value) < 2**53 else math.inf
    if type(value) is not hint:
        raise error(f"{where} must be {hint.__name__}, got {_kind(value)} {value!r:.60}")
    return value
