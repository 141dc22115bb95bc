"""A line in the log for each request: who asked what, and what it took; texts only if wanted."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rdlite.serve.access.caller import Call

#: Of each body, how much of it is written down.
MAX_TEXT = 8192
log = logging.getLogger("rdlite.serve")


class RequestLog:
    """ASGI middleware that writes what was asked, and how it ended, to the log.

    Stands before what reads keys, so that what is refused is written down too. No key is.
    """

    def __init__(self, app: ASGIApp, texts: bool) -> None:
        """Write down bodies of requests and answers as well, if `texts`."""
        self._app = app
        self._texts = texts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on, and write down what it was when it has ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, asked, answered = 0, bytearray(), bytearray()
        start = time.monotonic()

        async def received() -> Message:
            message = await receive()
            if self._texts and len(asked) < MAX_TEXT:
                asked.extend(message.get("body", b""))
            return message

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif self._texts and len(answered) < MAX_TEXT:
                answered.extend(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, received, sent)
        finally:
            call = scope.get("state", {}).get("call") or Call()
            log.info(
                "%s %s %.100s %s %.3f s, %d tokens read, %d written",
                call.name or "-",
                scope["method"],
                ascii(scope["path"])[1:-1],
                status or "left",
                time.monotonic() - start,
                call.read,
                call.written,
            )
            if self._texts and scope["method"] == "POST":
                log.info("asked: %s", _shown(asked))
                log.info("answered: %s", _shown(answered))


def _shown(body: bytearray) -> str:
    """Return a body's beginning in one line of ASCII."""
    more = "..." if len(body) > MAX_TEXT else ""
    return ascii(bytes(body[:MAX_TEXT]).decode(errors="replace")) + more
