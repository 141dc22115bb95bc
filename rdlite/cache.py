"""Keys and values of past positions: one block of arrays per (graph, slot), grown geometrically."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from rdlite.cache_scales import CacheScales
from rdlite.config import ModelConfig, check_integer
from rdlite.errors import InputError, RuntimeFailure

FIRST_CAPACITY = 256
FILL_POSITIONS = 16  # that are rescaled at once

Floats = npt.NDArray[np.float32]
#: What a slot holds, on the host: float32, int8 or, of a GPU's, float16.
Entries = npt.NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cache:
    """What the core keeps of past positions.

    Attributes:
        share: None keeps one slot per step, so that step t of a new position sees what step t of
            the past ones left: exact, and the same however a text is cut into chunks. A number n
            keeps n slots, step t writing slot t mod n, so that memory does not grow with depth;
            what a position sees then depends on which were read together. 1 to 1024. "last" keeps
            one slot per step while a prompt is read and then, of every position, what its last
            step left, in one slot; not exact, and the next prompt needs the room again.
        bits: None keeps float32 numbers, in prelude and coda too; 8 rounds them to int8, in a
            quarter of the memory. That needs scales, which `rdlite tune` gives a bundle.

    Raises InputError for numbers out of bounds.
    """

    share: int | Literal["last"] | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        """Check the bounds."""
        if isinstance(self.share, str):
            if self.share != "last":
                raise InputError(f"share must be None, a number or 'last', got {self.share!r:.40}")
        elif self.share is not None:
            check_integer("share", self.share, 1, 1024)
        if self.bits is not None and (type(self.bits) is not int or self.bits != 8):
            raise InputError(f"bits must be None (float32) or 8 (int8), got {self.bits!r:.40}")

    def slots(self, steps: int) -> int:
        """Number of slots that a depth of `steps` needs, at most."""
        return min(self.share, steps) if isinstance(self.share, int) else steps

    def bytes_per_token(self, config: ModelConfig, steps: int) -> int:
        """Memory that one position takes in all three parts, in bytes, at most."""
        layers = config.layers
        held = layers.prelude + layers.core * self.slots(steps) + layers.coda
        return (4 if self.bits is None else 1) * config.cache_numbers_per_layer * held


class Slot(Protocol):
    """The cache of a graph's layers, wherever it lies."""

    #: float32 [layers, key/value, 1, K, 1, D] if it holds int8 numbers, or else None.
    scales: Floats | None

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""

    def grow(self, capacity: int, used: int) -> None:
        """Move to a larger capacity with the first `used` positions; bindings must be remade."""

    def copy_from(self, source: Self, start: int, end: int) -> None:
        """Take the positions from `start` to `end` of another slot."""

    def read(self, start: int, end: int) -> Entries:
        """Return the positions from `start` to `end`: [layers, key/value, 1, K, positions, D]."""

    def write(self, entries: Entries, start: int = 0) -> None:
        """Take positions from `start` on, as `read` gives them."""

    def inputs(self) -> dict[str, Any]:
        """The arrays by the graph's input names."""

    def outputs(self) -> dict[str, Any]:
        """The same arrays by the graph's output names."""


#: Layers, capacity, scales -> a slot.
MakeSlot = Callable[[int, int, Floats | None], Slot]


class CacheSlot:
    """The cache of a graph's layers: [layers, key/value, 1, K, C, D], updated in place.

    It holds float32 numbers, or with `scales`, float32 [layers, key/value, 1, K, 1, D], int8 ones
    that mean so much each.
    """

    def __init__(
        self,
        config: ModelConfig,
        layers: int,
        capacity: int,
        scales: Floats | None = None,
        scratch: Floats | None = None,
    ) -> None:
        shape = (layers, 2, 1, config.num_key_value_heads, capacity, config.head_dim)
        self.scales = scales
        self._scratch = scratch  # where entries are rescaled
        self.data = _allocate(shape, np.dtype(np.float32 if scales is None else np.int8))

    def grow(self, capacity: int, used: int) -> None:
        """Move to a larger capacity with the first `used` positions; bindings must be remade."""
        old = self.data
        if old.shape[4] < capacity:
            new = _allocate((*old.shape[:4], capacity, old.shape[5]), old.dtype)
            new[..., :used, :] = old[..., :used, :]
            self.data = new

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.data.nbytes

    def copy_from(self, source: "CacheSlot", start: int, end: int) -> None:
        """Take the positions from `start` to `end` of another slot."""
        if self._scratch is None:
            self.data[..., start:end, :] = source.data[..., start:end, :]
        else:
            _rescale(source, self, start, end, self._scratch)

    def read(self, start: int, end: int) -> Entries:
        """Return the positions from `start` to `end`; a view."""
        return self.data[..., start:end, :]

    def write(self, entries: Entries, start: int = 0) -> None:
        """Take positions from `start` on."""
        self.data[..., start : start + entries.shape[4], :] = entries

    def inputs(self) -> dict[str, Entries]:
        """The arrays by the graph's input names."""
        arrays = _named("past_key_values", self.data)
        return arrays if self.scales is None else arrays | _named("cache_scale", self.scales)

    def outputs(self) -> dict[str, Entries]:
        """The same arrays by the graph's output names."""
        return _named("present", self.data)


