"""The routes: what comes in over HTTP becomes jobs, and what the worker makes of them goes out."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from rdlite.api.model import Model
from rdlite.config.exit_rules import rules_for
from rdlite.decode.results import Token
from rdlite.errors import InputError, RdliteError
from rdlite.serve.access.keyring import Keyring
from rdlite.serve.access.request_log import RequestLog
from rdlite.serve.description.openapi import add_description
from rdlite.serve.error_handlers import add_failures, answer_to, describe
from rdlite.serve.items.routes import add_responses
from rdlite.serve.metrics import Counted, Metrics
from rdlite.serve.middleware import Guard
from rdlite.serve.page import add_page
from rdlite.serve.prefix_cache import PrefixCache
from rdlite.serve.preprocess import Preprocessor, UnknownModelError
from rdlite.serve.requests.protocol import ChatRequest, CompletionRequest
from rdlite.serve.requests.route import StrictRoute
from rdlite.serve.requests.tokenization import (
    DetokenizeRequest,
    TokenizeRequest,
    detokenize,
    tokenize,
)
from rdlite.serve.responses import FINISH, Answer, dumps, error, joined
from rdlite.serve.settings import Settings
from rdlite.serve.stream_queue import EventStream, StreamQueue, wait_until_gone
from rdlite.serve.worker import Job, Worker
from rdlite.version import __version__

CLIENT_LEFT = 499  # nobody reads it, but it is counted
Prepare = Callable[..., list[tuple[Job, Answer]]]
Choice = tuple[Job, Answer, StreamQueue]
log = logging.getLogger("rdlite.serve")


def create_app(model: Model, settings: Settings) -> FastAPI:
    """Return the ASGI application that answers for a model; its threads run while it does.

    Raises InputError if the settings ask for a depth or a way of drafting that the model has not.
    """
    model.plan(
        1, settings.depth, settings.sampling, settings.seed, (), speculate=settings.speculate
    )
    metrics, prefixes = Metrics(), PrefixCache(model, settings.prefix_bytes)
    preparer, keyring = Preprocessor(model, settings), Keyring(settings.api_key, settings.api_keys)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker = Worker(
            settings.slots,
            settings.waiting,
            prefixes,
            metrics.finished,
            metrics.waited,
            metrics.called,
        )
        metrics.watch(worker, prefixes)
        app.state.worker = worker
        watching = asyncio.create_task(keyring.watch())
        try:
            yield
        finally:
            watching.cancel()
            await run_in_threadpool(worker.stop)

    middleware = [Middleware(Counted, metrics), Middleware(Guard, settings, keyring)]
    if settings.origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],  # OpenAI's own client sends a dozen of its own
        )
        middleware.insert(1, cors)
    if settings.log != "off":
        middleware.insert(0, Middleware(RequestLog, settings.log == "texts"))
    app = FastAPI(
        title="rdlite",
        version=__version__,
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        middleware=middleware,
    )
    app.router.route_class = StrictRoute
    app.state.lenient = settings.lenient
    app.state.keyring = keyring
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
        worker = app.state.worker
        queues = [StreamQueue() for _ in range(body.n or 1)]
        jobs = await run_in_threadpool(prepare, body, [queue.put for queue in queues])
        choices = [(job, shape, queue) for (job, shape), queue in zip(jobs, queues, strict=True)]
        worker.submit(jobs[0][0])

        def end() -> None:
            for job, _ in jobs:
                worker.cancel(job)
                request.state.call.spend(job.plan.stats)

        if body.stream:
            with_usage = bool(body.stream_options and body.stream_options.include_usage)
            return EventStream(_events(choices, with_usage), end)
        gone = asyncio.create_task(wait_until_gone(request))
        all_tokens = asyncio.create_task(_collect(choices))
        try:
            await asyncio.wait({gone, all_tokens}, return_when=asyncio.FIRST_COMPLETED)
            if not all_tokens.done():
                return Response(status_code=CLIENT_LEFT)
            try:
                texts = all_tokens.result()
            except Exception as problem:
                return answer_to(problem)
            wholes = [
                shape.whole(tokens, job.plan.stats)
                for (job, shape), tokens in zip(jobs, texts, strict=True)
            ]
            return _json(joined(wholes, [job.plan.stats for job, _ in jobs]))
        finally:
            end()
            gone.cancel()
            all_tokens.cancel()

    @app.post("/tokenize")
    async def to_tokens(body: TokenizeRequest) -> Response:
        return _json(await run_in_threadpool(tokenize, model, body))

    @app.post("/detokenize")
    async def to_text(body: DetokenizeRequest) -> Response:
        return _json(await run_in_threadpool(detokenize, model, body))

    @app.post("/v1/embeddings")
    async def embeddings() -> Response:
        raise InputError("this server's model writes text; it makes no embeddings")

    add_responses(app, preparer)
    add_description(app, keyring.required)
    return app


async def _events(choices: Sequence[Choice], with_usage: bool) -> AsyncGenerator[bytes, None]:
    """Yield answers token by token, and what went wrong if something did."""
    try:
        for job, shape, queue in choices:
            opens = True
            async for token in queue.tokens():
                yield _event(shape.chunk([token], None, opens))
                opens = False
            yield _event(shape.chunk([], FINISH.get(job.plan.stats.finish), opens))
        if with_usage:
            yield _event(choices[0][1].usage_chunk([job.plan.stats for job, *_ in choices]))
        yield b"data: [DONE]\n\n"
    except Exception as problem:
        if not isinstance(problem, RdliteError):
            log.exception("an answer failed")
        yield _event(error(describe(problem), "server_error"))


def _json(value: object, status: int = 200) -> Response:
    return Response(dumps(value), status, media_type="application/json")


def _event(value: object) -> bytes:
    return b"data: " + dumps(value) + b"\n\n"


async def _collect(choices: Sequence[Choice]) -> list[list[Token]]:
    return [[token async for token in queue.tokens()] for *_, queue in choices]


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
