"""Keys and values of past positions: one block of arrays per (graph, slot), grown geometrically."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rdlite.config import ModelConfig, check_integer
from rdlite.errors import RuntimeFailure

FIRST_CAPACITY = 256


@dataclass(frozen=True, slots=True)
class Cache:
    """What the core keeps of past positions.

    Attributes:
        share: None keeps one slot per step, so that step t of a new position sees what step t of
            the past ones left: exact, and the same however a text is cut into chunks. A number n
            keeps n slots, step t writing slot t mod n, so that memory does not grow with depth;
            what a position sees then depends on which were read together. 1 to 1024.

    Raises InputError for numbers out of bounds.
    """

    share: int | None = None

    def __post_init__(self) -> None:
        """Check the bounds."""
        if self.share is not None:
            check_integer("share", self.share, 1, 1024)

    def slots(self, steps: int) -> int:
        """Number of slots that a depth of `steps` needs."""
        return steps if self.share is None else min(self.share, steps)

    def bytes_per_token(self, config: ModelConfig, steps: int) -> int:
        """Memory that one position takes in all three parts, in bytes."""
        layers = config.layers
        held = layers.prelude + layers.core * self.slots(steps) + layers.coda
        return 4 * config.cache_floats_per_layer * held


class CacheSlot:
    """The cache of a graph's layers: float32 [layers, key/value, 1, K, C, D], updated in place."""

    def __init__(self, config: ModelConfig, layers: int, capacity: int) -> None:
        shape = (layers, 2, 1, config.num_key_value_heads, capacity, config.head_dim)
        self.data = _allocate(shape)

    def grow(self, capacity: int, used: int) -> None:
        """Move to a larger capacity with the first `used` positions; bindings must be remade."""
        old = self.data
        if old.shape[4] < capacity:
            new = _allocate((*old.shape[:4], capacity, old.shape[5]))
            new[..., :used, :] = old[..., :used, :]
            self.data = new

    def inputs(self) -> dict[str, npt.NDArray[np.float32]]:
        """The arrays by the graph's input names."""
        return self._named("past_key_values")

    def outputs(self) -> dict[str, npt.NDArray[np.float32]]:
        """The same arrays by the graph's output names."""
        return self._named("present")

    def _named(self, prefix: str) -> dict[str, npt.NDArray[np.float32]]:
        return {
            f"{prefix}.{layer}.{kind}": self.data[layer, index]
            for layer in range(self.data.shape[0])
            for index, kind in enumerate(("key", "value"))
        }


class StepCaches:
    """The core's slots, and for how many positions each is filled.

    A position that left the loop early has no entries for the steps that it did not take; a later
    one that goes deeper sees those of its last step there ("latest"). They are copied when a step
    that needs them is taken for the first time, so a position that all others are as deep as is
    never copied.
    """

    def __init__(self, config: ModelConfig, cache: Cache) -> None:
        self._config = config
        self._cache = cache
        self.slots: list[CacheSlot] = []
        self._filled: list[int] = []

    def index(self, step: int) -> int:
        """The slot that core step number `step` (from 0) reads and writes."""
        share = self._cache.share
        return step if share is None else step % share

    def provide(self, steps: int, capacity: int) -> None:
        """Make the slots that a depth of `steps` needs."""
        while len(self.slots) < self._cache.slots(steps):
            self.slots.append(CacheSlot(self._config, self._config.layers.core, capacity))
            self._filled.append(0)

    def fill(self, step: int, start: int, end: int) -> None:
        """Let a step see all positions before `start`; it will itself write those up to `end`."""
        index = self.index(step)
        filled = self._filled[index]
        if filled < start:
            source, target = self.slots[index - 1].data, self.slots[index].data
            target[..., filled:start, :] = source[..., filled:start, :]
        # In a shared slot, positions past `end` may have left what they wrote at other steps.
        self._filled[index] = max(filled, end)

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        self._filled = [min(filled, length) for filled in self._filled]


def _allocate(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    try:
        return np.empty(shape, np.float32)
    except MemoryError:
        raise RuntimeFailure(
            f"there is no memory for another {4 * math.prod(shape):,} bytes of cache at "
            f"{shape[4]} tokens; use a smaller context, fewer steps, or Cache(share=1)"
        ) from None


def next_capacity(current: int, needed: int, limit: int) -> int:
    """Return the capacity to grow to: doubled until `needed` fits, never past `limit`."""
    capacity = max(current, min(FIRST_CAPACITY, limit))
    while capacity < needed:
        capacity *= 2
    return min(capacity, limit)