class HostSlots:
    """Makes slots in this machine's memory; those of int8 numbers share room to be rescaled in."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._scratch: Floats | None = None

    def __call__(self, layers: int, capacity: int, scales: Floats | None) -> CacheSlot:
        """Return a slot for so many layers and positions."""
        config = self._config
        if scales is not None and self._scratch is None:
            heads, size = config.num_key_value_heads, config.head_dim
            shape = (config.layers.core, 2, 1, heads, FILL_POSITIONS, size)
            self._scratch = np.empty(shape, np.float32)
        return CacheSlot(config, layers, capacity, scales, self._scratch)


def named_layers(prefix: str, layers: int, part: Callable[[int, int], T]) -> dict[str, T]:
    """Return the keys and values of layers, `part(layer, 0 or 1)`, by their names in a graph."""
    return {
        f"{prefix}.{layer}.{kind}": part(layer, index)
        for layer in range(layers)
        for index, kind in enumerate(("key", "value"))
    }


def _named(prefix: str, arrays: Entries) -> dict[str, Entries]:
    return named_layers(prefix, len(arrays), lambda layer, index: arrays[layer, index])


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
        self._layers = config.layers.core
        self._scales = scales
        self._make = make
        self.slots: list[Slot] = []
        self._filled: list[int] = []
        #: How many slots the steps take turns in; None: each has its own.
        self._turns = cache.share if isinstance(cache.share, int) else None
        self.gathered = False

    def index(self, step: int) -> int:
        """The slot that core step number `step` (from 0) reads and writes."""
        return step if self._turns is None else step % self._turns

    def provide(self, steps: int, capacity: int) -> None:
        """Make the slots that a depth of `steps` needs."""
        wanted = steps if self._turns is None else min(self._turns, steps)
        while (index := len(self.slots)) < wanted:
            scales = None if self._scales is None else self._scales.of_slot(index)
            self.slots.append(self._slot(capacity, scales))
            self._filled.append(0)

    def _slot(self, capacity: int, scales: Floats | None) -> Slot:
        return self._make(self._layers, capacity, scales)

    @property
    def nbytes(self) -> int:
        """Memory of all slots."""
        return sum(slot.nbytes for slot in self.slots)

    def fill(self, step: int, start: int, end: int) -> None:
        """Let a step see all positions before `start`; it will itself write those up to `end`."""
        index = self.index(step)
        filled = self._filled[index]
        if filled < start:
            self.slots[index].copy_from(self.slots[index - 1], filled, start)
        # In a shared slot, positions past `end` may have left what they wrote at other steps.
        self._filled[index] = max(filled, end)

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        self._filled = [min(filled, length) for filled in self._filled]

    def entries(self) -> list[Entries]:
        """Return what is filled of each slot: [layers, key/value, 1, K, positions, D]."""
        pairs = zip(self.slots, self._filled, strict=True)
        return [slot.read(0, filled) for slot, filled in pairs]

    def restore(self, entries: Sequence[Entries], gathered: bool, capacity: int) -> None:
        """Take what `entries` gave; nothing is filled yet, and shapes and dtypes are right."""
        self.slots, self._filled = [], []
        if gathered:
            scales = None if self._scales is None else self._scales.shared(1).of_slot(0)
            self.slots, self._filled = [self._slot(capacity, scales)], [0]
            self._turns, self.gathered = 1, True
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
            self.fill(step, length, length)
        kept = self.slots[deepest]
        if self._scales is not None:  # all steps must fit
            last, kept = kept, self._slot(capacity, self._scales.shared(1).of_slot(0))
            kept.copy_from(last, 0, length)
        self.slots, self._filled = [kept], [length]
        self._turns, self.gathered = 1, True

    def spread(self, length: int, capacity: int) -> None:
        """Give each step a slot of its own again, that starts from what was kept."""
        (kept,) = self.slots
        self._turns, self.gathered = None, False
        if self._scales is not None:
            self.slots = [self._slot(capacity, self._scales.of_slot(0))]
            self.slots[0].copy_from(kept, 0, length)


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
