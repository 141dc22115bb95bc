"""The process: a socket, uvicorn on it, and an end in good order."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from rdlite.api.model import Model
from rdlite.errors import InputError
from rdlite.serve.app import create_app
from rdlite.serve.settings import Settings

HEADER_SECONDS = 10.0
SHUTDOWN_SECONDS = 10
LEAVE_SECONDS = 3  # for what is left to say, before connections are cut
MAX_CONNECTIONS = 512


class _Protocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, to clients that send their headers in time."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_headers(True)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_headers(self.cycle is None or self.cycle.response_complete)

    def connection_lost(self, exc: Exception | None) -> None:
        self._await_headers(False)
        super().connection_lost(exc)

    def _await_headers(self, waiting: bool) -> None:
        if waiting and self._late is None:
            self._late = self.loop.call_later(HEADER_SECONDS, self.transport.abort)
        elif not waiting and self._late is not None:
            self._late.cancel()
            self._late = None


def listen(host: str, port: int) -> socket.socket:
    """Take a port, 0 for any that is free; raises InputError if it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only where the protocol is named does asyncio send small packets at once (TCP_NODELAY).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":  # there it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except OSError as problem:
        listener.close()
        raise InputError(
            f"cannot listen at {host} port {port}: {problem.strerror or problem}; give another "
            "--port (0: any that is free)"
        ) from None
    return listener


def serve(
    model: Model, settings: Settings, listener: socket.socket, ready: Callable[[], None]
) -> None:
    """Answer requests until SIGINT or SIGTERM; answers that run may end, for a while.

    Args:
        model: that answers.
        settings: how.
        listener: from `listen`.
        ready: called when requests are answered.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s")
    if settings.log != "off":
        logging.getLogger("rdlite.serve").setLevel(logging.INFO)
    app = create_app(model, settings)
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=2 * SHUTDOWN_SECONDS,
    )
    server = _Server(config, ready, lambda: app.state.worker.hurry())
    if settings.api_keys is not None:
        server.hang_up = app.state.keyring.look
    # uvicorn raises the signal again when it is done; an end that was asked for is none to report.
    previous = {
        number: signal.signal(number, _ignore) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, ready: Callable[[], None], hurry: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._hurry = hurry
        self._hurried = False
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Called on SIGHUP; None: it is left alone.
        self.hang_up: Callable[[], None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal: the second one ends what runs, and only a third one leaves at once."""
        if self.should_exit and self._loop is not None and not self._hurried:
            self._hurried = True
            self._loop.call_soon_threadsafe(self._end)
        else:
            super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        if self.hang_up is not None and sys.platform != "win32":
            self._loop.add_signal_handler(signal.SIGHUP, self.hang_up)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        late = asyncio.get_running_loop().call_later(SHUTDOWN_SECONDS, self._end)
        await super().shutdown(sockets)
        late.cancel()

    def _end(self) -> None:
        self._hurry()
        asyncio.get_running_loop().call_later(LEAVE_SECONDS, self._cut)

    def _cut(self) -> None:
        """Leave clients that do not read what they are sent."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _ignore(*_: Any) -> None:
    pass
