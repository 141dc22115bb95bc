"""Carries a job's tokens from the thread of its slot to the event loop of its request."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from rdlite.decode.results import Token
from rdlite.serve.worker import Item


class StreamQueue:
    """Made on the event loop, filled from a thread. What waits is bounded by the job's tokens."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Item] = asyncio.Queue()

    def put(self, item: Item) -> None:
        """Hand over a token, None at the end, or an error; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    async def tokens(self) -> AsyncGenerator[Token, None]:
        """Yield the tokens as they come; raises what the job ended with."""
        while (item := await self._items.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
