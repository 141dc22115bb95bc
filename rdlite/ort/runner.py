"""Preallocated buffers for S positions, and the onnxruntime calls that are bound to them.

Everything that a step touches is allocated in advance, and bound when a runner takes the step for
the first time: from then on a step is one call into onnxruntime.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rdlite.config.model import ModelConfig
from rdlite.ort.kv_cache import Slot
from rdlite.ort.session import Array, Interrupt, Run, Session
from rdlite.ort.step_caches import StepCaches

Floats = npt.NDArray[np.float32]
#: By the graph's names; of a GPU they are `rdlite.cuda.arrays.DeviceArray`s.
Arrays = dict[str, Any]


#: Room for logits that a text keeps for the next call: 64 positions of 65,536 ids.
KEPT_LOGIT_BYTES = 16 * 2**20


def keeps_logits(positions: int, vocab_size: int) -> bool:
    """Whether room for the logits of so many positions is kept, or made for each call."""
    return (1 << (positions - 1).bit_length()) * vocab_size * 4 <= KEPT_LOGIT_BYTES


class Desk:
    """Where a text asks for its turn, if others are worked on in the same thread."""

    def __init__(self) -> None:
        self.company: Company | None = None


class Company(Protocol):
    """Texts that are worked on together."""

    @property
    def alone(self) -> bool:
        """Whether there is one text only."""

    def wait(self, desk: Desk) -> None:
        """Return when it is this text's turn to make a call."""

    def by_rows(self, desk: Desk, ask: Ask) -> None:
        """Return when a call that took rows of other texts too has done what is asked."""


class Ask:
    """What a runner by rows wants of a part of the model.

    Attributes:
        runner: whose positions, a row each.
        part: "prelude", "core" or "coda".
        number: of the core step, from 0; or how many were taken before the coda.
        size: how many rows.
        taken: how many of them calls have taken.
        problem: why one of them failed.
    """

    __slots__ = ("number", "part", "problem", "runner", "size", "taken")

    def __init__(self, runner: Any, part: str, number: int) -> None:
        self.runner, self.part, self.number = runner, part, number
        self.size: int = runner.size
        self.taken = 0
        self.problem: Exception | None = None


class Text(Protocol):
    """What a runner takes of the text that it reads."""

    config: ModelConfig
    sessions: Mapping[str, Session]
    interrupt: Interrupt
    desk: Desk
    steps_cache: StepCaches
    #: Its place among others on a GPU, where it has one.
    lane: Any
    #: Positions that the caches have room for.
    capacity: int
    seqlens_k: Array
    total_sequence_length: Array

    @property
    def end(self) -> int:
        """Behind the last position that was read, kept or not."""

    def outer_slot(self, part: str) -> Slot:
        """The cache of the prelude or the coda."""

    def rows(self, size: int) -> list[Floats]:
        """Room for three float32 [1, size, E]."""

    def logit_rows(self, positions: int) -> Floats:
        """Room for float32 [1, positions, V]."""


