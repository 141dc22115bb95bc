"""Responses that were given, in memory: those of late, up to so many bytes."""

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rdlite.serve.requests.items import UnknownResponseError

Json = dict[str, Any]
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class _Stored:
    owner: str | None
    response: bytes
    messages: bytes

    @property
    def size(self) -> int:
        return len(self.response) + len(self.messages)


class ResponseStore:
    """Keeps responses; those that were used least lately go first. Used on the event loop alone."""

    def __init__(self, most: int = MAX_BYTES) -> None:
        """Keep up to `most` bytes."""
        self._most = most
        self._kept: OrderedDict[str, _Stored] = OrderedDict()
        self.size = 0

    def put(self, owner: str | None, response: Json, messages: Sequence[Json]) -> None:
        """Keep a response; one that is larger than all room is not kept.

        Args:
            owner: the name of the key that it answers to; None: there are no keys.
            response: with its id.
            messages: of the conversation, with its own.
        """
        stored = _Stored(owner, json.dumps(response).encode(), json.dumps(messages).encode())
        if stored.size > self._most:
            return
        self._kept[response["id"]] = stored
        self.size += stored.size
        while self.size > self._most:
            self.size -= self._kept.popitem(last=False)[1].size

    def response(self, owner: str | None, id: str) -> Json:
        """Return a response; raises UnknownResponseError."""
        found: Json = json.loads(self._find(owner, id).response)
        return found

    def messages(self, owner: str | None, id: str) -> list[Json]:
        """Return the messages up to the end of a response; raises UnknownResponseError."""
        found: list[Json] = json.loads(self._find(owner, id).messages)
        return found

    def remove(self, owner: str | None, id: str) -> None:
        """Forget a response; raises UnknownResponseError."""
        self.size -= self._find(owner, id).size
        del self._kept[id]

    def _find(self, owner: str | None, id: str) -> _Stored:
        found = self._kept.get(id)
        if found is None or found.owner != owner:
            raise UnknownResponseError(id)
        self._kept.move_to_end(id)
        return found
