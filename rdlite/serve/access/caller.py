"""What one key's owner does: requests that run, tokens of late, and when it is too much."""

import math
import time
from collections.abc import Callable

from rdlite.decode.results import Stats
from rdlite.errors import RdliteError
from rdlite.serve.access.keys import Key


class LimitError(RdliteError):
    """A key has used up what it may.

    Attributes:
        kind: "requests" or "tokens", as OpenAI's API calls them.
        retry_after: seconds after which it is worth to try again.
    """

    def __init__(self, message: str, kind: str, retry_after: int) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after = retry_after


class Caller:
    """The owner of a key. Used on the event loop alone.

    Tokens are counted when an answer has ended, because nobody knows before how many there will
    be: a key may begin another answer unless it owes tokens, and what it owes it pays off by the
    minute.
    """

    def __init__(self, key: Key, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with a full minute; `clock` tells seconds."""
        self.key = key
        self._clock = clock
        self._running = 0
        self._left = float(key.tokens_per_minute or 0)
        self._at = clock()

    @property
    def name(self) -> str:
        """Of the key."""
        return self.key.name

    def change(self, key: Key) -> None:
        """Take other limits; what runs and what is owed stay."""
        self._refill()
        if self.key.tokens_per_minute is None:
            self._left = float(key.tokens_per_minute or 0)
        self.key = key

    def begin(self) -> None:
        """Begin a request; raises LimitError if that is one too many."""
        most = self.key.requests
        if most is not None and self._running >= most:
            raise LimitError(
                f"the key {self.name!r} has {self._running} requests running, and may have "
                f"{most} at once; try again when one has ended",
                "requests",
                1,
            )
        rate = self.key.tokens_per_minute
        self._refill()
        if rate is not None and self._left <= 0:
            seconds = max(1, math.ceil((1 - self._left) * 60 / rate))
            raise LimitError(
                f"the key {self.name!r} has used its {rate} tokens a minute; try again in "
                f"{seconds} s",
                "tokens",
                seconds,
            )
        self._running += 1

    def end(self, tokens: int) -> None:
        """End a request that was begun, which has read and written so many tokens."""
        self._running -= 1
        self._refill()
        self._left -= tokens

    def _refill(self) -> None:
        rate, now = self.key.tokens_per_minute or 0, self._clock()
        self._left = min(float(rate), self._left + (now - self._at) * rate / 60)
        self._at = now


class Call:
    """One request, and the tokens that it took.

    Attributes:
        name: of the key that it came with; None: the server asks for none.
        read: tokens of prompts, those that were in the cache already included.
        written: tokens of answers.
    """

    def __init__(self, caller: Caller | None = None) -> None:
        self.name = None if caller is None else caller.name
        self.read = self.written = 0

    def spend(self, stats: Stats) -> None:
        """Count what a generation took that has ended."""
        self.read += stats.prompt_tokens
        self.written += stats.new_tokens
