"""The KV cache of one (graph, step): one block of arrays, grown by doubling."""

import math
from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from rdlite.config.model import ModelConfig
from rdlite.errors import RuntimeFailure

FIRST_CAPACITY = 256
FILL_POSITIONS = 16  # that are rescaled at once
Floats = npt.NDArray[np.float32]
#: What a slot holds, on the host: float32, int8 or, of a GPU's, float16.
Entries = npt.NDArray[Any]
T = TypeVar("T")


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


#: Name ("prelude", "coda", "core.0" and so on), layers, capacity, scales -> a slot.
MakeSlot = Callable[[str, int, int, Floats | None], Slot]


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

    def __call__(self, name: str, layers: int, capacity: int, scales: Floats | None) -> CacheSlot:
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
