"""Several texts worked on together in one thread, their positions sharing calls by rows.

Each text runs as it does alone, in a greenlet of its own: where it would make a call, it asks, and
waits while the others come to where they ask. What a text computes does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import Generic, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from rdlite.decode.results import Token
from rdlite.engine.engine import Engine
from rdlite.engine.row_queue import RowQueue
from rdlite.engine.sequence import Sequence
from rdlite.ort.row_batch import Piece
from rdlite.ort.text import Ask, Desk

K = TypeVar("K")
#: A token, None at the end, or what went wrong.
Event = Token | None | Exception


class Together(Generic[K]):
    """Texts by keys of any kind. To be used from one thread; cancellations may come from any."""

    def __init__(
        self,
        engine: Engine,
        called: Callable[[int], None] = lambda rows: None,
        prompts_first: bool = False,
        most: int = 1024,
    ) -> None:
        """Work on no text yet.

        Args:
            engine: of the texts.
            called: told the rows of each call that takes rows.
            prompts_first: read prompts before texts go on, which is the least work in all; without
                it no text waits for more than one chunk of another's prompt.
            most: texts that there will be at once.
        """
        self._called = called
        self._most = most
        self._rows = engine.rows
        self.bursts = engine.bursts
        width, level = (engine.rows.width, engine.rows.level) if engine.rows else (1, False)
        self._queue = RowQueue(width, prompts_first, level)
        self._texts: dict[Desk, greenlet] = {}
        self._desks: dict[Ask, Desk] = {}
        self._events: list[tuple[K, Event]] = []
        self._hub: greenlet | None = None

    def __len__(self) -> int:
        """How many texts are worked on."""
        return len(self._texts)

    @property
    def alone(self) -> bool:
        """Whether there is one text only."""
        return len(self._texts) == 1

    def add(self, key: K, sequence: Sequence, tokens: Generator[Token]) -> None:
        """Take a text; `tokens` reads and writes `sequence` and nothing else."""
        desk = sequence.desk

        def run() -> None:
            desk.company = self
            try:
                if self._rows is not None and self._most > 1:
                    self._rows.join(sequence)
                with closing(tokens):
                    for token in tokens:
                        self._events.append((key, token))
                        if self.alone:
                            self.wait(desk)
                self._events.append((key, None))
            except Exception as problem:
                self._events.append((key, problem))
            finally:
                desk.company = None
                del self._texts[desk]
                if self._rows is not None:
                    self._rows.leave(sequence)

        self._texts[desk] = greenlet(run)
        self._queue.wait(desk)

    def turn(self) -> list[tuple[K, Event]]:
        """Make one call and let those go on that waited for it; returns what came of it."""
        self._hub = getcurrent()
        taken = self._queue.take()
        if isinstance(taken, Desk):
            self._texts[taken].switch()
        elif taken is not None:
            self._call(taken)
            for ask in [ask for ask, _, high in taken if high == ask.size]:
                if ask.done or ask.problem is not None:
                    self._texts[self._desks.pop(ask)].switch()
                else:
                    self._queue.ask(ask)
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """End every text where it is."""
        self._hub = getcurrent()
        for text in list(self._texts.values()):
            text.throw(GreenletExit)
        self._texts.clear()

    def wait(self, desk: Desk) -> None:
        """Return when it is this text's turn to make a call."""
        self._queue.wait(desk)
        self._switch(desk)

    def by_rows(self, desk: Desk, ask: Ask) -> None:
        """Return when calls that took rows of other texts too have done what is asked."""
        self._desks[ask] = desk
        self._queue.ask(ask)
        self._switch(desk, ask)
        if ask.problem is not None:
            raise ask.problem

    def _switch(self, desk: Desk, ask: Ask | None = None) -> None:
        assert self._hub is not None
        try:
            self._hub.switch()
        except GreenletExit:
            self._queue.remove(desk, ask)
            raise

    def _call(self, pieces: list[Piece]) -> None:
        assert self._rows is not None
        rows = sum(high - low for _, low, high in pieces)
        try:
            for _ in range(self._rows.run_pieces(pieces, self.bursts)):
                self._called(rows)
        except Exception as problem:
            if len(pieces) == 1:
                pieces[0][0].problem = problem
                return
            for piece in pieces:  # the fault of one must not be that of all
                if piece[0].done:
                    continue
                try:
                    self._rows.run_pieces([piece])
                except Exception as own:
                    piece[0].problem = own
