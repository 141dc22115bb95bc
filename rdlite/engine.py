"""Buffers and bindings: three sessions, and sequences that read positions through them.

The engine knows ids, states and caches, and nothing of text. Everything that a step touches is
allocated and bound before the first step: a step is one call into onnxruntime.
"""

import numpy as np
import numpy.typing as npt

from rdlite.bundle import PARTS, Bundle
from rdlite.cache import Cache, CacheSlot, next_capacity
from rdlite.session import Run, Session

CHUNK = 64  # positions of a prompt that are read at once
MAX_LANES = 8

Floats = npt.NDArray[np.float32]


class Engine:
    """The three sessions of one model. Thread-safe; each text has a Sequence of its own."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        """Load the graphs of a bundle; raises RuntimeFailure."""
        self.config = bundle.config
        self.sessions = {
            part: Session(part, bundle.graphs[part].data, bundle.folder, threads) for part in PARTS
        }


class Sequence:
    """One text being read: its caches and how many positions are in them. Not thread-safe.

    Positions are read a group at a time: `begin` runs the prelude, the lane's `steps` run the
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
        self.seqlens_k = np.zeros(1, np.int32)
        self.total_sequence_length = np.zeros((), np.int32)
        self._core_slots: list[CacheSlot] = []
        self._outer_slots: dict[str, CacheSlot] = {}
        self._lanes: dict[int, Lane] = {}

    def begin(self, ids: list[int], steps: int) -> "Lane":
        """Run the prelude on the next positions and return the lane that reads them.

        The caller writes the initial states to `lane.states[0]` and then runs `lane.steps[:n]`.

        Args:
            ids: token ids, S of them, 1 to CHUNK, that fit in the context.
            steps: the most core steps that will be run on them.
        """
        size = len(ids)
        self._make_room(self.length + size, steps)
        lane = self._lanes.get(size)
        if lane is None:
            if len(self._lanes) >= MAX_LANES:
                self._lanes = {1: self._lanes[1]} if 1 in self._lanes else {}
            lane = self._lanes[size] = Lane(self, size)
        lane.prepare(steps)
        lane.input_ids[0] = ids
        self.seqlens_k[0] = self.length + size - 1
        self.total_sequence_length[...] = self.length + size
        lane.prelude()
        return lane

    def commit(self, count: int) -> None:
        """Keep the first `count` positions of the group that was read last."""
        self.length += count

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        self.length = min(self.length, length)

    def core_slot(self, step: int) -> CacheSlot:
        """The cache that step number `step` (from 0) reads and writes."""
        share = self.cache.share
        return self._core_slots[step if share is None else step % share]

    def outer_slot(self, part: str) -> CacheSlot:
        """The cache of the prelude or the coda."""
        return self._outer_slots[part]

    def _make_room(self, needed: int, steps: int) -> None:
        layers = self.config.layers
        if needed > self.capacity:
            self.capacity = next_capacity(self.capacity, needed, self.context)
            for slot in (*self._core_slots, *self._outer_slots.values()):
                slot.grow(self.capacity, self.length)
            for part in ("prelude", "coda"):
                if part not in self._outer_slots:
                    count = getattr(layers, part)
                    self._outer_slots[part] = CacheSlot(self.config, count, self.capacity)
            self._lanes.clear()
        while len(self._core_slots) < self.cache.slots(steps):
            self._core_slots.append(CacheSlot(self.config, layers.core, self.capacity))


class Lane:
    """Buffers for S new positions, and the calls that run on them, all bound in advance.

    The state goes back and forth between `states[0]` and `states[1]`: after n steps it is in
    `states[n % 2]`.
    """

    def __init__(self, sequence: Sequence, size: int) -> None:
        config = sequence.config
        self.size = size
        self._sequence = sequence
        self.input_ids = np.zeros((1, size), np.int64)
        self.embeds = np.zeros((1, size, config.hidden_size), np.float32)
        self.states = (np.zeros_like(self.embeds), np.zeros_like(self.embeds))
        self.change = np.zeros((1, size), np.float32)
        self._lengths = {
            "seqlens_k": sequence.seqlens_k,
            "total_sequence_length": sequence.total_sequence_length,
        }
        slot = sequence.outer_slot("prelude")
        self.prelude = sequence.engine.sessions["prelude"].bind(
            {"input_ids": self.input_ids, **self._lengths, **slot.inputs()},
            {"embeds": self.embeds, **slot.outputs()},
        )
        self.steps: list[Run] = []
        self._codas: dict[tuple[int, int], Coda] = {}

    def prepare(self, steps: int) -> None:
        """Bind core steps up to number `steps`."""
        core = self._sequence.engine.sessions["core"]
        for step in range(len(self.steps), steps):
            slot = self._sequence.core_slot(step)
            self.steps.append(
                core.bind(
                    {
                        "state": self.states[step % 2],
                        "embeds": self.embeds,
                        **self._lengths,
                        **slot.inputs(),
                    },
                    {
                        "next_state": self.states[(step + 1) % 2],
                        "change": self.change,
                        **slot.outputs(),
                    },
                )
            )

    def logits(self, steps: int, positions: int = 1) -> Floats:
        """Decode the state after `steps` steps: float32 [P, V] of the last P positions.

        The array is overwritten by the next call.
        """
        key = (steps % 2, positions)
        coda = self._codas.get(key)
        if coda is None:
            coda = self._codas[key] = Coda(self._sequence, self, *key, self._lengths)
        coda.run()
        return coda.logits


class Coda:
    """One bound coda call: from one of a lane's two state buffers, to the logits of P positions."""

    def __init__(
        self,
        sequence: Sequence,
        lane: Lane,
        parity: int,
        positions: int,
        lengths: dict[str, npt.NDArray[np.int32]],
    ) -> None:
        output = np.zeros((1, positions, sequence.config.vocab_size), np.float32)
        slot = sequence.outer_slot("coda")
        wanted = np.arange(lane.size - positions, lane.size, dtype=np.int64)
        self.logits: Floats = output[0]
        self.run = sequence.engine.sessions["coda"].bind(
            {
                "state": lane.states[parity],
                "logit_positions": wanted,
                **lengths,
                **slot.inputs(),
            },
            {"logits": output, **slot.outputs()},
        )
