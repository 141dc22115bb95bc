"""Positions of one text, each at a depth of its own, that take their steps in the same calls."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rdlite.ort.row_batch import BoundSlot
from rdlite.ort.row_runner import Rows, ask_rows
from rdlite.ort.session import Array, Session
from rdlite.ort.text import Ask, Floats, Settled, Text


class Seat:
    """A position: its token, its states and how deep it is. What an exit rule looks at.

    Attributes:
        number: which of the runner's it is.
        position: where the token stands in the text.
        token: what stands there.
        steps: core steps that it took.
    """

    size = 1

    def __init__(self, number: int, width: int, has_gate: bool) -> None:
        """Make room for states of this width."""
        states = np.zeros((2, width), np.float32)
        self.number = number
        self.position = self.token = self.steps = 0
        self.rows, self.embeds = states, np.zeros(width, np.float32)
        self.states: Sequence[Floats] = (states[0][None, None], states[1][None, None])
        self.change = np.zeros((1, 1), np.float32)
        self.exit_probability = np.zeros((1, 1), np.float32) if has_gate else None

    def begin(self, position: int, token: int) -> None:
        """Be another position, that has taken no step."""
        self.position, self.token, self.steps = position, token, 0

    def put_state(self, steps: int, rows: Floats) -> None:
        """Write the state after so many steps: float32 [1, E]."""
        self.rows[steps % 2] = rows[0]

    def fill_state(self, fill: Callable[[Floats], object]) -> None:
        """Let `fill` write the initial state: float32 [1, E]."""
        fill(self.rows[:1])

    def start_at_embeds(self) -> None:
        """Start at the prelude's output."""
        self.rows[0] = self.embeds

    def logits(self, steps: int) -> Floats:
        """Nobody asks: rules that decode are not for positions at several depths."""
        raise NotImplementedError


class StaggeredRunner:
    """Seats for neighbouring positions, and calls on any of them, in the order of the text."""

    #: It has no calls but those by rows, of one step.
    needs_no_rows = False

    def takes_block(self, number: int, end: int, settled: Settled | None) -> bool:
        """Whether several steps may be taken in one call."""
        return False

    def __init__(self, text: Text, seats: int, rows: Rows) -> None:
        config = text.config
        self._text = weakref.ref(text)
        self._interrupt, self._desk, self._rows = text.interrupt, text.desk, rows
        has_gate = config.recurrence.exit_threshold is not None
        self.seats = [Seat(number, config.hidden_size, has_gate) for number in range(seats)]
        self._logits: Floats = np.zeros((0, config.vocab_size), np.float32)
        #: Whom a call is about, and how many they are.
        self._asked: Sequence[Seat] = ()
        self.size = 0
        self._bound: dict[tuple[str, int], BoundSlot] = {}

    def rebind(self) -> None:
        """Forget where caches lay."""
        self._bound.clear()

    def prelude(self, seat: Seat) -> None:
        """Embed the token of a seat."""
        self._ask("prelude", (seat,))

    def step(self, seats: Sequence[Seat]) -> None:
        """Let each of these seats take its next step."""
        cache = self._held().steps_cache
        for seat in seats:
            cache.backfill(seat.steps, seat.position, seat.position + 1)
        self._ask("core", seats)
        for seat in seats:
            seat.steps += 1

    def logits(self, seats: Sequence[Seat]) -> Floats:
        """Decode the states of these seats: float32 [n, V], until the next call."""
        self._logits = self._held().logit_rows(len(seats))[0]
        self._ask("coda", seats)
        return self._logits[: len(seats)]

    def _held(self) -> Text:
        text = self._text()
        assert text is not None  # it holds its runners
        return text

    def _ask(self, part: str, seats: Sequence[Seat]) -> None:
        self._asked, self.size = seats, len(seats)
        ask_rows(Ask(self, part, 0), self._rows, self._desk, self._interrupt)

    def seat(self, ask: Ask, session: Session, row: int, step: int) -> tuple[BoundSlot, int]:
        """Return the cache that a row of a call works on, and its position; `step` is 0."""
        seat = self._asked[row]
        key = ask.part, seat.steps if ask.part == "core" else 0
        bound = self._bound.get(key)
        if bound is None:
            text = self._held()
            if ask.part == "core":
                slot = text.steps_cache.slots[text.steps_cache.index(seat.steps)]
            else:
                slot = text.outer_slot(ask.part)
            bound = self._bound[key] = BoundSlot(session, slot)
        return bound, seat.position

    def load(self, ask: Ask, low: int, high: int, arrays: Mapping[str, Array], at: int) -> None:
        """Write what rows from `low` to `high` give a call, from row `at` of its arrays on."""
        for row, seat in enumerate(self._asked[low:high], at):
            if ask.part == "prelude":
                arrays["input_ids"][row] = seat.token
                continue
            arrays["state"][row] = seat.rows[seat.steps % 2]
            if ask.part == "core":
                arrays["embeds"][row] = seat.embeds

    def store(self, ask: Ask, low: int, high: int, arrays: Mapping[str, Any], at: int) -> None:
        """Take what came of them."""
        if ask.part == "coda":
            self._logits[low:high] = arrays["logits"][at : at + high - low]
            return
        for row, seat in enumerate(self._asked[low:high], at):
            if ask.part == "prelude":
                seat.embeds[:] = arrays["embeds"][row]
                continue
            seat.rows[(seat.steps + 1) % 2] = arrays["next_state"][row]
            seat.change[0, 0] = arrays["change"][row]
            if seat.exit_probability is not None:
                seat.exit_probability[0, 0] = arrays["exit_probability"][row]