class Runner:
    """Buffers for S new positions, and the calls that run on them, each bound once.

    Whoever uses it reads `states`, `embeds`, `change` and `exit_probability`, and writes with
    `put_...`, so that the arrays may lie elsewhere.

    The state goes back and forth between `states[0]` and `states[1]`: after n steps it is in
    `states[n % 2]`. A runner is good until its sequence is asked for the next one, which uses the
    same memory.
    """

    #: What is bound: arrays of NumPy, or of a device.
    _input_ids: Any
    _embeds: Any
    _states: Sequence[Any]
    #: None where it is worked out when it is asked for.
    _change: Any
    _gate: Any

    def __init__(self, text: Text, size: int) -> None:
        config = text.config
        self.size = size
        self._start = self._end = 0
        self._vocab_size = config.vocab_size
        # Of the text a runner keeps alive only parts, so that both are freed when they are let go.
        self._text = weakref.ref(text)
        self._core = text.steps_cache
        self._sessions = text.sessions
        self._interrupt = text.interrupt
        self._desk = text.desk
        self._coda_slot = text.outer_slot("coda")
        self._lengths: Arrays = {
            "seqlens_k": text.seqlens_k,
            "total_sequence_length": text.total_sequence_length,
        }
        self._prelude_slot = text.outer_slot("prelude")
        self._allocate(text)
        # All are bound when first taken: under an exit rule, most sizes take few of the steps.
        self._prelude: Run | None = None
        self.steps: list[Run | None] = []
        self._codas: dict[tuple[int, int], tuple[Run, Callable[[], Floats]]] = {}
        self._decoded = (0, 0)  # what the coda decoded last: steps, positions

    def _allocate(self, text: Text) -> None:
        config, size = text.config, self.size
        self._input_ids = np.zeros((1, size), np.int64)
        self._embeds, *states = text.rows(size)
        self._states = tuple(states)
        self._change = np.zeros((1, size), np.float32)
        has_gate = config.recurrence.exit_threshold is not None
        self._gate = np.zeros((1, size), np.float32) if has_gate else None

    def prepare(self, steps: int) -> None:
        """Make place for core steps up to number `steps`."""
        self.steps += [None] * (steps - len(self.steps))

    def place(self, position: int) -> None:
        """Serve the positions from `position` on."""
        self._start, self._end = position, position + self.size
        self._decoded = (0, 0)
        self._lengths["seqlens_k"][0] = self._end - 1
        self._lengths["total_sequence_length"][...] = self._end

    @property
    def embeds(self) -> Floats:
        """The prelude's output: float32 [1, S, E]."""
        embeds: Floats = self._embeds
        return embeds

    @property
    def states(self) -> Sequence[Floats]:
        """The state after t steps, `states[t % 2]`, and the one before it: float32 [1, S, E]."""
        return self._states

    @property
    def change(self) -> Floats:
        """How far the last step moved each state, relative to its length: float32 [1, S]."""
        change: Floats = self._change
        return change

    @property
    def exit_probability(self) -> Floats | None:
        """What the core's gate said last: float32 [1, S]; None if the model has none."""
        gate: Floats | None = self._gate
        return gate

    def put_ids(self, ids: Sequence[int]) -> None:
        """Write the token ids, S of them."""
        self._input_ids[0] = ids

    def put_state(self, steps: int, rows: Floats) -> None:
        """Write the states after so many steps: float32 [S, E]."""
        self._states[steps % 2][0] = rows

    def put_embeds(self, rows: Floats) -> None:
        """Write the prelude's output: float32 [S, E]."""
        self._embeds[0] = rows

    def fill_state(self, fill: Callable[[Floats], object]) -> None:
        """Let `fill` write the initial states: float32 [S, E]."""
        fill(self._states[0][0])

    def start_at_embeds(self) -> None:
        """Start at the prelude's output."""
        np.copyto(self._states[0], self._embeds)

    def prelude(self) -> None:
        """Embed the token ids."""
        if self._prelude is None:
            self._prelude = self._bind("prelude", self.prelude_arrays())
        self._call(self._prelude)

    def step(self, number: int) -> None:
        """Take core step `number`, counted from 0."""
        self._core.backfill(number, self._start, self._end)
        self._call(self.steps[number] or self._bind_step(number))

    def _call(self, run: Run) -> None:
        company = self._desk.company
        if company is not None:
            company.wait(self._desk)
        run()

    def logits(self, steps: int, positions: int = 1) -> Floats:
        """Decode the state after `steps` steps: float32 [P, V] of the last P positions.

        The array is overwritten by the next call, unless that asks for the same again.
        """
        key = (steps % 2, positions)
        if key not in self._codas:
            self._codas[key] = self._bind_coda(*key)
            self._decoded = (0, 0)
        run, read = self._codas[key]
        if not keeps_logits(positions, self._vocab_size):
            del self._codas[key]
        if self._decoded != (steps, positions):
            self._call(run)
            self._decoded = (steps, positions)
        return read()

    def prelude_arrays(self) -> tuple[Arrays, Arrays]:
        """What the prelude reads and writes, by the graph's names."""
        slot = self._prelude_slot
        return (
            {"input_ids": self._input_ids, **self._lengths, **slot.inputs()},
            {"embeds": self._embeds, **slot.outputs()},
        )

    def core_arrays(self, number: int) -> tuple[Arrays, Arrays]:
        """What core step `number` reads and writes, by the graph's names."""
        slot = self._core.slots[self._core.index(number)]
        before, after = self._states[number % 2], self._states[(number + 1) % 2]
        results: Arrays = {"next_state": after}
        if self._change is not None:
            results["change"] = self._change
        if self._gate is not None:
            results["exit_probability"] = self._gate
        return (
            {"state": before, "embeds": self._embeds, **self._lengths, **slot.inputs()},
            {**results, **slot.outputs()},
        )

    def coda_arrays(self, steps: int, positions: int) -> tuple[Arrays, Arrays]:
        """What the coda reads, after so many steps, and writes, by the graph's names."""
        slot = self._coda_slot
        wanted = np.arange(self.size - positions, self.size, dtype=np.int64)
        state = self._states[steps % 2]
        text = self._text()
        assert text is not None  # it holds its runners
        logits = text.logit_rows(positions)
        return (
            {"state": state, "logit_positions": wanted, **self._lengths, **slot.inputs()},
            {"logits": logits, **slot.outputs()},
        )

    def _bind_step(self, number: int) -> Run:
        run = self.steps[number] = self._bind("core", self.core_arrays(number))
        return run

    def _bind_coda(self, parity: int, positions: int) -> tuple[Run, Callable[[], Floats]]:
        inputs, outputs = self.coda_arrays(parity, positions)
        logits: Floats = outputs["logits"][0]
        return self._bind("coda", (inputs, outputs)), lambda: logits

    def _bind(self, part: str, arrays: tuple[Arrays, Arrays]) -> Run:
        return self._sessions[part].bind(*arrays, self._interrupt)
