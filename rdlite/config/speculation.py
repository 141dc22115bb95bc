"""How users ask for self-speculation."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Literal, cast

from rdlite.errors import InputError
from rdlite.utils.checks import check_integer

#: How users ask for it: positions of a round and steps of a draft, or what is quickest, or not.
Speculate = tuple[int, int] | Literal["auto"] | None


def check_speculation(value: object) -> Speculate:
    """Return what was asked for, or raise InputError."""
    if value is None or value == "auto":
        return cast(Speculate, value)
    if not isinstance(value, tuple) or len(value) != 2:
        near = get_close_matches(str(value).lower(), ["auto"])
        raise InputError(
            "speculate must be None, 'auto' or (drafts, steps) like (4, 8), "
            f"got {value!r:.40}{'; did you mean auto?' if near else ''}"
        )
    return (
        check_integer("drafts", value[0], 1, MAX_POSITIONS),
        check_integer("steps of a draft", value[1], 1, 1024),
    )


MAX_POSITIONS = 16
