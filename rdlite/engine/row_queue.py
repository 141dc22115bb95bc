"""What is called next: a queue of texts that wait for rows, or for a call of their own.

Pure; knows no session. Where somebody waits for every text, calls by rows and calls of single texts
(chunks of prompts) take turns, so a row waits for one chunk at most, and a chunk for one call by
rows and the chunks before it. Where what counts is all of them, chunks come first: then more rows
share a call.
"""

from collections import deque
from collections.abc import Mapping

from rdlite.ort.row_batch import Piece
from rdlite.ort.text import Ask, Desk

#: Calls of other parts that may go before one that waits to be fuller. Tokens begin together right
#: after those before them were decoded together: waiting would bring no others.
PATIENCE = {"coda": 3, "prelude": 0, "core": 3}


class RowQueue:
    """Asks by part, and desks that wait for a turn of their own. Not thread-safe."""

    def __init__(self, width: int, chunks_first: bool = False, level: bool = False) -> None:
        """Have nothing to do.

        Args:
            width: rows of a call at most.
            chunks_first: rows wait until they fill a call, or nothing else is to be done.
            level: rows of a call must be at one depth. Then tokens begin together, and those that
                are done wait for the others.
        """
        self._width = width
        self._level = level
        self._chunks_first = chunks_first
        self._asks: dict[str, deque[Ask]] = {"coda": deque(), "prelude": deque(), "core": deque()}
        self._passed = dict.fromkeys(self._asks, 0)
        self._turns: deque[Desk] = deque()
        self._rows_next = False

    def ask(self, ask: Ask) -> None:
        """Add rows of a text, which want to take a step."""
        ask.taken = 0
        self._asks[ask.part].append(ask)

    def wait(self, desk: Desk) -> None:
        """Add a text that wants to make a call of its own."""
        self._turns.append(desk)

    def remove(self, desk: Desk, ask: Ask | None) -> None:
        """Forget what a text waits for."""
        if desk in self._turns:
            self._turns.remove(desk)
        if ask is not None and ask in self._asks[ask.part]:
            self._asks[ask.part].remove(ask)

    def take(self) -> Desk | list[Piece] | None:
        """Return whose turn it is, or the rows of the next call, all of one part; None: nothing."""
        waiting = {part: sum(a.size - a.taken for a in asks) for part, asks in self._asks.items()}
        rows = sum(waiting.values())
        rows_next = rows >= self._width if self._chunks_first else rows and self._rows_next
        if self._turns and not rows_next:
            self._rows_next = True
            return self._turns.popleft()
        self._rows_next = False
        return self._pieces(self._choose(waiting)) if rows else None

    def _choose(self, waiting: Mapping[str, int]) -> str:
        """Choose a part: what ends a token or begins one, unless most rows are elsewhere."""
        if self._level:
            return next(part for part in ("core", "coda", "prelude") if waiting[part])
        rows, chosen = sum(waiting.values()), ""
        for part in ("coda", "prelude", "core"):
            if not waiting[part]:
                continue
            full = 2 * waiting[part] >= min(rows, self._width)
            if not chosen and (full or self._passed[part] >= PATIENCE[part]):
                chosen = part
        chosen = chosen or max(waiting, key=lambda part: waiting[part])
        for part, count in waiting.items():
            self._passed[part] = 0 if part == chosen or not count else self._passed[part] + 1
        return chosen

    def _pieces(self, part: str) -> list[Piece]:
        asks, room, pieces = self._asks[part], self._width, list[Piece]()
        if self._level:
            number = min(ask.number for ask in asks) if part == "core" else None
            level = [ask for ask in asks if number is None or ask.number == number]
            for ask in level[:room]:
                asks.remove(ask)
                ask.taken = ask.size
                pieces.append((ask, 0, ask.size))
            return pieces
        while asks and room:
            ask = asks[0]
            low = ask.taken
            ask.taken = min(ask.size, low + room)
            pieces.append((ask, low, ask.taken))
            room -= ask.taken - low
            if ask.taken == ask.size:
                asks.popleft()
        return pieces
