"""Token ids to text as they come: whole characters only, stop strings held back."""

from collections.abc import Sequence

from rdlite.tokenizer.tokenizer import REPLACEMENT, Tokenizer


class TextStream:
    """Turns ids into text one by one, holding back what is not yet a whole character."""

    WINDOW = 16  # ids that are decoded together before the stream forgets the first ones

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._emitted = 0

    def push(self, token: int) -> str:
        """Return the text that `token` completes; often a word, sometimes nothing."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        # What is still to come may turn replacement characters at the end into others: byte-level
        # decoders show one for the start of a character, byte-fallback ones one for each byte.
        end = len(text.rstrip(REPLACEMENT))
        piece = text[self._emitted : end]
        self._emitted = max(end, self._emitted)
        if end == len(text) and len(self._ids) >= self.WINDOW:
            self._forget(token)
        return piece

    def flush(self) -> str:
        """Return what was held back, when no more ids come."""
        piece = self._tokenizer.decode(self._ids)[self._emitted :]
        self._ids, self._emitted = [], 0
        return piece

    def _forget(self, token: int) -> None:
        """Start anew from the last token, unless it is only a part of a character."""
        alone = self._tokenizer.decode([token])
        if REPLACEMENT not in alone:
            self._ids, self._emitted = [token], len(alone)


class StopScanner:
    """Passes text on until a stop string appears, holding back what may be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, piece: str, may_stop: bool = True) -> str:
        """Return the text that is surely before any stop; sets `stopped` when one is found.

        Unless it `may_stop` yet: then only what may be the start of a stop string is held back.
        """
        if not self._stops:
            return piece
        text = self._held + piece
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found and may_stop:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max(overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, mark: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `mark`."""
    most = min(len(text), len(mark) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(mark[:size])), 0)
