"""Stands before the app: whose requests are let through, and how much of them is read."""

import asyncio
import re

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rdlite.serve.access.caller import Call, Caller, LimitError
from rdlite.serve.access.keyring import Keyring
from rdlite.serve.page import FILES
from rdlite.serve.responses import dumps, error
from rdlite.serve.settings import Settings

MAX_BODY_BYTES = 8 * 2**20
BODY_SECONDS = 30.0
#: What anybody may see: the page, which holds no secret, and whether the server is well.
OPEN_PATHS = (*FILES, "/health")


class Guard:
    """ASGI middleware that checks Host, Origin and API key, and bounds bodies in size and time.

    What it lets through has a `Call` as its state's `call`.
    """

    def __init__(self, app: ASGIApp, settings: Settings, keyring: Keyring) -> None:
        self._app = app
        self._settings = settings
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with what is wrong with it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        caller = self._keyring.find(_bearer(headers)) if self._keyring.required else None
        call = scope.setdefault("state", {})["call"] = Call(caller)
        refusal = self._refuse(scope, headers, caller)
        limited = caller if scope["method"] == "POST" else None
        if refusal is None and limited is not None:
            refusal = _begin(limited)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        try:
            await self._app(scope, self._bounded(receive), send)
        finally:
            if limited is not None:
                limited.end(call.read + call.written)

    def _refuse(self, scope: Scope, headers: Headers, caller: Caller | None) -> Response | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._settings.knows(_name(hosts[0])):
            return refuse(
                403,
                f"this server is not called {', '.join(hosts)!r:.80}; start it with --allow-host "
                "NAME to call it by that name",
                "host_not_allowed",
            )
        origin = headers.get("origin")
        own = f"{scope['scheme']}://{hosts[0]}"
        if (
            origin is not None
            and origin.lower() != own.lower()
            and origin not in self._settings.origins
        ):
            return refuse(
                403,
                f"pages of {origin!r:.80} may not call this server; start it with --cors-origin to "
                "let them",
                "origin_not_allowed",
            )
        if self._keyring.required and caller is None and scope["path"] not in OPEN_PATHS:
            said = "wrong" if _bearer(headers) else "missing"
            return refuse(
                401,
                f"the API key is {said}: send 'Authorization: Bearer KEY'",
                f"{said}_api_key",
            )
        length = headers.get("content-length")
        if length is not None and length.isdecimal() and int(length) > MAX_BODY_BYTES:
            return refuse(413, _too_large(), "body_too_large")
        return None

    def _bounded(self, receive: Receive) -> Receive:
        read, end = 0, asyncio.get_running_loop().time() + BODY_SECONDS
        whole = False

        async def bounded() -> Message:
            nonlocal read, whole
            if whole:  # whatever comes now is the client leaving
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408,
                    f"the body did not arrive within {BODY_SECONDS:g} s",
                    {"connection": "close"},
                ) from None
            read += len(message.get("body", b""))
            if read > MAX_BODY_BYTES:
                raise HTTPException(413, _too_large(), {"connection": "close"})
            whole = not message.get("more_body", False)
            return message

        return bounded


def refuse(
    status: int,
    message: str,
    code: str | None = None,
    kind: str = "invalid_request_error",
    **more: str,
) -> Response:
    """Return an error as OpenAI's clients read it; `more` are headers. The connection is closed."""
    headers = {"connection": "close"} | {key.replace("_", "-"): text for key, text in more.items()}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(dumps(error(message, kind, code=code)), status, headers, "application/json")


def _begin(caller: Caller) -> Response | None:
    """Begin a request of a caller; returns the answer to one that is too many."""
    try:
        caller.begin()
    except LimitError as problem:
        wait = str(problem.retry_after)
        return refuse(429, str(problem), "rate_limit_exceeded", problem.kind, retry_after=wait)
    return None


def _bearer(headers: Headers) -> str:
    """Return the key that a request has, "" for none."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return given if scheme.lower() == "bearer" else ""


def _too_large() -> str:
    return f"the body is larger than {MAX_BODY_BYTES // 2**20} MiB, which is the most"


def _name(host: str) -> str:
    """Return the name in a Host header, without the port; "" for what is none."""
    found = re.fullmatch(r"\[([0-9a-f:.]+)\](:\d*)?|([^\s:/?#@\[\]\\]+)(:\d*)?", host.lower())
    return "" if found is None else found[1] or found[3]
