"""Tells calls of functions from what else an answer says, as it comes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from rdlite.tokenizer.stream import overlap
from rdlite.tools.syntax import ToolSyntax
from rdlite.tools.values import Value


@dataclass(frozen=True, slots=True)
class Said:
    """Some text of an answer, outside of calls."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegins:
    """A call of a function begins; `index` counts the calls of the answer, from 0 on."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsPart:
    """The next characters of the JSON of a call's arguments."""

    index: int
    text: str


Part = Said | CallBegins | ArgumentsPart


class CallSplitter:
    """Splits one answer, whatever pieces it is cut into.

    White space before a call belongs to it. What may turn out to begin one is held back.
    """

    def __init__(self, syntax: ToolSyntax, values: Mapping[str, Mapping[str, Value]]) -> None:
        """Begin an answer; `values` by function and argument, where arguments are not JSON."""
        self._syntax = syntax
        self._values = values
        self._held = ""
        self._read = self._outside
        self._calls = 0
        self._name = ""  # of the function that is called
        self._value: Value | None = None
        self._count = 0  # of arguments
        self._json = _JsonEnd()

    def push(self, text: str) -> list[Part]:
        """Take some text; returns what is clear of it."""
        self._held += text
        parts: list[Part] = []
        while self._read(parts):
            pass
        return parts

    def finish(self) -> list[Part]:
        """Return what was held back; the answer has ended."""
        held, self._held = self._held, ""
        outside = self._read == self._outside and held and (held.strip() or not self._calls)
        return [Said(held)] if outside else []

    # Each of these takes what it can of what is held, and says whether more can be taken.

    def _outside(self, parts: list[Part]) -> bool:
        before, found, after = self._held.partition(self._syntax.head)
        clear = before.rstrip()
        if not found:
            begun = len(before) - overlap(before, self._syntax.head)
            clear = before[:begun].rstrip()
        if clear:
            parts.append(Said(clear))
        self._held = after if found else self._held[len(clear) :]
        if found:
            self._read = self._in_name
        return bool(found)

    def _in_name(self, parts: list[Part]) -> bool:
        name, found, after = self._held.partition(self._syntax.middle)
        if not found:
            return False
        self._held, self._name, self._count = after, name, 0
        parts.append(CallBegins(self._calls, name))
        self._json = _JsonEnd()
        self._read = self._between_arguments if self._syntax.key else self._in_json
        return True

    def _in_json(self, parts: list[Part]) -> bool:
        size = self._json.find(self._held)
        self._arguments(parts, self._held[:size])
        self._held = self._held[size:]
        if self._json.ended:
            self._read = self._in_tail
        return self._json.ended

    def _in_tail(self, parts: list[Part]) -> bool:
        if not self._held.startswith(self._syntax.tail):
            return False
        self._held = self._held.removeprefix(self._syntax.tail)
        self._calls += 1
        self._read = self._outside
        return True

    def _between_arguments(self, parts: list[Part]) -> bool:
        syntax = self._syntax
        if self._held.startswith(syntax.tail):
            self._arguments(parts, "}" if self._count else "{}")
            return self._in_tail(parts)
        name, found, after = self._held.removeprefix(syntax.key).partition(syntax.equals)
        if not found or not self._held.startswith(syntax.key):
            return False
        self._held, self._value = after, self._values[self._name][name]
        opens = ", " if self._count else "{"
        quote = '"' if self._value.text else ""
        self._arguments(parts, f"{opens}{json.dumps(name, ensure_ascii=False)}: {quote}")
        self._count += 1
        self._read = self._in_value
        return True

    def _in_value(self, parts: list[Part]) -> bool:
        assert self._value is not None
        ends = self._syntax.end.rstrip()
        value, found, _ = self._held.partition(ends)
        if not self._value.text:
            if found:
                self._arguments(parts, self._value.as_json(value))
        else:
            if not found:
                value = value[: len(value) - overlap(value, ends)]
            self._arguments(parts, json.dumps(value, ensure_ascii=False)[1:-1])
            self._held = self._held[len(value) :]
            if found:
                self._arguments(parts, '"')
        if found:
            self._held = self._held[0 if self._value.text else len(value) :]
            self._read = self._after_value
        return bool(found)

    def _after_value(self, parts: list[Part]) -> bool:
        if not self._held.startswith(self._syntax.end):
            return False
        self._held = self._held.removeprefix(self._syntax.end)
        self._read = self._between_arguments
        return True

    def _arguments(self, parts: list[Part], text: str) -> None:
        if text:
            parts.append(ArgumentsPart(self._calls, text))


class _JsonEnd:
    """Finds where a JSON object ends that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = self._escaped = False
        self.ended = False

    def find(self, text: str) -> int:
        """Return how many characters of some more text belong to it."""
        for at, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped = character == "\\"
                self._quoted = character != '"'
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if not self._depth:
                    self.ended = True
                    return at + 1
        return len(text)
