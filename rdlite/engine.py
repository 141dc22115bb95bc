"""Buffers and bindings: three sessions, and sequences that read positions through them.

The engine knows ids, states and caches, and nothing of text. Everything that a step touches is
allocated and bound before the first step: a step is one call into onnxruntime.
"""

import numpy as np
import numpy.typing as npt

from rdlite.bundle import PARTS, Bundle
from rdlite.cache import Cache, CacheSlot, StepCaches, next_capacity
from rdlite.session import Array, Run, Session, Value

CHUNK = 64  # positions of a prompt that are read at once
MAX_LANES = 24

Floats = npt.NDArray[np.float32]


class Engine:
    """The three sessions of one model. Thread-safe; each text has a Sequence of its own."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        """Load the graphs of a bundle; raises RuntimeFailure."""
        self.config = bundle.config
        self.sessions = {
            part: Session(part, bundle.graphs[part], bundle.folder, threads) for part in PARTS
        }


class Sequence:
    """One text being read: its caches and how many positions are in them. Not thread-safe.

    Positions are read a group at a time: `begin` runs the prelude, the lane's `step` runs the
    core, `logits` runs the coda, and `commit` keeps what they wrote to the caches. Rolling back is
    `truncate`: what lies past the length is never looked at.
    """

    def __init__(self, engine: Engine, cache: Cache, context: int) -> None:
        self.engine = engine
        self.config = engine.config
        self.cache = cache
        self.context = context
        self.length = 0
        self.capacity = 0
        self._pending = 0  # positions that were read and not committed
        self.seqlens_k = np.zeros(1, np.int32)
        self.total_sequence_length = np.zeros((), np.int32)
        self.steps_cache = StepCaches(engine.config, cache)
        self._outer_slots: dict[str, CacheSlot] = {}
        self._lanes: dict[int, Lane] = {}
        #: The core's slots as onnxruntime sees them, inputs and outputs, for lanes to share.
        self.slot_values: dict[int, tuple[dict[str, Value], dict[str, Value]]] = {}

    def lane(self, position: int, size: int, steps: int) -> "Lane":
        """Return the lane of `size` positions from `position` on, ready for up to `steps` steps.

        It is good until the next lane is asked for.
        """
        self._make_room(position + size, steps)
        lane = self._lanes.pop(size, None)
        if lane is None:
            if len(self._lanes) >= MAX_LANES:
                del self._lanes[next(iter(self._lanes))]
            lane = Lane(self, size)
        self._lanes[size] = lane  # in the order of last use
        lane.prepare(steps)
        lane.place(position)
        self.seqlens_k[0] = position + size - 1
        self.total_sequence_length[...] = position + size
        return lane

    def begin(self, ids: list[int], steps: int) -> "Lane":
        """Run the prelude on the next positions and return the lane that reads them.

        The caller writes the initial states to `lane.states[0]` and then takes `lane.step(0)`,
        `lane.step(1)` and so on.

        Args:
            ids: token ids, S of them, at least one, that fit in the context.
            steps: the most core steps that will be run on them.
        """
        if self._pending:  # what was read there before is not what will stand there
            self.steps_cache.truncate(self.length)
        self._pending = len(ids)
        lane = self.lane(self.length, len(ids), steps)
        lane.input_ids[0] = ids
        lane.prelude()
        return lane

    def commit(self, count: int) -> None:
        """Keep the first `count` positions of the group that was read last."""
        self.length += count
        self._pending -= count

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        if length < self.length:
            self.length = length
            self.steps_cache.truncate(length)

    def outer_slot(self, part: str) -> CacheSlot:
        """The cache of the prelude or the coda."""
        return self._outer_slots[part]

    @property
    def cache_bytes(self) -> int:
        """Memory of all caches."""
        return sum(slot.data.nbytes for slot in self._all_slots())

    def _all_slots(self) -> tuple[CacheSlot, ...]:
        return (*self.steps_cache.slots, *self._outer_slots.values())

    def _make_room(self, needed: int, steps: int) -> None:
        layers = self.config.layers
        if needed > self.capacity:
            capacity = next_capacity(self.capacity, needed, self.context)
            self._lanes.clear()  # first: they hold the old arrays
            self.slot_values.clear()
            for slot in self._all_slots():
                slot.grow(capacity, self.length)
            for part in ("prelude", "coda"):
                if part not in self._outer_slots:
                    count = getattr(layers, part)
                    self._outer_slots[part] = CacheSlot(self.config, count, capacity)
            self.capacity = capacity  # last: should memory run out, the next call starts over
        self.steps_cache.provide(steps, self.capacity)


class Lane:
    """Buffers for S new positions, and the calls that run on them, all bound in advance.

    The state goes back and forth between `states[0]` and `states[1]`: after n steps it is in
    `states[n % 2]`. A lane is good until its sequence reads more positions.
    """

    def __init__(self, sequence: Sequence, size: int) -> None:
        config = sequence.config
        self.size = size
        self._start = self._end = 0
        # Of the sequence a lane keeps only these, so that both are freed when they are let go.
        self._core = sequence.steps_cache
        self._slot_values = sequence.slot_values
        self._sessions = sequence.engine.sessions
        self._coda_slot = sequence.outer_slot("coda")
        self._lengths = {
            "seqlens_k": sequence.seqlens_k,
            "total_sequence_length": sequence.total_sequence_length,
        }
        self.input_ids = np.zeros((1, size), np.int64)
        self.embeds = np.zeros((1, size, config.hidden_size), np.float32)
        self.states = (np.zeros_like(self.embeds), np.zeros_like(self.embeds))
        self.change = np.zeros((1, size), np.float32)
        slot = sequence.outer_slot("prelude")
        self.prelude = self._sessions["prelude"].bind(
            {"input_ids": self.input_ids, **self._lengths, **slot.inputs()},
            {"embeds": self.embeds, **slot.outputs()},
        )
        core = self._sessions["core"]
        self._values = [  # of even steps and odd ones
            (
                core.values({"state": now, "embeds": self.embeds, **self._lengths}),
                core.values({"next_state": then, "change": self.change}),
            )
            for now, then in (self.states, self.states[::-1])
        ]
        self.steps: list[Run] = []
        self._codas: dict[tuple[int, int], tuple[Run, Floats]] = {}
        self._vocab_size = config.vocab_size
        self._decoded = (0, 0)  # what the coda decoded last: steps, positions

    def prepare(self, steps: int) -> None:
        """Bind core steps up to number `steps`."""
        core = self._sessions["core"]
        for step in range(len(self.steps), steps):
            index = self._core.index(step)
            if index not in self._slot_values:
                slot = self._core.slots[index]
                self._slot_values[index] = core.values(slot.inputs()), core.values(slot.outputs())
            inputs, outputs = self._values[step % 2]
            past, present = self._slot_values[index]
            self.steps.append(core.bind({**inputs, **past}, {**outputs, **present}))

    def place(self, position: int) -> None:
        """Serve the positions from `position` on."""
        self._start, self._end = position, position + self.size
        self._decoded = (0, 0)

    def step(self, number: int) -> None:
        """Take core step `number`, counted from 0."""
        self._core.fill(number, self._start, self._end)
        self.steps[number]()

    def logits(self, steps: int, positions: int = 1) -> Floats:
        """Decode the state after `steps` steps: float32 [P, V] of the last P positions.

        The array is overwritten by the next call, unless that asks for the same again.
        """
        key = (steps % 2, positions)
        if key not in self._codas:
            self._codas[key] = self._bind_coda(*key)
        run, logits = self._codas[key]
        if self._decoded != (steps, positions):
            run()
            self._decoded = (steps, positions)
        return logits

    def _bind_coda(self, parity: int, positions: int) -> tuple[Run, Floats]:
        logits = np.zeros((1, positions, self._vocab_size), np.float32)
        wanted = np.arange(self.size - positions, self.size, dtype=np.int64)
        inputs: dict[str, Array] = {"state": self.states[parity], "logit_positions": wanted}
        run = self._sessions["coda"].bind(
            {**inputs, **self._lengths, **self._coda_slot.inputs()},
            {"logits": logits, **self._coda_slot.outputs()},
        )
        return run, logits[0]
