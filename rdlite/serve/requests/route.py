"""How bodies are read: strict JSON, and with --lenient without what is not known."""

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rdlite.errors import InputError
from rdlite.serve.requests.items import ResponsesRequest
from rdlite.serve.requests.protocol import ChatRequest, CompletionRequest
from rdlite.utils.schema import read_json

#: Where unknown parameters may be dropped, and which are known.
LENIENT = {
    "/v1/chat/completions": frozenset(ChatRequest.model_fields),
    "/v1/completions": frozenset(CompletionRequest.model_fields),
    "/v1/responses": frozenset(ResponsesRequest.model_fields),
}
MAX_SHOWN = 16
log = logging.getLogger("rdlite.serve")


class _StrictRequest(Request):
    ignored: tuple[str, ...] = ()

    async def json(self) -> Any:
        """Parse the body; refuses NaN, keys twice, depth without end and lone surrogates."""
        body = await self.body()
        try:
            value = await run_in_threadpool(read_json, body, "the body", InputError)
        except InputError as problem:
            raise HTTPException(400, str(problem)) from None
        known = LENIENT.get(self.url.path) if self.app.state.lenient else None
        if known is not None and isinstance(value, dict):
            self.ignored = tuple(_shown(key) for key in value if key not in known)[:MAX_SHOWN]
            value = {key: item for key, item in value.items() if key in known}
        return value


def _shown(key: str) -> str:
    """Return a key as a header may have it."""
    return ascii(key)[1:-1][:40]


class StrictRoute(APIRoute):
    """A route whose bodies are read so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request of this route."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            read = _StrictRequest(request.scope, request.receive)
            response = await handle(read)
            if read.ignored:
                names = ", ".join(read.ignored)
                log.warning("ignored what is not supported: %s", names)
                response.headers["X-Rdlite-Ignored"] = names
            return response

        return strict
