"""Keys and values of past positions: one block of arrays per (graph, slot), grown geometrically."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.cache_scales import CacheScales
from rdlite.config import ModelConfig, check_integer
from rdlite.errors import InputError, RuntimeFailure

FIRST_CAPACITY = 256
FILL_POSITIONS = 16  # that are rescaled at once

Floats = npt.NDArray[np.float32]
Entries = npt.NDArray[np.float32] | npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Cache:
    """What the core keeps of past positions.

    Attributes:
        share: None keeps one slot per step, so that step t of a new position sees what step t of
            the past ones left: exact, and the same however a text is cut into chunks. A number n
            keeps n slots, step t writing slot t mod n, so that memory does not grow with depth;
            what a position sees then depends on which were read together. 1 to 1024.
        bits: None keeps float32 numbers, in prelude and coda too; 8 rounds them to int8, in a
            quarter of the memory. That needs scales, which `rdlite tune` gives a bundle.

    Raises InputError for numbers out of bounds.
    """

    share: int | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        """Check the bounds."""
        if self.share is not None:
            check_integer("share", self.share, 1, 1024)
        if self.bits is not None and (type(self.bits) is not int or self.bits != 8):
            raise InputError(f"bits must be None (float32) or 8 (int8), got {self.bits!r:.40}")

    def slots(self, steps: int) -> int:
        """Number of slots that a depth of `steps` needs."""
        return steps if self.share is None else min(self.share, steps)

    def bytes_per_token(self, config: ModelConfig, steps: int) -> int:
        """Memory that one position takes in all three parts, in bytes."""
        layers = config.layers
        held = layers.prelude + layers.core * self.slots(steps) + layers.coda
        return (4 if self.bits is None else 1) * config.cache_numbers_per_layer * held


class CacheSlot:
    """The cache of a graph's layers: [layers, key/value, 1, K, C, D], updated in place.

    It holds float32 numbers, or with `scales`, float32 [layers, key/value, 1, K, 1, D], int8 ones
    that mean so much each.
    """

    def __init__(
        self, config: ModelConfig, layers: int, capacity: int, scales: Floats | None = None
    ) -> None:
        shape = (layers, 2, 1, config.num_key_value_heads, capacity, config.head_dim)
        self.scales = scales
        self.data = _allocate(shape, np.dtype(np.float32 if scales is None else np.int8))

    def grow(self, capacity: int, used: int) -> None:
        """Move to a larger capacity with the first `used` positions; bindings must be remade."""
        old = self.data
        if old.shape[4] < capacity:
            new = _allocate((*old.shape[:4], capacity, old.shape[5]), old.dtype)
            new[..., :used, :] = old[..., :used, :]
            self.data = new

    def inputs(self) -> dict[str, Entries]:
        """The arrays by the graph's input names."""
        arrays = _named("past_key_values", self.data)
        return arrays if self.scales is None else arrays | _named("cache_scale", self.scales)

    def outputs(self) -> dict[str, Entries]:
        """The same arrays by the graph's output names."""
        return _named("present", self.data)


def _named(prefix: str, arrays: Entries) -> dict[str, Entries]:
    return {
        f"{prefix}.{layer}.{kind}": arrays[layer, index]
        for layer in range(len(arrays))
        for index, kind in enumerate(("key", "value"))
    }


class StepCaches:
    """The core's slots, and for how many positions each is filled.

    A position that left the loop early has no entries for the steps that it did not take; a later
    one that goes deeper sees those of its last step there ("latest"). They are copied when a step
    that needs them is taken for the first time, so a position that all others are as deep as is
    never copied. Slots of int8 entries have scales of their own, so there they are rescaled.
    """

    def __init__(self, config: ModelConfig, cache: Cache, scales: CacheScales | None) -> None:
        """Have no slots yet; `scales` are those of the slots, if they are to be int8."""
        self._config = config
        self._cache = cache
        self._scales = scales
        self._scratch: Floats | None = None
        if scales is not None:
            heads, size = config.num_key_value_heads, config.head_dim
            shape = (config.layers.core, 2, 1, heads, FILL_POSITIONS, size)
            self._scratch = np.empty(shape, np.float32)  # where entries are rescaled
        self.slots: list[CacheSlot] = []
        self._filled: list[int] = []

    def index(self, step: int) -> int:
        """The slot that core step number `step` (from 0) reads and writes."""
        share = self._cache.share
        return step if share is None else step % share

    def provide(self, steps: int, capacity: int) -> None:
        """Make the slots that a depth of `steps` needs."""
        layers, scales = self._config.layers.core, self._scales
        while (index := len(self.slots)) < self._cache.slots(steps):
            slot_scales = None if scales is None else scales.of_slot(index)
            self.slots.append(CacheSlot(self._config, layers, capacity, slot_scales))
            self._filled.append(0)

    def fill(self, step: int, start: int, end: int) -> None:
        """Let a step see all positions before `start`; it will itself write those up to `end`."""
        index = self.index(step)
        filled = self._filled[index]
        if filled < start:
            source, target = self.slots[index - 1], self.slots[index]
            if self._scratch is None:
                target.data[..., filled:start, :] = source.data[..., filled:start, :]
            else:
                _rescale(source, target, filled, start, self._scratch)
        # In a shared slot, positions past `end` may have left what they wrote at other steps.
        self._filled[index] = max(filled, end)

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        self._filled = [min(filled, length) for filled in self._filled]


def _rescale(source: CacheSlot, target: CacheSlot, start: int, end: int, scratch: Floats) -> None:
    """Copy int8 entries of the positions from `start` to `end`, by the target's scales."""
    assert source.scales is not None
    assert target.scales is not None
    for first in range(start, end, FILL_POSITIONS):
        last = min(first + FILL_POSITIONS, end)
        values = scratch[..., : last - first, :]
        np.multiply(source.data[..., first:last, :], source.scales, out=values)
        np.divide(values, target.scales, out=values)
        np.rint(values, out=values)
        np.clip(values, -128, 127, out=values)
        target.data[..., first:last, :] = values


def _allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Entries:
    try:
        return np.empty(shape, dtype)
    except MemoryError:
        raise RuntimeFailure(
            f"there is no memory for another {dtype.itemsize * math.prod(shape):,} bytes of cache "
            f"at {shape[4]} tokens; use a smaller context, fewer steps, or Cache(share=1, bits=8)"
        ) from None


def next_capacity(current: int, needed: int, limit: int) -> int:
    """Return the capacity to grow to: doubled until `needed` fits, never past `limit`."""
    capacity = max(current, min(FIRST_CAPACITY, limit))
    while capacity < needed:
        capacity *= 2
    return min(capacity, limit)
