"""What goes wrong, as answers with a status code and a body that OpenAI's clients read."""

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rdlite.errors import ContextError, InputError, RdliteError
from rdlite.serve.preprocess import UnknownModelError
from rdlite.serve.requests.functions import ParameterError
from rdlite.serve.requests.items import UnknownResponseError
from rdlite.serve.responses import dumps, error
from rdlite.serve.worker import BusyError, StoppingError

log = logging.getLogger("rdlite.serve")


def add_failures(app: FastAPI) -> None:
    """Let an app answer with them."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, problem: RequestValidationError) -> Response:
        message, param, code = explain(problem.errors())
        return _answer(400, message, param, code)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, problem: HTTPException) -> Response:
        said = {
            404: f"there is nothing at {request.url.path!r:.80}",
            405: f"{request.method:.20} is not for {request.url.path!r:.80}",
        }
        message = said.get(problem.status_code, str(problem.detail))
        return _answer(problem.status_code, message, headers=dict(problem.headers or {}))

    @app.exception_handler(RdliteError)
    async def failed(request: Request, problem: RdliteError) -> Response:
        return answer_to(problem)

    @app.exception_handler(Exception)
    async def broken(request: Request, problem: Exception) -> Response:
        return answer_to(problem)


def answer_to(problem: Exception) -> Response:
    """Return the answer to what was raised."""
    match problem:
        case UnknownModelError():
            return _answer(404, str(problem), "model", "model_not_found")
        case UnknownResponseError():
            return _answer(404, str(problem), None, "response_not_found")
        case ContextError():
            return _answer(400, str(problem), None, "context_length_exceeded")
        case ParameterError():
            return _answer(400, str(problem), problem.param, "invalid_value")
        case InputError():
            return _answer(400, str(problem))
        case BusyError():
            return _answer(
                429, str(problem), None, "busy", {"retry-after": str(problem.retry_after)}
            )
    return _answer(503 if isinstance(problem, StoppingError) else 500, describe(problem))


def describe(problem: Exception) -> str:
    """Return what a client may know of an error; what nobody foresaw only says so."""
    if isinstance(problem, RdliteError):
        return str(problem)
    return "something went wrong inside the server; its log says what"


def explain(errors: Sequence[Any]) -> tuple[str, str | None, str | None]:
    """Return what is wrong with a body: message, parameter and code, of the first thing found."""
    found = errors[0]
    path = [str(part) for part in found["loc"] if part != "body"]
    param = ".".join(path)[:200] or None
    where = f"{param!r}" if param else "the body"
    match found["type"]:
        case "extra_forbidden":
            return f"{where} is an unknown or unsupported parameter", param, "unknown_parameter"
        case "missing":
            return f"{where} is missing", param, "missing_parameter"
    if isinstance(found.get("input"), bytes):  # it was not taken for JSON
        return "the body must be sent with 'Content-Type: application/json'", None, None
    message = found["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{where}: {message}, got {_shown(found.get('input'))}", param, "invalid_value"


def _shown(value: object) -> str:
    text = (
        repr(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    )
    return text if len(text) <= 60 else text[:60] + "..."


def _answer(
    status: int,
    message: str,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    content = dumps(error(message, kind, param, code))
    return Response(content, status, headers, "application/json")
