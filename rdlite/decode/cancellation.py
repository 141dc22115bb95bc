"""Ends a generation from another thread, even within a core step."""

import contextlib
import threading
from collections.abc import Iterator

from rdlite.ort.session import Interrupt


class Cancellation:
    """Of one generation, which may not have begun yet, or have ended. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False
        self._interrupt: Interrupt | None = None

    def ask(self) -> None:
        """End the generation now: what runs is cut off, and nothing more will. May be repeated."""
        with self._lock:
            self._asked = True
            if self._interrupt is not None:
                self._interrupt.set()

    @contextlib.contextmanager
    def of(self, interrupt: Interrupt) -> Iterator[None]:
        """Use the interrupt of the text that is worked on in the meantime, and leave it clear."""
        with self._lock:
            self._interrupt = interrupt
            if self._asked:
                interrupt.set()
        try:
            yield
        finally:
            with self._lock:
                self._interrupt = None
                interrupt.clear()
