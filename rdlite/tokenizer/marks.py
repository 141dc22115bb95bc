"""Tokens that mark a part of an answer for its reader, like <think> and </think>."""

import re
from collections.abc import Collection

_MARK = re.compile(r"([<\[])(/?)([A-Za-z][A-Za-z_]+)([>\]])")
#: What models call the part that comes before the answer.
THINKING = frozenset(
    """analysis reasoning reflection scratchpad think thinking thought thoughts""".split()
)


def is_mark(text: str, tokens: Collection[str]) -> bool:
    """Whether a token opens or closes a part: it is written like one, and its other half is there.

    Such tokens are shown, special or not: what reads the answer (a stop text, a template that
    leaves thinking out of the history, a client) looks for them.

    Args:
        text: as the token is written.
        tokens: all added tokens, as they are written.
    """
    found = _MARK.fullmatch(text)
    if found is None:
        return False
    left, slash, name, right = found.groups()
    return f"{left}{'' if slash else '/'}{name}{right}" in tokens


def is_thinking_mark(text: str) -> bool:
    """Whether a token is written like one that opens or closes thinking."""
    found = _MARK.fullmatch(text)
    return found is not None and found[3].lower() in THINKING
