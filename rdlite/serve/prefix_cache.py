"""Texts that were read, kept so that requests which begin like them need not read them again."""

import threading

from rdlite.api.model import Model
from rdlite.decode.plan import CHUNK
from rdlite.decode.prompt_cache import CachedPrompt, How
from rdlite.engine.engine import Engine


class PrefixCache:
    """Kept texts, the least recently used first. Thread-safe; their caches have a cap in bytes."""

    def __init__(self, model: Model, most_bytes: int) -> None:
        """Keep nothing yet; with `most_bytes` 0, never anything."""
        self._model = model
        self._most = most_bytes
        self._kept: list[CachedPrompt] = []
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Memory of the caches that are kept; those in use are not among them."""
        with self._lock:
            return self._bytes()

    @property
    def engine(self) -> Engine:
        """What runs the model."""
        return self._model.pool.check_open()

    def new(self) -> CachedPrompt:
        """Return a text of which nothing was read."""
        return CachedPrompt(self._model.new_sequence())

    def take(self, prompt: list[int], how: How) -> CachedPrompt:
        """Return a text to go on from, the one that has most of a prompt; it is not kept any more.

        Where much of it would be lost to other requests, its beginning is copied.
        """
        with self._lock:
            best = max(self._kept, key=lambda kept: kept.common(prompt, how), default=None)
            common = best.common(prompt, how) if best else 0
            if best is None or common == 0:
                return self.new()
            self._kept.remove(best)
        if len(best.tokens) - common <= CHUNK:
            return best
        try:
            return best.copy(self._model.new_sequence(), common)
        finally:
            self.give(best)

    def give(self, kept: CachedPrompt) -> None:
        """Keep a text, and let go of others where that is too much."""
        with self._lock:
            if kept.tokens:
                self._kept.append(kept)
            while self._kept and self._bytes() > self._most:
                del self._kept[0]

    def _bytes(self) -> int:
        return sum(kept.sequence.cache_bytes for kept in self._kept)
