"""Completes what FastAPI says of the paths: what they answer, and when they refuse."""

from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from rdlite.serve.description import answers

REF = "#/components/schemas/{model}"
JSON = "application/json"
#: When each status is the answer.
REASONS = {
    400: "A parameter is unknown, unsupported or out of range, or the prompt does not fit.",
    401: "The API key is missing or wrong.",
    403: "The host name or the origin is not allowed.",
    404: "The model is another one, or there is no such response.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    429: "The line is full, or a key is beyond its limits.",
    500: "Something failed.",
    503: "The server is shutting down.",
}
ALWAYS = (401, 403, 413, 500)
BODY = (400, 408, 429)


@dataclass(frozen=True)
class Operation:
    """What an operation answers.

    Attributes:
        summary: what it does.
        answer: the shape of a 200; None: it has none.
        errors: its statuses besides `ALWAYS`, and `BODY` of those that read a body.
        kind: the media type of a 200.
        streams: whether it can be a stream of events.
        others: shapes of other statuses that are no errors.
    """

    summary: str
    answer: type[BaseModel] | None = None
    errors: tuple[int, ...] = ()
    kind: str = JSON
    streams: bool = False
    others: tuple[tuple[int, str, type[BaseModel]], ...] = ()


OPERATIONS = {
    ("post", "/v1/chat/completions"): Operation(
        "Answer a chat", answers.ChatAnswer, (404, 503), streams=True
    ),
    ("post", "/v1/completions"): Operation(
        "Continue a text", answers.TextAnswer, (404, 503), streams=True
    ),
    ("post", "/v1/responses"): Operation(
        "Answer a list of items", answers.ResponseAnswer, (404, 503), streams=True
    ),
    ("get", "/v1/responses/{id}"): Operation(
        "A response that was stored", answers.ResponseAnswer, (404,)
    ),
    ("delete", "/v1/responses/{id}"): Operation("Forget a response", answers.DeletedAnswer, (404,)),
    ("get", "/v1/models"): Operation("Describe the model", answers.ModelList),
    ("get", "/v1/models/{name}"): Operation("Describe the model", answers.ModelAnswer, (404,)),
    ("post", "/v1/embeddings"): Operation("Refuse: the model makes none", None, (400, 429)),
    ("post", "/tokenize"): Operation("A text as token ids", answers.TokensAnswer),
    ("post", "/detokenize"): Operation("Token ids as a text", answers.DetokenizedAnswer),
    ("get", "/health"): Operation(
        "How busy the worker is",
        answers.Health,
        others=((503, "Something is wrong with the worker.", answers.Health),),
    ),
    ("get", "/metrics"): Operation("Metrics for Prometheus", kind="text/plain"),
}


def add_description(app: FastAPI, needs_key: bool) -> None:
    """Let an app's /openapi.json say everything.

    Args:
        app: with all its routes.
        needs_key: whether requests need an API key.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(app, needs_key)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(app: FastAPI, needs_key: bool) -> dict[str, Any]:
    found: dict[str, Any] = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = found["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    models: list[type[BaseModel]] = [answers.ErrorAnswer]
    for operation in OPERATIONS.values():
        models += _shapes(operation)
    _, shapes = models_json_schema([(m, "serialization") for m in models], ref_template=REF)
    schemas.update(shapes["$defs"])
    for path, operations in found["paths"].items():
        for method, written in operations.items():
            said = OPERATIONS[method, path]
            written["summary"] = said.summary
            written["responses"] = _responses(said, "requestBody" in written)
    if needs_key:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
        found["paths"]["/health"]["get"]["security"] = []
    return found


def _shapes(operation: Operation) -> list[type[BaseModel]]:
    own = [] if operation.answer is None else [operation.answer]
    return own + [model for *_, model in operation.others]


def _responses(said: Operation, has_body: bool) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    if said.answer is not None or said.kind != JSON:
        schema = {"type": "string"} if said.answer is None else _reference(said.answer)
        content = {said.kind: {"schema": schema}}
        if said.streams:
            content["text/event-stream"] = {"schema": {"type": "string"}}
        responses["200"] = {"description": said.summary, "content": content}
    for status in sorted({*ALWAYS, *said.errors, *(BODY if has_body else ())}):
        content = {JSON: {"schema": _reference(answers.ErrorAnswer)}}
        responses[str(status)] = {"description": REASONS[status], "content": content}
        if status == 429:
            seconds = {"description": "Seconds to wait", "schema": {"type": "integer"}}
            responses["429"]["headers"] = {"Retry-After": seconds}
    for status, why, model in said.others:
        content = {JSON: {"schema": _reference(model)}}
        responses[str(status)] = {"description": why, "content": content}
    return responses


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF.format(model=model.__name__)}
