"""Three sessions, and sequences that read positions through them.

The engine knows ids, states and caches, and nothing of text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rdlite.engine.engine import Engine
from rdlite.ort.kv_cache import Entries, MakeSlot, Slot, next_capacity
from rdlite.ort.runner import Runner, keeps_logits
from rdlite.ort.session import Interrupt, Session
from rdlite.ort.staggered_runner import Seat, StaggeredRunner
from rdlite.ort.step_caches import StepCaches
from rdlite.ort.text import Desk, Floats
from rdlite.utils.memory import check_growth

MAX_RUNNERS = 64  # one for every size, since positions of a chunk may leave one by one


class Sequence:
    """One text being read: its caches and how many positions are in them. Not thread-safe.

    Positions are read a group at a time: `begin` runs the prelude, the runner's `step` runs the
    core, `logits` runs the coda, and `commit` keeps what they wrote to the caches. Rolling back is
    `truncate`: what lies past the length is never looked at.
    """

    def __init__(self, engine: Engine, context: int) -> None:
        self.engine = engine
        self.config = engine.config
        self.sessions: Mapping[str, Session] = engine.sessions
        self.context = context
        self.length = 0
        self.capacity = 0
        self._pending = 0  # positions that were read and not committed
        #: Ends what runs on this text, from another thread.
        self.interrupt = Interrupt()
        self.desk = Desk()
        #: Its place among others on a GPU, while it is worked on beside them.
        self.lane: Any = None
        self.seqlens_k = np.zeros(1, np.int32)
        self.total_sequence_length = np.zeros((), np.int32)
        self._make_slot = engine.slots()
        self.steps_cache = StepCaches(engine.config, engine.cache, engine.scales, self._make_slot)
        self._outer_slots: dict[str, Slot] = {}
        self._runners: dict[tuple[int, bool], Runner] = {}
        self._staggered: StaggeredRunner | None = None
        self._rows = np.zeros((3, 1, 0, engine.config.hidden_size), np.float32)
        self._logits = np.zeros((1, 0, engine.config.vocab_size), np.float32)

    def runner(self, position: int, size: int, steps: int, by_rows: bool = False) -> Runner:
        """Return the runner of `size` positions from `position` on, ready for up to `steps` steps.

        It is good until the next runner is asked for. With `by_rows`, where the engine can, each
        position gets the bits that it would get alone.
        """
        self._make_room(position + size, steps)
        key = size, by_rows or size == 1
        runner = self._runners.pop(key, None)
        if runner is None:
            if len(self._runners) >= MAX_RUNNERS:
                del self._runners[next(iter(self._runners))]
            runner = self.engine.runner(self, *key)
        self._runners[key] = runner  # in the order of last use
        runner.prepare(steps)
        runner.place(position)
        return runner

    def begin(self, ids: list[int], steps: int) -> Runner:
        """Run the prelude on the next positions and return the runner that reads them.

        The caller writes the initial states to `runner.states[0]` and then takes `runner.step(0)`,
        `runner.step(1)` and so on.

        Args:
            ids: token ids, S of them, at least one, that fit in the context.
            steps: the most core steps that will be run on them.
        """
        self.drop_pending()
        self._pending = len(ids)
        runner = self.runner(self.length, len(ids), steps)
        runner.put_ids(ids)
        runner.prelude()
        return runner

    def staggered(self, seats: int, steps: int) -> StaggeredRunner:
        """Return a runner of so many seats, for `seat` to fill; `engine.rows` must take rows.

        Args:
            seats: how many positions may be read at once, each at a depth of its own.
            steps: the most core steps that will be run on them.
        """
        self.drop_pending()
        self._make_room(self.length + 1, steps)
        runner = self._staggered
        if runner is None or len(runner.seats) < seats:
            runner = self._staggered = self.engine.staggered(self, seats)
        return runner

    def seat(self, seat: Seat, token: int, steps: int) -> None:
        """Let a seat of that runner be the next position, and run the prelude on it.

        The caller writes its initial state, and commits it when those before it are committed.
        """
        assert self._staggered is not None
        seat.begin(self.end, token)
        self._pending += 1
        self._make_room(self.end, steps)
        self._staggered.prelude(seat)

    def commit(self, count: int) -> None:
        """Keep the first `count` positions of the group that was read last."""
        self.length += count
        self._pending -= count

    @property
    def end(self) -> int:
        """Behind the last position that was read, committed or not."""
        return self.length + self._pending

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
        outer = {part: slot.read(0, end) for part, slot in self._outer_slots.items()}
        core = enumerate(self.steps_cache.entries(end))
        return {**outer, **{f"core.{index}": kept for index, kept in core}}

    def restore(self, entries: Mapping[str, Entries], length: int, gathered: bool) -> None:
        """Take what `entries` gave for so many positions; their shapes and dtypes are right."""
        self.truncate(0)
        self._drop_runners()
        self._make_room(length, 0)
        for part in ("prelude", "coda"):
            self._outer_slots[part].write(entries[part])
        core = [entries[f"core.{index}"] for index in range(len(entries) - 2)]
        self.steps_cache.restore(core, gathered, self.capacity)
        self.length = length

    def move(self, make_slot: MakeSlot | None, capacity: int = 0) -> None:
        """Go on in slots of another making; what was read so far is copied.

        Args:
            make_slot: makes them; None: the engine's own.
            capacity: positions that they are to have room for; more if there are more already.

        Raises RuntimeFailure if there is no memory for them; then all is as it was.
        """
        make, outer = make_slot or self.engine.slots(), dict[str, Slot]()
        if self.length:
            capacity = max(capacity, next_capacity(0, self.length, self.context))
        if capacity:
            for part in ("prelude", "coda"):
                outer[part] = make(part, getattr(self.config.layers, part), capacity, None)
                if self.length:
                    outer[part].copy_from(self._outer_slots[part], 0, self.length)
        self.steps_cache.move(make, capacity)
        self._drop_runners()
        self._make_slot, self._outer_slots, self.capacity = make, outer, capacity

    def gather(self, always: bool = False) -> None:
        """With `Cache(share="last")`, or always, go on with what each position's last step left."""
        share = self.engine.cache.share
        wanted = share == "last" or (always and share is None)
        if wanted and not self.steps_cache.gathered:
            self._drop_runners()  # they are bound to slots that go
            self.steps_cache.gather(self.length, self.capacity)

    def spread(self) -> None:
        """Undo `gather` as far as it can be undone: new positions keep every step again."""
        if self.steps_cache.gathered:
            self._drop_runners()
            self.steps_cache.spread(self.length, self.capacity)

    def outer_slot(self, part: str) -> Slot:
        """The cache of the prelude or the coda."""
        return self._outer_slots[part]

    @property
    def cache_bytes(self) -> int:
        """Memory of all caches."""
        return sum(slot.nbytes for slot in self._all_slots())

    def rows(self, size: int) -> list[Floats]:
        """Room for three float32 [1, size, E]; runners share it, as one is used at a time."""
        _, _, held, width = self._rows.shape
        if size > held:
            self._rows = np.zeros((3, 1, 1 << (size - 1).bit_length(), width), np.float32)
        return [block[:, :size] for block in self._rows]

    def logit_rows(self, positions: int) -> Floats:
        """Room for float32 [1, positions, V], shared like `rows` up to `KEPT_LOGIT_BYTES`."""
        _, held, width = self._logits.shape
        if positions > held:
            room = np.empty((1, 1 << (positions - 1).bit_length(), width), np.float32)
            if not keeps_logits(positions, width):
                return room[:, :positions]
            self._logits = room
        return self._logits[:, :positions]

    def _all_slots(self) -> tuple[Slot, ...]:
        return (*self.steps_cache.slots, *self._outer_slots.values())

    def _drop_runners(self) -> None:
        self._runners.clear()
        if self._staggered is not None:
            self._staggered.rebind()

    def _growth(self, capacity: int, steps: int) -> int:
        """Bytes that caches of so many positions take beyond those that there are."""
        cache = self.engine.cache
        per_token = cache.bytes_per_token(self.config, max(steps, len(self.steps_cache.slots)))
        return capacity * per_token - self.cache_bytes

    def _make_room(self, needed: int, steps: int) -> None:
        layers, capacity = self.config.layers, self.capacity
        if needed > capacity:
            capacity = next_capacity(capacity, needed, self.context)
        more_slots = self.engine.cache.slots(steps) > len(self.steps_cache.slots)
        on_host = self.engine.device is None
        if on_host and (capacity > self.capacity or (more_slots and not self.steps_cache.gathered)):
            check_growth(capacity, self._growth(capacity, steps))
        if capacity > self.capacity:
            self._drop_runners()  # first: they hold the old arrays
            for slot in self._all_slots():
                slot.grow(capacity, min(self.end, self.capacity))
            for part in ("prelude", "coda"):
                if part not in self._outer_slots:
                    count = getattr(layers, part)
                    scales = getattr(self.engine.scales, part, None)
                    self._outer_slots[part] = self._make_slot(part, count, capacity, scales)
            self.capacity = capacity  # last: should memory run out, the next call starts over
        self.steps_cache.provide(steps, self.capacity)
