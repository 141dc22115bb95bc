"""The routes of /v1/responses."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from rdlite.errors import RdliteError
from rdlite.serve.error_handlers import answer_to, describe
from rdlite.serve.items.composer import Composer
from rdlite.serve.items.store import ResponseStore
from rdlite.serve.preprocess import Preprocessor
from rdlite.serve.requests.functions import ParameterError
from rdlite.serve.requests.items import ResponsesRequest, UnknownResponseError, messages_of
from rdlite.serve.responses import dumps
from rdlite.serve.stream_queue import EventStream, StreamQueue, wait_until_gone

CLIENT_LEFT = 499
Json = dict[str, Any]
log = logging.getLogger("rdlite.serve")


def add_responses(app: FastAPI, preparer: Preprocessor) -> None:
    """Let an app answer requests for responses, and keep those that it gave."""
    store = ResponseStore()

    @app.post("/v1/responses")
    async def respond(body: ResponsesRequest, request: Request) -> Response:
        worker, call, queue = app.state.worker, request.state.call, StreamQueue()
        messages: list[Json] = []
        if body.previous_response_id is not None:
            try:
                messages = store.messages(call.name, body.previous_response_id)
            except UnknownResponseError as problem:
                raise ParameterError(str(problem), "previous_response_id") from None
        messages += messages_of(body.input)
        chat = await run_in_threadpool(body.as_chat, messages)
        ((job, answer),) = await run_in_threadpool(preparer.chat, chat, [queue.put])
        composer = Composer(body, answer, preparer.temperature(chat))
        worker.submit(job)

        def end() -> None:
            worker.cancel(job)
            call.spend(job.plan.stats)

        def done() -> list[Json]:
            events = composer.finish(job.plan.stats)
            if body.store is not False:
                store.put(call.name, events[-1]["response"], [*messages, composer.message()])
            return events

        async def events() -> AsyncGenerator[bytes, None]:
            try:
                for event in composer.begin():
                    yield _sent(event)
                async for token in queue.tokens():
                    for event in composer.push(token):
                        yield _sent(event)
                for event in done():
                    yield _sent(event)
            except Exception as problem:
                if not isinstance(problem, RdliteError):
                    log.exception("an answer failed")
                yield _sent(composer.fail(describe(problem)))

        async def whole() -> Json:
            async for token in queue.tokens():
                composer.push(token)
            response: Json = done()[-1]["response"]
            return response

        if body.stream:
            return EventStream(events(), end)
        gone = asyncio.create_task(wait_until_gone(request))
        answered = asyncio.create_task(whole())
        try:
            await asyncio.wait({gone, answered}, return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                return Response(status_code=CLIENT_LEFT)
            try:
                return _json(answered.result())
            except Exception as problem:
                return answer_to(problem)
        finally:
            end()
            gone.cancel()
            answered.cancel()

    @app.get("/v1/responses/{id}")
    async def stored(id: str, request: Request) -> Response:
        return _json(store.response(request.state.call.name, id))

    @app.delete("/v1/responses/{id}")
    async def forget(id: str, request: Request) -> Response:
        store.remove(request.state.call.name, id)
        return _json({"id": id, "object": "response", "deleted": True})


def _json(value: object) -> Response:
    return Response(dumps(value), media_type="application/json")


def _sent(event: Json) -> bytes:
    return f"event: {event['type']}\n".encode() + b"data: " + dumps(event) + b"\n\n"
