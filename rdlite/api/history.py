"""Which turns of a long conversation are left out: models go wrong past their trained length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from rdlite.errors import InputError
from rdlite.utils.checks import check_integer

Message = Mapping[str, Any]
#: How much of a conversation is read: as many tokens as the model was trained on, all, or a number.
History = int | Literal["trained", "all"]


def history_length(history: object, trained: int | None) -> int | None:
    """Return how many tokens a conversation may have; None: as many as fit in the context.

    Raises InputError for what is no `History`.
    """
    if history == "all":
        return None
    if history == "trained":
        return trained
    if not isinstance(history, int):
        raise InputError(f"history must be trained, all or a number of tokens, got {history!r:.40}")
    return check_integer("history", history, 16, 2**22)


def recent(
    messages: Sequence[Message],
    length: int | None,
    max_tokens: int,
    count: Callable[[Sequence[Message]], int],
) -> list[Message]:
    """Leave out the oldest turns of a conversation that is too long.

    Where a turn no longer fits, half of the length is kept, so that the beginning stays the same,
    and in the cache, for some turns. What is left out depends on the messages alone.

    Args:
        messages: system prompts first, then turns that each begin with a user's message.
        length: tokens of conversation and answer together; None: no limit.
        max_tokens: of the answer, of which at most a quarter of the length is kept free.
        count: says how many tokens messages are.

    Returns:
        The messages to be read: the system prompts, and the last turn at least.
    """
    if length is None:
        return list(messages)
    most = length - min(max_tokens, length // 4)
    start = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    if count(messages) <= most:
        return list(messages)
    system, said = list(messages[:start]), messages[start:]
    turns = [i for i, message in enumerate(said) if message["role"] == "user"] or [0]
    ends = [*turns[1:], len(said)]
    first = 0
    for turn, end in enumerate(ends):  # as the conversation went
        if count([*system, *said[turns[first] : end]]) <= most:
            continue
        while first < turn and count([*system, *said[turns[first] : end]]) > length // 2:
            first += 1
    return [*system, *said[turns[first] :]]
