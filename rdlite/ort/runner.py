"""Preallocated buffers for S positions, and the onnxruntime calls that are bound to them.

Everything that a step touches is allocated in advance, and bound when a runner takes the step for
the first time: from then on a step is one call into onnxruntime, or several steps are.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from rdlite.graphs.derived.unrolled import STEPS
from rdlite.ort.block import Block
from rdlite.ort.session import Run
from rdlite.ort.text import Arrays, Floats, Settled, Text

#: Room for logits that a text keeps for the next call: 64 positions of 65,536 ids.
KEPT_LOGIT_BYTES = 16 * 2**20


def keeps_logits(positions: int, vocab_size: int) -> bool:
    """Whether room for the logits of so many positions is kept, or made for each call."""
    return (1 << (positions - 1).bit_length()) * vocab_size * 4 <= KEPT_LOGIT_BYTES


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
        #: Of several steps, by the number of the first.
        self._blocks: dict[int, Block] = {}
        self._has_blocks = size == 1 and "steps" in text.sessions
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
        self._call(self._prelude or self._bind_prelude())

    def step(self, number: int) -> None:
        """Take core step `number`, counted from 0."""
        self._core.backfill(number, self._start, self._end)
        self._call(self.steps[number] or self._bind_step(number))

    def take_steps(self, first: int, end: int, settled: Settled | None = None) -> int:
        """Take core steps from number `first` to `end`, or until they have settled.

        Args:
            first: of the steps, counted from 0.
            end: behind the last of them.
            settled: is told how many were taken; it must decode nothing.

        Returns:
            How many were taken.
        """
        company = self._desk.company
        if company is None or not company.bursts:
            return self._take(self.step, first, end, settled)
        company.wait(self._desk)
        return self._take(self._step, first, end, settled)

    def _take(
        self, step: Callable[[int], None], first: int, end: int, settled: Settled | None
    ) -> int:
        number = first
        while number < end:
            if self.takes_block(number, end, settled):
                number, enough = self._block(number, settled)
            else:
                step(number)
                number += 1
                enough = settled is not None and settled(number)
            if enough:
                break
        return number

    def _step(self, number: int) -> None:
        """Take a step, whoever else waits."""
        self._core.backfill(number, self._start, self._end)
        (self.steps[number] or self._bind_step(number))()

    def takes_block(self, number: int, end: int, settled: Settled | None) -> bool:
        """Whether several steps from `number` on may be taken in one call."""
        last = number + STEPS
        return (
            self._has_blocks
            and last <= end
            and (settled is None or self._core.may_overshoot(number, last, self._start))
        )

    def _block(self, first: int, settled: Settled | None) -> tuple[int, bool]:
        """Take several steps in one call; returns how many were taken then, and if it is enough."""
        end = first + STEPS
        for number in range(first, end):
            self._core.backfill(number, self._start, self._end)
        block = self._blocks.get(first)
        if block is None:
            block = self._blocks[first] = Block(
                first, self.core_arrays, self._core.layers, partial(self._bind, "steps")
            )
        block.run()
        if settled is None:
            block.show(STEPS - 1)
            return end, False
        for index, number in enumerate(range(first + 1, end + 1)):
            block.show(index)
            if settled(number):
                self._core.take_back(number, end, self._start)
                return number, True
        return end, False

    def _call(self, run: Run) -> None:
        company = self._desk.company
        if company is not None:
            company.wait(self._desk)
        run()

    def logits(self, steps: int, positions: int = 1) -> Floats:
        """Decode the state after `steps` steps: float32 [P, V] of the last P positions.

        The array is overwritten by the next call, unless that asks for the same again.
        """
        run, read = self._coda(steps % 2, positions)
        if self._decoded != (steps, positions):
            self._call(run)
            self._decoded = (steps, positions)
        return read()

    def _coda(self, parity: int, positions: int) -> tuple[Run, Callable[[], Floats]]:
        key = (parity, positions)
        found = self._codas.get(key)
        if found is None:
            found = self._bind_coda(*key)
            self._decoded = (0, 0)
            if keeps_logits(positions, self._vocab_size):
                self._codas[key] = found
        return found

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

    def _bind_prelude(self) -> Run:
        run = self._prelude = self._bind("prelude", self.prelude_arrays())
        return run

    def _bind_step(self, number: int) -> Run:
        run = self.steps[number] = self._bind("core", self.core_arrays(number))
        return run

    def _bind_coda(self, parity: int, positions: int) -> tuple[Run, Callable[[], Floats]]:
        inputs, outputs = self.coda_arrays(parity, positions)
        logits: Floats = outputs["logits"][0]
        return self._bind("coda", (inputs, outputs)), lambda: logits

    def _bind(self, part: str, arrays: tuple[Arrays, Arrays]) -> Run:
        return self._sessions[part].bind(*arrays, self._interrupt)
