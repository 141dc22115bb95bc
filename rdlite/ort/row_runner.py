"""A runner whose positions are rows, each with the bits that it has alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from rdlite.errors import Interrupted
from rdlite.ort.row_batch import BoundSlot, Piece
from rdlite.ort.runner import Runner
from rdlite.ort.session import Array, Interrupt, Run, Session
from rdlite.ort.text import Ask, Desk, Floats, Settled, Text


class Rows(Protocol):
    """What takes positions of several texts in one call.

    Attributes:
        width: the most rows of one call.
        pairs: whether a position alone has other bits than a row beside others.
        level: whether rows of a call must be at one depth.
        staggers: whether it pays that positions of a text take their steps at several depths.
    """

    width: int
    pairs: bool
    level: bool
    staggers: bool

    def join(self, text: Any) -> None:
        """Take a text in that is between two calls."""

    def leave(self, text: Any) -> None:
        """Let it go."""

    def run(self, ask: Ask) -> None:
        """Take the step that one text asks for."""

    def run_pieces(self, pieces: Sequence[Piece], burst: bool = False) -> int:
        """Take a step with what texts ask for, all of one part of the model.

        Args:
            pieces: rows of texts, `width` at most.
            burst: take others until one of these texts has taken its last.

        Returns:
            How many calls it took.
        """


class Asking(Runner):
    """A runner that asks for its calls, so that rows of other texts may share them."""

    _rows: Rows
    #: A position has the bits of a row without rows too.
    _plain: bool
    #: And no other text is there to share a call with.
    _alone: bool

    @property
    def position(self) -> int:
        """Of the first row."""
        return self._start

    def place(self, position: int) -> None:
        """Serve the positions from `position` on, by rows or not until the next are placed."""
        super().place(position)
        company = self._desk.company
        self._alone = self._plain and (company is None or company.alone)

    def _call(self, run: Run) -> None:
        if self._alone:
            run()  # its company has a turn after each token
        else:
            super()._call(run)

    def take_steps(self, first: int, end: int, settled: Settled | None = None) -> int:
        """Take core steps from number `first` to `end`, or until they have settled."""
        company = self._desk.company
        if self._alone or company is None or not company.bursts or self.size > 1:
            return self._take(self.step, first, end, settled)
        ask = Ask(self, "core", first, end, settled)
        ask_rows(ask, self._rows, self._desk, self._interrupt)
        return ask.number

    def prelude(self) -> None:
        """Embed the token ids."""
        if self._alone:
            super().prelude()
        else:
            self._ask("prelude", 0)

    def step(self, number: int) -> None:
        """Take core step `number`, counted from 0."""
        if self._alone:
            super().step(number)
        else:
            self._core.backfill(number, self._start, self._end)
            self._ask("core", number)

    def _ask(self, part: str, number: int) -> None:
        ask_rows(Ask(self, part, number), self._rows, self._desk, self._interrupt)


def ask_rows(ask: Ask, rows: Rows, desk: Desk, interrupt: Interrupt) -> None:
    """Do what a text asks, in calls that other texts may share; raises Interrupted."""
    if interrupt.is_set:
        raise Interrupted
    if desk.company is None:
        rows.run(ask)
    else:
        desk.company.by_rows(desk, ask)
    if interrupt.is_set:
        raise Interrupted


class RowRunner(Asking):
    """Like a Runner; rows of other texts may share its calls. One that is alone needs no rows."""

    def __init__(self, text: Text, size: int, rows: Rows) -> None:
        self._rows = rows
        super().__init__(text, size)
        self._row_logits: Floats = np.zeros((0, 0), np.float32)
        self._bound: dict[tuple[str, int], BoundSlot] = {}
        self._plain = size == 1 and not rows.pairs
        self._alone = False

    @property
    def needs_no_rows(self) -> bool:
        """Whether `run_alone` gives the bits of rows."""
        return self._plain

    def run_alone(self, ask: Ask) -> int:
        """Do all that is asked in calls of its own; returns how many those were."""
        first = ask.number
        if ask.part == "core":
            while not ask.done:
                if self.takes_block(ask.number, ask.end, ask.settled):
                    ask.number, ask.done = self._block(ask.number, ask.settled)
                    ask.done = ask.done or ask.number >= ask.end
                else:
                    self._step(ask.number)
                    ask.advance()
            return ask.number - first
        if ask.part == "prelude":
            (self._prelude or self._bind_prelude())()
        else:
            run, read = self._coda(first % 2, 1)
            run()
            self._row_logits[:] = read()
        ask.advance()
        return 1

    def logits(self, steps: int, positions: int = 1) -> Floats:
        """Decode the state after `steps` steps: float32 [P, V] of the last P positions."""
        if self._alone:
            return super().logits(steps, positions)
        if self._decoded != (steps, self.size):
            text = self._text()
            assert text is not None  # it holds its runners
            self._row_logits = text.logit_rows(self.size)[0]
            self._ask("coda", steps)
            self._decoded = (steps, self.size)
        return self._row_logits[self.size - positions :]

    def seat(self, ask: Ask, session: Session, row: int, step: int) -> tuple[BoundSlot, int]:
        """Return the cache that a row works on at one of a call's steps, and its position."""
        core, number = ask.part == "core", ask.number + step
        if core and row == 0:
            self._core.backfill(number, self._start, self._end)
        key = ask.part, number if core else 0
        bound = self._bound.get(key)
        if bound is None:
            if ask.part == "core":
                slot = self._core.slots[self._core.index(number)]
            else:
                slot = self._prelude_slot if ask.part == "prelude" else self._coda_slot
            bound = self._bound[key] = BoundSlot(session, slot)
        return bound, self._start + row

    def take_back(self, first: int, end: int) -> None:
        """Forget the last steps of a block, which were one too many."""
        self._core.take_back(first, end, self._start)

    def load(self, ask: Ask, low: int, high: int, arrays: Mapping[str, Array], at: int) -> None:
        """Write what rows from `low` to `high` give a call, from row `at` of its arrays on."""
        end = at + high - low
        if ask.part == "core":
            arrays["state"][at:end] = self._states[ask.number % 2][0, low:high]
            arrays["embeds"][at:end] = self._embeds[0, low:high]
        elif ask.part == "coda":
            arrays["state"][at:end] = self._states[ask.number % 2][0, low:high]
        else:
            arrays["input_ids"][at:end] = self._input_ids[0, low:high]

    def store(self, ask: Ask, low: int, high: int, arrays: Mapping[str, Array], at: int) -> None:
        """Take what came of them."""
        end = at + high - low
        if ask.part == "core":
            self._states[(ask.number + 1) % 2][0, low:high] = arrays["next_state"][at:end]
            self._change[0, low:high] = arrays["change"][at:end]
            if self._gate is not None:
                self._gate[0, low:high] = arrays["exit_probability"][at:end]
        elif ask.part == "coda":
            self._row_logits[low:high] = arrays["logits"][at:end]
        else:
            self._embeds[0, low:high] = arrays["embeds"][at:end]
