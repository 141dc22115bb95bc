"""The model on a thread of its own: opens models, answers questions, reports by signals."""

import dataclasses
import threading
import traceback
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal, Slot

import rdlite

if TYPE_CHECKING:
    from rdlite import Cache, Chat, Depth, Generation, Model, ModelConfig

MOST_CACHE = 2 * 2**30  # bytes that a conversation as long as the context may take


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """What the window needs to know of the open model, which itself stays with the worker.

    Attributes:
        path: what it was opened by.
        name: for people.
        summary: family, parameters, context, in a line.
        depth: how deep it thinks by default.
        most: core steps that are worth offering.
    """

    path: str
    name: str
    summary: str
    depth: "Depth"
    most: int

    @classmethod
    def of(cls, path: str, model: "Model") -> "ModelFacts":
        """Read them off a model that was just opened."""
        manifest, recurrence = model.bundle.manifest, model.config.recurrence
        depth = model.default_depth
        steps = depth.max_steps or recurrence.mean_steps
        kept = "one cache for all steps" if model.cache.share else "a cache for each step"
        length = model.trained_length
        read = f"reads the last {length} tokens" if length else f"context {model.context}"
        parameters = f"{sum(manifest.parameters.values()):,} parameters"
        return cls(
            path=path,
            name=manifest.name,
            summary=f"{manifest.model.family}, {parameters}, {read}, {kept}",
            depth=dataclasses.replace(depth, max_steps=steps),
            most=max(steps, most_steps(model.config)),
        )

    def depth_of(self, steps: int, settle: bool) -> "Depth":
        """Return a depth of at most so many steps, with the model's exit rule or without any."""
        if not settle:
            return rdlite.Depth(steps)
        if self.depth.exit is None:
            return rdlite.Depth(steps, exit="latent-diff")  # which every model has
        return dataclasses.replace(self.depth, max_steps=steps)


def most_steps(config: "ModelConfig") -> int:
    """Return how many core steps are worth offering: the model's bound, or twice its mean."""
    return config.recurrence.max_steps or 2 * config.recurrence.mean_steps


def cache_for(config: "ModelConfig") -> "Cache":
    """Keep what every step left of the past if a full context of that fits, else one for all."""
    exact = rdlite.Cache()
    if exact.bytes_per_token(config, most_steps(config)) * config.context_length <= MOST_CACHE:
        return exact
    return rdlite.Cache(share=1)


class Turn:
    """A question and its answer, shared by two threads: one answers, the other may cancel."""

    def __init__(self, question: str, depth: "Depth") -> None:
        self.question = question
        self.depth = depth
        self.cancelled = False
        self._lock = threading.Lock()
        self._answer: Generation | None = None

    def start(self, chat: "Chat") -> "Generation":
        """Send the question, on the worker's thread; raises RdliteError."""
        chat.depth = self.depth
        answer = chat.send(self.question)
        with self._lock:
            self._answer = answer
            if self.cancelled:
                answer.cancel()
        return answer

    def cancel(self) -> None:
        """End the answer at once, from any thread, also before it has begun."""
        with self._lock:
            self.cancelled = True
            if self._answer is not None:
                self._answer.cancel()


class Worker(QObject):
    """Lives on a QThread: its slots run there one after the other, its signals arrive elsewhere.

    The conversation belongs to this thread alone; what goes out is frozen, or a finished Token.
    `open` and `answer` each end with exactly one of `opened`, `ended` and `failed`.
    """

    opened = Signal(object)  # ModelFacts
    token = Signal(object)  # rdlite.Token
    ended = Signal(object)  # rdlite.Stats
    forgotten = Signal()
    failed = Signal(str)  # one line; the model and the conversation are as they were

    def __init__(self) -> None:
        super().__init__()
        self._chat: Chat | None = None

    @Slot(str)
    def open(self, path: str) -> None:
        """Open a model and start a conversation with it; on failure the old ones stay."""
        try:
            from rdlite.loader import open_bundle

            cache = cache_for(open_bundle(path).config)
            model = rdlite.load(path, cache=cache)
            chat = model.chat()
            facts = ModelFacts.of(path, model)
        except Exception as problem:
            self.failed.emit(_one_line(problem))
            return
        if self._chat is not None:
            self._chat.model.close()
        self._chat = chat
        self.opened.emit(facts)

    @Slot(object)
    def answer(self, turn: Turn) -> None:
        """Answer a question, token by token, until it ends or the turn is cancelled."""
        try:
            if self._chat is None:
                raise rdlite.InputError("no model is open; open one first")
            generation = turn.start(self._chat)
            for token in generation:
                self.token.emit(token)
            stats = generation.stats
        except rdlite.ContextError as problem:
            self.failed.emit(f"{problem}; start a new conversation")
        except Exception as problem:
            self.failed.emit(_one_line(problem))
        else:
            self.ended.emit(stats)

    @Slot()
    def forget(self) -> None:
        """Start over with the same model."""
        if self._chat is not None:
            self._chat.reset()
        self.forgotten.emit()


def _one_line(problem: Exception) -> str:
    """Say what went wrong; what rdlite did not foresee also leaves a traceback on stderr."""
    if isinstance(problem, rdlite.RdliteError):
        return str(problem)
    traceback.print_exception(problem)
    return " ".join(f"{type(problem).__name__}: {problem}".split())
