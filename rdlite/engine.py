"""Buffers and bindings: three sessions, and sequences that read positions through them.

The engine knows ids, states and caches, and nothing of text. Everything that a step touches is
allocated in advance, and bound when a lane takes the step for the first time: from then on a step
is one call into onnxruntime.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from rdlite.bundle import PARTS, Bundle
from rdlite.cache import Cache, CacheSlot, Entries, StepCaches, next_capacity
from rdlite.cache_scales import read_cache_scales
from rdlite.int8_cache_graph import with_int8_cache
from rdlite.session import Array, Interrupt, Run, Session

CHUNK = 64  # positions of a prompt that are read at once
MAX_LANES = 64  # one for every size, since positions of a chunk may leave one by one

Floats = npt.NDArray[np.float32]
Arrays = dict[str, Array]


class Engine:
    """The three sessions of one model. Thread-safe; each text has a Sequence of its own."""

    def __init__(self, bundle: Bundle, cache: Cache, threads: int | None = None) -> None:
        """Load the graphs of a bundle, for caches of one kind.

        Raises:
            InputError: the cache is to be int8, and the bundle has no scales.
            BundleError: the file of its scales breaks a rule.
            RuntimeFailure: onnxruntime is missing or refuses a graph.
        """
        self.config = bundle.config
        self.cache = cache
        graphs = bundle.graphs
        #: Those of the slots, if they are int8.
        self.scales = None
        if cache.bits is not None:
            share = cache.share if isinstance(cache.share, int) else None
            self.scales = read_cache_scales(bundle).shared(share)
            graphs = {part: with_int8_cache(graph) for part, graph in graphs.items()}
        self.sessions = {}
        for part in PARTS:
            with bundle.data_folder(part) as folder:
                self.sessions[part] = Session(part, graphs[part], folder, threads)


class Sequence:
    """One text being read: its caches and how many positions are in them. Not thread-safe.

    Positions are read a group at a time: `begin` runs the prelude, the lane's `step` runs the
    core, `logits` runs the coda, and `commit` keeps what they wrote to the caches. Rolling back is
    `truncate`: what lies past the length is never looked at.
    """

    def __init__(self, engine: Engine, context: int) -> None:
        self.engine = engine
        self.config = engine.config
        self.context = context
        self.length = 0
        self.capacity = 0
        self._pending = 0  # positions that were read and not committed
        #: Ends what runs on this text, from another thread.
        self.interrupt = Interrupt()
        self.seqlens_k = np.zeros(1, np.int32)
        self.total_sequence_length = np.zeros((), np.int32)
        self.steps_cache = StepCaches(engine.config, engine.cache, engine.scales)
        self._outer_slots: dict[str, CacheSlot] = {}
        self._lanes: dict[int, Lane] = {}
        self._rows = np.zeros((3, 1, 0, engine.config.hidden_size), np.float32)

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
        self.drop_pending()
        self._pending = len(ids)
        lane = self.lane(self.length, len(ids), steps)
        lane.input_ids[0] = ids
        lane.prelude()
        return lane

    def commit(self, count: int) -> None:
        """Keep the first `count` positions of the group that was read last."""
        self.length += count
        self._pending -= count

    def drop_pending(self) -> None:
        """Forget positions that were read and not committed: others will stand there."""
        if self._pending:
            self.steps_cache.truncate(self.length)
            self._pending = 0

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        if length < self.length:
            self.length = length
            self.steps_cache.truncate(length)
        if length == 0:
            self.spread()

    def entries(self, length: int | None = None) -> dict[str, Entries]:
        """Return what the caches hold: "prelude", "coda", "core.0" and so on; views.

        Args:
            length: of so many positions, the first; None: of all.
        """
        end = self.length if length is None else length
        outer = {part: slot.data[..., :end, :] for part, slot in self._outer_slots.items()}
        core = enumerate(self.steps_cache.entries())
        return {**outer, **{f"core.{index}": kept[..., :end, :] for index, kept in core}}

    def restore(self, entries: Mapping[str, Entries], length: int, gathered: bool) -> None:
        """Take what `entries` gave for so many positions; their shapes and dtypes are right."""
        self.truncate(0)
        self._lanes.clear()
        self._make_room(length, 0)
        for part in ("prelude", "coda"):
            self._outer_slots[part].data[..., :length, :] = entries[part]
        core = [entries[f"core.{index}"] for index in range(len(entries) - 2)]
        self.steps_cache.restore(core, gathered, self.capacity)
        self.length = length

    def gather(self) -> None:
        """With `Cache(share="last")`, go on with what the last step of each position left."""
        if self.engine.cache.share == "last" and not self.steps_cache.gathered:
            self._lanes.clear()  # they are bound to slots that go
            self.steps_cache.gather(self.length, self.capacity)

    def spread(self) -> None:
        """Undo `gather` as far as it can be undone: new positions keep every step again."""
        if self.steps_cache.gathered:
            self._lanes.clear()
            self.steps_cache.spread(self.length, self.capacity)

    def outer_slot(self, part: str) -> CacheSlot:
        """The cache of the prelude or the coda."""
        return self._outer_slots[part]

    @property
    def cache_bytes(self) -> int:
        """Memory of all caches."""
        return sum(slot.data.nbytes for slot in self._all_slots())

    def rows(self, size: int) -> list[Floats]:
        """Room for three float32 [1, size, E]; the lanes share it, since one is used at a time."""
        _, _, held, width = self._rows.shape
        if size > held:
            self._rows = np.zeros((3, 1, 1 << (size - 1).bit_length(), width), np.float32)
        return [block[:, :size] for block in self._rows]

    def _all_slots(self) -> tuple[CacheSlot, ...]:
        return (*self.steps_cache.slots, *self._outer_slots.values())

    def _make_room(self, needed: int, steps: int) -> None:
        layers = self.config.layers
        if needed > self.capacity:
            capacity = next_capacity(self.capacity, needed, self.context)
            self._lanes.clear()  # first: they hold the old arrays
            for slot in self._all_slots():
                slot.grow(capacity, self.length)
            for part in ("prelude", "coda"):
                if part not in self._outer_slots:
                    count = getattr(layers, part)
                    scales = getattr(self.engine.scales, part, None)
                    self._outer_slots[part] = CacheSlot(self.config, count, capacity, scales)
            self.capacity = capacity  # last: should memory run out, the next call starts over
        self.steps_cache.provide(steps, self.capacity)


class Lane:
    """Buffers for S new positions, and the calls that run on them, each bound once.

    The state goes back and forth between `states[0]` and `states[1]`: after n steps it is in
    `states[n % 2]`. A lane is good until its sequence is asked for the next one, which uses the
    same memory.
    """

    def __init__(self, sequence: Sequence, size: int) -> None:
        config = sequence.config
        self.size = size
        self._start = self._end = 0
        # Of the sequence a lane keeps only this, so that both are freed when they are let go.
        self._core = sequence.steps_cache
        self._sessions = sequence.engine.sessions
        self._interrupt = sequence.interrupt
        self._coda_slot = sequence.outer_slot("coda")
        self._lengths = {
            "seqlens_k": sequence.seqlens_k,
            "total_sequence_length": sequence.total_sequence_length,
        }
        self.input_ids = np.zeros((1, size), np.int64)
        self.embeds, *states = sequence.rows(size)
        self.states = (states[0], states[1])
        self.change = np.zeros((1, size), np.float32)
        has_gate = config.recurrence.exit_threshold is not None
        self.exit_probability = np.zeros((1, size), np.float32) if has_gate else None
        self._prelude_slot = sequence.outer_slot("prelude")
        self.prelude = self._bind("prelude", self.prelude_arrays())
        # Bound when first taken: under an exit rule, most sizes take few of the steps.
        self.steps: list[Run | None] = []
        self._codas: dict[tuple[int, int], tuple[Run, Floats]] = {}
        self._vocab_size = config.vocab_size
        self._decoded = (0, 0)  # what the coda decoded last: steps, positions

    def prepare(self, steps: int) -> None:
        """Make place for core steps up to number `steps`."""
        self.steps += [None] * (steps - len(self.steps))

    def place(self, position: int) -> None:
        """Serve the positions from `position` on."""
        self._start, self._end = position, position + self.size
        self._decoded = (0, 0)

    def step(self, number: int) -> None:
        """Take core step `number`, counted from 0."""
        self._core.fill(number, self._start, self._end)
        run = self.steps[number] or self._bind_step(number)
        run()

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

    def prelude_arrays(self) -> tuple[Arrays, Arrays]:
        """What the prelude reads and writes, by the graph's names."""
        slot = self._prelude_slot
        return (
            {"input_ids": self.input_ids, **self._lengths, **slot.inputs()},
            {"embeds": self.embeds, **slot.outputs()},
        )

    def core_arrays(self, number: int) -> tuple[Arrays, Arrays]:
        """What core step `number` reads and writes, by the graph's names."""
        slot = self._core.slots[self._core.index(number)]
        before, after = self.states[number % 2], self.states[(number + 1) % 2]
        results: Arrays = {"next_state": after, "change": self.change}
        if self.exit_probability is not None:
            results["exit_probability"] = self.exit_probability
        return (
            {"state": before, "embeds": self.embeds, **self._lengths, **slot.inputs()},
            {**results, **slot.outputs()},
        )

    def coda_arrays(self, steps: int, positions: int) -> tuple[Arrays, Arrays]:
        """What the coda reads, after so many steps, and writes, by the graph's names."""
        slot = self._coda_slot
        wanted = np.arange(self.size - positions, self.size, dtype=np.int64)
        state = self.states[steps % 2]
        logits = np.zeros((1, positions, self._vocab_size), np.float32)
        return (
            {"state": state, "logit_positions": wanted, **self._lengths, **slot.inputs()},
            {"logits": logits, **slot.outputs()},
        )

    def _bind_step(self, number: int) -> Run:
        run = self.steps[number] = self._bind("core", self.core_arrays(number))
        return run

    def _bind_coda(self, parity: int, positions: int) -> tuple[Run, Floats]:
        inputs, outputs = self.coda_arrays(parity, positions)
        logits: Floats = outputs["logits"][0]
        return self._bind("coda", (inputs, outputs)), logits

    def _bind(self, part: str, arrays: tuple[Arrays, Arrays]) -> Run:
        return self._sessions[part].bind(*arrays, self._interrupt)
