"""A runner whose arrays lie in the memory of a device.

What goes there: token ids, lengths and initial states, once for a group of positions. What comes
back: `change` when an exit rule looks at it, logits when a token is chosen. States come back only
for what asks for them: rules that compare states, and positions that go on in another runner.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdlite.cuda.arrays import Captured, Change, Device, DeviceArray, Readback
from rdlite.ort.runner import Runner, keeps_logits
from rdlite.ort.session import Run
from rdlite.ort.text import Arrays, Floats, Text

#: By text, where its runners put logits.
_logits: weakref.WeakKeyDictionary[Any, Readback] = weakref.WeakKeyDictionary()


class _Read(Sequence[Floats]):
    """Arrays of a device, each copied when it is asked for."""

    def __init__(self, arrays: Sequence[DeviceArray]) -> None:
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, index: Any) -> Any:
        return self._arrays[index].read().astype(np.float32)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the numbers of a runner's positions lie, and how those are read that exit rules see.

    `change` takes the number of the step that it is about.
    """

    input_ids: DeviceArray
    embeds: DeviceArray
    states: tuple[DeviceArray, ...]
    change: Callable[[int], Floats]
    gate: Callable[[], Floats]

    def copy_from(self, other: Places) -> None:
        """Take what lies in other places."""
        self.input_ids.copy_from(other.input_ids)
        self.embeds.copy_from(other.embeds)
        for state, source in zip(self.states, other.states, strict=True):
            state.copy_from(source)


class DeviceRunner(Runner):
    """Like a Runner on the host; what it returns are copies, or overwritten by the next read."""

    def __init__(self, text: Text, size: int, device: Device) -> None:
        self._device = device
        self._lane = text.lane
        self._has_length = True  # its calls read it
        super().__init__(text, size)

    def _allocate(self, text: Text) -> None:
        config, size, device = text.config, self.size, self._device
        shape = (1, size, config.hidden_size)
        states = device.empty(shape), device.empty(shape)
        change = Change(device, self._sessions["change"], states, self._interrupt)
        gate = Readback(device, (1, size), np.float32)
        self._gate = gate.array if config.recurrence.exit_threshold is not None else None
        self._change, self._last = None, 0
        self._at = Places(
            device.empty((1, size), np.int64), device.empty(shape), states, change.read, gate.read
        )
        self._use(self._at)
        self._staged = np.zeros(shape[1:], np.float32)
        self._seqlens_k = device.empty((1,), np.int32)
        # A replayed call takes what it was captured with: as many positions as there is room for.
        self._capacity = text.capacity if device.graphs is not False and size == 1 else None
        total = np.zeros((), np.int32)
        self._lengths: Arrays = {"seqlens_k": self._seqlens_k, "total_sequence_length": total}

    def _use(self, places: Places) -> None:
        self._at = places
        self._input_ids, self._embeds, self._states = (
            places.input_ids,
            places.embeds,
            places.states,
        )

    @property
    def embeds(self) -> Floats:
        """The prelude's output: float32 [1, S, E]; a copy."""
        embeds: Floats = self._embeds.read().astype(np.float32)
        return embeds

    @property
    def states(self) -> Sequence[Floats]:
        """The state after t steps, `states[t % 2]`, and the one before it; copies."""
        return _Read(self._states)

    @property
    def change(self) -> Floats:
        """How far the last step moved each state; works it out, and waits for it."""
        return self._at.change(self._last)

    @property
    def exit_probability(self) -> Floats | None:
        """What the core's gate said last; waits for it."""
        return None if self._gate is None else self._at.gate()

    def place(self, position: int) -> None:
        """Serve the positions from `position` on."""
        self._start, self._end = position, position + self.size
        self._decoded = (0, 0)
        if self._lane is not None:
            self._lane.park()
        self._lengths["total_sequence_length"][...] = self._capacity or self._end
        if self._has_length:
            self._write_length()

    def _write_length(self) -> None:
        """Say where the last position is, to calls of this text alone."""
        self._seqlens_k.write(np.array([self._end - 1], np.int32))

    def step(self, number: int) -> None:
        """Take core step `number`, counted from 0."""
        self._last = number
        super().step(number)

    def put_ids(self, ids: Sequence[int]) -> None:
        """Write the token ids, S of them."""
        self._input_ids.write(np.array([ids], np.int64))

    def put_state(self, steps: int, rows: Floats) -> None:
        """Write the states after so many steps: float32 [S, E]."""
        self._states[steps % 2].write(rows[None])

    def put_embeds(self, rows: Floats) -> None:
        """Write the prelude's output: float32 [S, E]."""
        self._embeds.write(rows[None])

    def fill_state(self, fill: Callable[[Floats], object]) -> None:
        """Let `fill` write the initial states: float32 [S, E]."""
        fill(self._staged)
        self.put_state(0, self._staged)

    def start_at_embeds(self) -> None:
        """Start at the prelude's output."""
        self._states[0].copy_from(self._embeds)

    def _bind(self, part: str, arrays: tuple[Arrays, Arrays]) -> Run:
        dense = self._sessions.get(f"dense.{part}") if self.size > 1 else None
        run = (dense or self._sessions[part]).bind(*arrays, self._interrupt)
        return run if self._capacity is None else Captured(self._device, run, self._interrupt)

    def _bind_coda(self, parity: int, positions: int) -> tuple[Run, Callable[[], Floats]]:
        slot = self._coda_slot
        wanted = self._device.empty((positions,), np.int64)
        wanted.write(np.arange(self.size - positions, self.size))
        logits = self._room_for_logits(positions)
        inputs: Arrays = {"state": self._states[parity], "logit_positions": wanted}
        run = self._bind(
            "coda",
            (inputs | self._lengths | slot.inputs(), {"logits": logits.array, **slot.outputs()}),
        )
        return run, lambda: logits.read()[0]

    def _room_for_logits(self, positions: int) -> Readback:
        """Room that all runners of a text share, as one is used at a time, unless it is much."""
        shape, text = (1, positions, self._vocab_size), self._text()
        held = _logits.get(text)
        if held is None or held.array.shape[1] < positions:
            rows = 1 << (positions - 1).bit_length()
            held = Readback(self._device, (1, rows, self._vocab_size), np.float32)
            if keeps_logits(positions, self._vocab_size):
                _logits[text] = held
        return held.first(shape)
