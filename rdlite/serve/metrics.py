"""Numbers for Prometheus; they belong to one server, not to the process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rdlite.decode.results import Stats
from rdlite.serve.access.caller import Call
from rdlite.serve.prefix_cache import PrefixCache
from rdlite.serve.worker import Worker

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
SPEEDS = (0.3, 1, 3, 10, 30, 100, 300, 1000)
PATHS = (
    "/",
    "/health",
    "/metrics",
    "/v1/models",
    "/v1/chat/completions",
    "/v1/completions",
    "/tokenize",
    "/detokenize",
    "/v1/embeddings",
)
ROWS = (1, 2, 3, 4, 6, 8, 12, 16)
STEPS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)


class Metrics:
    """Counts what a server does. Thread-safe."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "rdlite_requests", "Requests answered", ["path", "status"], registry=registry
        )
        self.key_requests = Counter(
            "rdlite_key_requests",
            "Requests answered, by the name of the key that they came with",
            ["key", "status"],
            registry=registry,
        )
        self.key_tokens = Counter(
            "rdlite_key_tokens",
            "Tokens, by the name of the key: read (in the cache already or not), new",
            ["key", "kind"],
            registry=registry,
        )
        self._tokens = Counter(
            "rdlite_tokens",
            "Tokens, by what was done with them: read, reused (in the cache already), new",
            ["kind"],
            registry=registry,
        )
        self._steps = Counter(
            "rdlite_core_steps", "Core steps that chose tokens", registry=registry
        )
        self._finished = Counter(
            "rdlite_answers", "Answers, by why they ended", ["reason"], registry=registry
        )
        self._first = Histogram(
            "rdlite_time_to_first_token_seconds",
            "From the start of a generation to its first token",
            buckets=SECONDS,
            registry=registry,
        )
        self._speed = Histogram(
            "rdlite_tokens_per_second",
            "Speed of answers after their first token",
            buckets=SPEEDS,
            registry=registry,
        )
        self._depth = Histogram(
            "rdlite_steps_per_token",
            "Core steps a token, mean of an answer",
            buckets=STEPS,
            registry=registry,
        )

        self._waited = Histogram(
            "rdlite_queue_seconds",
            "How long requests wait for a slot",
            buckets=SECONDS,
            registry=registry,
        )
        self._rows = Histogram(
            "rdlite_rows_per_call",
            "Positions, of whatever answers, that share a call",
            buckets=ROWS,
            registry=registry,
        )

    def watch(self, worker: Worker, prefixes: PrefixCache) -> None:
        """Tell how many slots are busy, how many requests wait, and what is kept."""
        for name, text, value in (
            ("rdlite_slots", "Answers that can be generated at once", lambda: worker.check().slots),
            ("rdlite_slots_busy", "Answers being generated", lambda: worker.check().busy),
            ("rdlite_requests_waiting", "Requests in the line", lambda: worker.check().waiting),
            ("rdlite_prefix_bytes", "Caches kept for later requests", lambda: prefixes.bytes),
        ):
            Gauge(name, text, registry=self._registry).set_function(value)

    def waited(self, seconds: float) -> None:
        """Count a request that has got a slot."""
        self._waited.observe(seconds)

    def called(self, rows: int) -> None:
        """Count a call that took rows."""
        self._rows.observe(rows)

    def finished(self, stats: Stats) -> None:
        """Count a generation that has ended."""
        self._tokens.labels("read").inc(stats.prompt_tokens - stats.reused_tokens)
        self._tokens.labels("reused").inc(stats.reused_tokens)
        self._tokens.labels("new").inc(stats.new_tokens)
        self._steps.inc(stats.core_steps)
        self._finished.labels(stats.finish).inc()
        if stats.new_tokens:
            self._first.observe(stats.time_to_first_token)
            self._depth.observe(stats.mean_steps)
        if stats.tokens_per_second:
            self._speed.observe(stats.tokens_per_second)

    def text(self) -> bytes:
        """Return all numbers in Prometheus's text format."""
        return generate_latest(self._registry)


class Counted:
    """ASGI middleware that counts requests by path and status, and by key what they took."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on, and look at the status of the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in PATHS else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(path, message["status"]).inc()
                if name := _call(scope).name:
                    self._metrics.key_requests.labels(name, message["status"]).inc()
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            call = _call(scope)
            if call.name and call.read:
                self._metrics.key_tokens.labels(call.name, "read").inc(call.read)
                self._metrics.key_tokens.labels(call.name, "new").inc(call.written)


def _call(scope: Scope) -> Call:
    """Return what the guard knows of a request; what it never saw has no name."""
    call: Call = scope.get("state", {}).get("call") or Call()
    return call
