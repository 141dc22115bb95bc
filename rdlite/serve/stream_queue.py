"""Carries a job's tokens from the thread of its slot to the event loop of its request."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

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


class EventStream(StreamingResponse):
    """Server-sent events; however it ends, even before it has begun, `done` is called."""

    def __init__(self, events: AsyncGenerator[bytes, None], done: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._done()


async def wait_until_gone(request: Request) -> None:
    """Return when the client of a request that was read has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
