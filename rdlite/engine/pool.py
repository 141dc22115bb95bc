"""The sequences of one model: new ones, and an idle one whose buffers serve again."""

import contextlib
import threading
from collections.abc import Iterator

from rdlite.engine.engine import Engine
from rdlite.engine.sequence import Sequence
from rdlite.errors import InputError

KEPT_CACHE_BYTES = 64 * 2**20


class SequencePool:
    """Gives sequences to generations and chats until it is closed. Thread-safe."""

    def __init__(self, engine: Engine, context: int) -> None:
        self._engine: Engine | None = engine
        self._context = context
        self._idle: list[Sequence] = []
        self._lock = threading.Lock()

    def check_open(self) -> Engine:
        """Return the engine; raises InputError when the pool is closed."""
        engine = self._engine
        if engine is None:
            raise InputError("this model is closed; load it again")
        return engine

    def new(self) -> Sequence:
        """Make the caches and buffers of one text; raises InputError when the pool is closed."""
        return Sequence(self.check_open(), self._context)

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[Sequence]:
        """Give an empty sequence; a small one is kept afterwards, its buffers to serve again."""
        with self._lock:
            sequence = self._idle.pop() if self._idle else None
        sequence = sequence or self.new()
        try:
            yield sequence
        except GeneratorExit:  # ended early, but in good order
            self._keep(sequence)
            raise
        self._keep(sequence)

    def _keep(self, sequence: Sequence) -> None:
        sequence.truncate(0)
        with self._lock:
            if self._engine and not self._idle and sequence.cache_bytes <= KEPT_CACHE_BYTES:
                self._idle.append(sequence)

    def close(self) -> None:
        """Give no more sequences. May be called twice."""
        with self._lock:
            self._engine = None
            self._idle.clear()
