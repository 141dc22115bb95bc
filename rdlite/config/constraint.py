"""What the text of an answer must look like, as a user says it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rdlite.errors import InputError

#: Longest schema, regular expression or grammar, in characters.
MAX_CHARACTERS = 2**18
KINDS = ("json_schema", "regex", "grammar")
#: Most texts of `after`, and longest of them in characters.
MAX_AFTER, MAX_AFTER_CHARACTERS = 4, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """The shape of an answer. Exactly one of the first three is given.

    Attributes:
        json_schema: the answer is JSON that fits this schema: a mapping (an empty one: any JSON),
            or the schema as text. Kept as text.
        regex: the whole answer matches this regular expression (of Rust's syntax, without
            look-around).
        grammar: the answer is a sentence of this grammar, in llguidance's variant of Lark or in
            llama.cpp's GBNF.
        after: texts that the answer has before the part that this is about, one after the other.
            Up to the end of the last one it is free; `<think>`, if it begins with that, and what
            follows up to `</think>` do not count.
        optional: whether the answer may end before that part begins.

    Raises InputError unless one of the first three is given, of up to 2^18 characters, or if
    `after` is not at most 4 texts of 1 to 256 characters.
    """

    json_schema: Mapping[str, Any] | str | None = None
    regex: str | None = None
    grammar: str | None = None
    after: Sequence[str] = ()
    optional: bool = False

    def __post_init__(self) -> None:
        """Check that there is one, and its size."""
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(
                f"a constraint needs exactly one of {', '.join(KINDS)}, "
                f"got {' and '.join(given) or 'none'}"
            )
        schema = self.json_schema
        if schema is not None and not isinstance(schema, str):
            object.__setattr__(self, "json_schema", _as_json(schema))
        if not isinstance(self.source, str):
            raise InputError(f"{self.kind} must be text, got {self.source!r:.60}")
        if len(self.source) > MAX_CHARACTERS:
            raise InputError(
                f"{self.kind} has {len(self.source)} characters, at most {MAX_CHARACTERS} are taken"
            )

        after = (self.after,) if isinstance(self.after, str) else tuple(self.after)
        if len(after) > MAX_AFTER or not all(
            isinstance(text, str) and 0 < len(text) <= MAX_AFTER_CHARACTERS for text in after
        ):
            raise InputError(
                f"after must be at most {MAX_AFTER} texts of 1 to {MAX_AFTER_CHARACTERS} "
                f"characters, got {self.after!r:.60}"
            )
        object.__setattr__(self, "after", after)

    @property
    def kind(self) -> str:
        """Which of them is given."""
        return next(name for name in KINDS if getattr(self, name) is not None)

    @property
    def source(self) -> str:
        """What is given, as text."""
        source: str = getattr(self, self.kind)
        return source


def constraint_of(value: object) -> Constraint | None:
    """Return the constraint that a user gave: itself, a JSON schema, or a pydantic model's.

    Raises InputError for anything else, or as `Constraint` does.
    """
    if value is None or isinstance(value, Constraint):
        return value
    if isinstance(value, Mapping):
        return Constraint(json_schema=value)
    describe = getattr(value, "model_json_schema", None)
    if isinstance(value, type) and callable(describe):
        return Constraint(json_schema=describe())
    raise InputError(
        "constraint must be rdlite.Constraint(...), a JSON schema as a mapping or a pydantic "
        f"model, got {value!r:.60}"
    )


def _as_json(schema: object) -> str:
    if not isinstance(schema, Mapping):
        raise InputError(f"json_schema must be a mapping or text, got {schema!r:.60}")
    try:
        return json.dumps(dict(schema), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as problem:
        raise InputError(f"json_schema cannot be written as JSON: {problem}"[:300]) from None
