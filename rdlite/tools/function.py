"""A function that a model may call, as a client describes it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rdlite.errors import InputError

Schema = dict[str, Any]
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
#: What a function without parameters is given.
_NOTHING: Schema = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Function:
    """A function: its name, what it is for, and the JSON schema of its arguments, an object."""

    name: str
    description: str | None
    parameters: Schema

    def for_template(self) -> dict[str, Any]:
        """Return it as chat templates know tools."""
        told: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            told["description"] = self.description
        return {"type": "function", "function": told | {"parameters": self.parameters}}


def read_function(given: object, where: str) -> Function:
    """Return a function from {"type": "function", "function": {"name": ...}}.

    Args:
        given: what somebody wrote; what is None in it is as if it were not there.
        where: what it is called in errors.

    Raises:
        InputError: it is not that.
    """
    outer = _mapping(given, where, ("type", "function"))
    if outer.get("type") != "function":
        raise InputError(f"{where} must have the type 'function', got {outer.get('type')!r:.60}")
    known = ("name", "description", "parameters", "strict")
    inner = _mapping(outer.get("function"), f"{where}.function", known)
    name, description = inner.get("name"), inner.get("description")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"{where}.function.name must be 1 to 64 letters, digits, '_', '-' or '.', "
            f"got {name!r:.80}"
        )
    if not isinstance(description, str | None):
        raise InputError(f"{where}.function.description must be text, got {description!r:.60}")
    parameters = inner.get("parameters", _NOTHING)
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise InputError(
            f"{where}.function.parameters must be a JSON schema of the type 'object', "
            f"got {parameters!r:.60}"
        )
    if not isinstance(parameters.get("properties", {}), Mapping):
        raise InputError(f"{where}.function.parameters.properties must be an object")
    return Function(name, description, dict(parameters) or _NOTHING)


def _mapping(given: object, where: str, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise InputError(f"{where} must be an object, got {given!r:.60}")
    unknown = [key for key in given if key not in known]
    if unknown:
        raise InputError(f"{where} has the unknown or unsupported key {unknown[0]!r:.60}")
    return {key: value for key, value in given.items() if value is not None}
