"""The routes: what comes in over HTTP becomes jobs, and what the worker makes of them goes out."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from rdlite.api.model import Model
from rdlite.config.exit_rules import rules_for
from rdlite.decode.results import Token
from rdlite.errors import InputError, RdliteError
from rdlite.serve.error_handlers import add_failures, answer_to, describe
from rdlite.serve.metrics import Counted, Metrics
from rdlite.serve.middleware import Guard
from rdlite.serve.page import add_page
from rdlite.serve.prefix_cache import PrefixCache
from rdlite.serve.preprocess import Preprocessor, UnknownModelError
from rdlite.serve.protocol import ChatRequest, CompletionRequest
from rdlite.serve.responses import FINISH, Answer, dumps, error
from rdlite.serve.settings import Settings
from rdlite.serve.stream_queue import StreamQueue
from rdlite.serve.worker import Job, Worker
from rdlite.utils.schema import read_json
from rdlite.version import __version__

CLIENT_LEFT = 499  # nobody reads it, but it is counted
Prepare = Callable[..., tuple[Job, Answer]]
log = logging.getLogger("rdlite.serve")


class _StrictRequest(Request):
    async def json(self) -> Any:
        """Parse the body; refuses NaN, keys twice, depth without end and lone surrogates."""
        body = await self.body()
        try:
            return await run_in_threadpool(read_json, body, "the body", InputError)
        except InputError as problem:
            raise HTTPException(400, str(problem)) from None


class _StrictRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict


def create_app(model: Model, settings: Settings) -> FastAPI:
    """Return the ASGI application that answers for a model; its threads run while it does.

    Raises InputError if the settings ask for a depth or a way of drafting that the model has not.
    """
    model.plan(
        1, settings.depth, settings.sampling, settings.seed, (), speculate=settings.speculate
    )
    metrics, prefixes = Metrics(), PrefixCache(model, settings.prefix_bytes)
    preparer = Preprocessor(model, settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker = Worker(settings.slots, settings.waiting, prefixes, metrics.finished)
        metrics.watch(worker, prefixes)
        app.state.worker = worker
        try:
            yield
        finally:
            await run_in_threadpool(worker.stop)

    middleware = [Middleware(Counted, metrics), Middleware(Guard, settings)]
    if settings.origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's own client sends a dozen of its own
        )
        middleware.insert(1, cors)
    app = FastAPI(
        title="rdlite",
        version=__version__,
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        middleware=middleware,
    )
    app.router.route_class = _StrictRoute
    add_failures(app)
    add_page(app)

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> Response:
        found = app.state.worker.check()
        status = "ok" if found.problem is None else "failed"
        report = {
            "status": status,
            "problem": found.problem,
            "model": preparer.name,
            "slots": found.slots,
            "busy": found.busy,
            "waiting": found.waiting,
        }
        return _json(report, 200 if found.problem is None else 503)

    @app.get("/metrics")
    async def numbers() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> Response:
        return _json({"object": "list", "data": [_describe(model, settings, preparer)]})

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Response:
        if name != preparer.name:
            raise UnknownModelError(f"this server has the model {preparer.name}, not {name!r:.80}")
        return _json(_describe(model, settings, preparer))

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await answer(body, request, preparer.chat)

    @app.post("/v1/completions")
    async def completion(body: CompletionRequest, request: Request) -> Response:
        return await answer(body, request, preparer.completion)

    async def answer(
        body: ChatRequest | CompletionRequest, request: Request, prepare: Prepare
    ) -> Response:
        worker, delivery = app.state.worker, StreamQueue()
        job, shape = await run_in_threadpool(prepare, body, delivery.put)
        worker.submit(job)
        if body.stream:
            with_usage = bool(body.stream_options and body.stream_options.include_usage)
            return _Stream(_events(job, delivery, shape, with_usage), lambda: worker.cancel(job))
        gone = asyncio.create_task(_wait_until_gone(request))
        all_tokens = asyncio.create_task(_collect(delivery))
        try:
            await asyncio.wait({gone, all_tokens}, return_when=asyncio.FIRST_COMPLETED)
            if not all_tokens.done():
                return Response(status_code=CLIENT_LEFT)
            try:
                tokens = all_tokens.result()
            except Exception as problem:
                return answer_to(problem)
            return _json(shape.whole(tokens, job.plan.stats))
        finally:
            worker.cancel(job)
            gone.cancel()
            all_tokens.cancel()

    return app


class _Stream(StreamingResponse):
    """Server-sent events; however it ends, even before it has begun, `done` is called."""

    def __init__(self, events: AsyncGenerator[bytes, None], done: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._done()


async def _events(
    job: Job, delivery: StreamQueue, shape: Answer, with_usage: bool
) -> AsyncGenerator[bytes, None]:
    """Yield an answer token by token, and what went wrong if something did."""
    opens = True
    try:
        async for token in delivery.tokens():
            yield _event(shape.chunk([token], None, opens))
            opens = False
        stats = job.plan.stats
        yield _event(shape.chunk([], FINISH.get(stats.finish), opens))
        if with_usage:
            yield _event(shape.usage_chunk(stats))
        yield b"data: [DONE]\n\n"
    except Exception as problem:
        if not isinstance(problem, RdliteError):
            log.exception("an answer failed")
        yield _event(error(describe(problem), "server_error"))


def _json(value: object, status: int = 200) -> Response:
    return Response(dumps(value), status, media_type="application/json")


def _event(value: object) -> bytes:
    return b"data: " + dumps(value) + b"\n\n"


async def _collect(delivery: StreamQueue) -> list[Token]:
    return [token async for token in delivery.tokens()]


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _describe(model: Model, settings: Settings, preparer: Preprocessor) -> dict[str, Any]:
    depth, manifest = settings.depth, model.bundle.manifest
    return {
        "id": preparer.name,
        "object": "model",
        "created": 0,
        "owned_by": "rdlite",
        "rdlite": {
            "family": manifest.model.family,
            "parameters": sum(manifest.parameters.values()),
            "context": model.context,
            "chat": _can_chat(model),
            "steps": model.config.steps_or_default(depth.max_steps),
            "max_steps": model.config.recurrence.max_steps,
            "exit": depth.exit,
            "temperature": settings.sampling.temperature,
            "rules": list(rules_for(model.config)),
        },
    }


def _can_chat(model: Model) -> bool:
    try:
        _ = model.tokenizer, model.chat_template
    except InputError:
        return False
    return True
