"""Keys and values of past positions: one block of arrays per (graph, slot), grown geometrically."""

from collections.abc import Sequence

from rdlite.bundle.cache_scales import CacheScales
from rdlite.config.cache import Cache
from rdlite.config.model import ModelConfig
from rdlite.ort.kv_cache import Entries, Floats, MakeSlot, Slot


class StepCaches:
    """The core's slots, and for how many positions each is filled.

    A position that left the loop early has no entries for the steps that it did not take; a later
    one that goes deeper sees those of its last step there ("latest"). They are copied when a step
    that needs them is taken for the first time, so a position that all others are as deep as is
    never copied. Slots of int8 entries have scales of their own, so there they are rescaled.
    """

    def __init__(
        self, config: ModelConfig, cache: Cache, scales: CacheScales | None, make: MakeSlot
    ) -> None:
        """Have no slots yet; `scales` are those of the slots, if they are to be int8."""
        #: Of the core.
        self.layers = config.layers.core
        self._scales = scales
        self._make = make
        self.slots: list[Slot] = []
        self._filled: list[int] = []
        #: How many slots the steps take turns in; None: each has its own.
        self._ring_size = cache.share if isinstance(cache.share, int) else None
        self.gathered = False

    def index(self, step: int) -> int:
        """The slot that core step number `step` (from 0) reads and writes."""
        return step if self._ring_size is None else step % self._ring_size

    def provide(self, steps: int, capacity: int) -> None:
        """Make the slots that a depth of `steps` needs."""
        wanted = steps if self._ring_size is None else min(self._ring_size, steps)
        while (index := len(self.slots)) < wanted:
            scales = None if self._scales is None else self._scales.of_slot(index)
            self.slots.append(self._slot(capacity, scales, index))
            self._filled.append(0)

    def move(self, make: MakeSlot, capacity: int) -> None:
        """Go on in slots of another making, of float numbers; what is filled is copied.

        Without capacity nothing is filled, and there are no slots.
        """
        held, moved = zip(self.slots, self._filled, strict=True), list[Slot]()
        for index, (slot, filled) in enumerate(held if capacity else ()):
            moved.append(make(f"core.{index}", self.layers, capacity, None))
            if filled:
                moved[-1].copy_from(slot, 0, filled)
        self._make, self.slots = make, moved
        self._filled = self._filled[: len(moved)]

    def _slot(self, capacity: int, scales: Floats | None, index: int = 0) -> Slot:
        return self._make(f"core.{index}", self.layers, capacity, scales)

    @property
    def nbytes(self) -> int:
        """Memory of all slots."""
        return sum(slot.nbytes for slot in self.slots)

    def backfill(self, step: int, start: int, end: int) -> None:
        """Copy the previous step's entries for positions before `start` that exited early.

        The step itself will write those up to `end`.
        """
        index = self.index(step)
        filled = self._filled[index]
        if filled < start:
            self.slots[index].copy_from(self.slots[index - 1], filled, start)
        # In a shared slot, positions past `end` may have left what they wrote at other steps.
        self._filled[index] = max(filled, end)

    def may_overshoot(self, first: int, end: int, position: int) -> bool:
        """Whether steps may be taken at a position, and some of the last of them taken back.

        Each has a slot of its own then, and holds nothing of this position or those after it.
        """
        return self._ring_size is None and max(self._filled[first:end]) <= position

    def take_back(self, first: int, end: int, position: int) -> None:
        """Forget what such steps have written."""
        for index in range(first, end):
            self._filled[index] = min(self._filled[index], position)

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        self._filled = [min(filled, length) for filled in self._filled]

    def entries(self, end: int) -> list[Entries]:
        """Return what is filled of each slot up to a position: [layers, key/value, 1, K, n, D]."""
        pairs = zip(self.slots, self._filled, strict=True)
        return [slot.read(0, min(filled, end)) for slot, filled in pairs]

    def restore(self, entries: Sequence[Entries], gathered: bool, capacity: int) -> None:
        """Take what `entries` gave; nothing is filled yet, and shapes and dtypes are right."""
        self.slots, self._filled = [], []
        if gathered:
            scales = None if self._scales is None else self._scales.shared(1).of_slot(0)
            self.slots, self._filled = [self._slot(capacity, scales)], [0]
            self._ring_size, self.gathered = 1, True
        self.provide(len(entries), capacity)
        for slot, kept in zip(self.slots, entries, strict=True):
            slot.write(kept)
        self._filled = [kept.shape[4] for kept in entries]

    def gather(self, length: int, capacity: int) -> None:
        """Keep of `length` positions what their last steps left; one slot serves all steps now."""
        if not any(self._filled):
            return
        deepest = max(index for index, filled in enumerate(self._filled) if filled)
        for step in range(1, deepest + 1):
            self.backfill(step, length, length)
        kept = self.slots[deepest]
        if self._scales is not None:  # all steps must fit
            last, kept = kept, self._slot(capacity, self._scales.shared(1).of_slot(0))
            kept.copy_from(last, 0, length)
        self.slots, self._filled = [kept], [length]
        self._ring_size, self.gathered = 1, True

    def spread(self, length: int, capacity: int) -> None:
        """Give each step a slot of its own again, that starts from what was kept."""
        (kept,) = self.slots
        self._ring_size, self.gathered = None, False
        if self._scales is not None:
            self.slots = [self._slot(capacity, self._scales.of_slot(0))]
            self.slots[0].copy_from(kept, 0, length)
