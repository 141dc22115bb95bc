"""KV cache slots in a GPU's memory."""

from __future__ import annotations

from rdlite.config.model import ModelConfig
from rdlite.cuda.arrays import HALF, Device, DeviceArray, Floats
from rdlite.ort.kv_cache import Entries, MakeSlot, named_layers


class DeviceCacheSlot:
    """The cache of a graph's layers: float16 [layers, key/value, B, K, C, D] on the device.

    B is 1, or how many texts have a lane in the same memory; a slot is one lane of it.
    """

    def __init__(self, device: Device, data: DeviceArray, lane: int = 0, name: str = "") -> None:
        self.scales: Floats | None = None
        self.name = name
        self._device = device
        self._lane = lane
        self.data = data

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.data.nbytes // self.data.shape[2]

    def grow(self, capacity: int, used: int) -> None:
        """Move to a larger capacity with the first `used` positions; bindings must be remade."""
        old = self.data
        if old.shape[4] < capacity:
            self.data = self._device.zeros((*old.shape[:4], capacity, old.shape[5]))
            self.copy_from(DeviceCacheSlot(self._device, old), 0, used)

    def copy_from(self, source: DeviceCacheSlot, start: int, end: int) -> None:
        """Take the positions from `start` to `end` of another slot."""
        blocks = zip(self._blocks(source), source._blocks(self), strict=True)
        for (target, rows), (origin, _) in blocks:
            self._copy(target, self._pitch, origin, source._pitch, start, start, end - start, rows)

    def read(self, start: int, end: int) -> Entries:
        """Return the positions from `start` to `end`, on the host."""
        packed = self._packed(end - start)
        for (target, rows), (origin, _) in zip(
            packed._blocks(self), self._blocks(packed), strict=True
        ):
            self._copy(target, packed._pitch, origin, self._pitch, 0, start, end - start, rows)
        entries: Entries = packed.data.read()
        return entries

    def write(self, entries: Entries, start: int = 0) -> None:
        """Take positions from `start` on, from the host."""
        count = entries.shape[4]
        packed = self._packed(count)
        packed.data.write(entries)
        for (target, rows), (origin, _) in zip(
            self._blocks(packed), packed._blocks(self), strict=True
        ):
            self._copy(target, self._pitch, origin, packed._pitch, start, 0, count, rows)

    def inputs(self) -> dict[str, DeviceArray]:
        """The arrays by the graph's input names."""
        return self._named("past_key_values")

    def outputs(self) -> dict[str, DeviceArray]:
        """The same arrays by the graph's output names."""
        return self._named("present")

    def _named(self, prefix: str) -> dict[str, DeviceArray]:
        def lane(layer: int, kind: int) -> DeviceArray:
            return self.data.part(layer, kind, self._lane).with_axis()

        return named_layers(prefix, self.data.shape[0], lane)

    @property
    def _pitch(self) -> int:
        """Numbers of one head."""
        return self.data.shape[4] * self.data.shape[5]

    def _packed(self, positions: int) -> DeviceCacheSlot:
        layers, _, _, heads, _, size = self.data.shape
        data = self._device.empty((layers, 2, 1, heads, positions, size))
        return DeviceCacheSlot(self._device, data)

    def _blocks(self, other: DeviceCacheSlot) -> list[tuple[int, int]]:
        """Return address and heads of what lies evenly, in this slot and in the other one."""
        layers, _, lanes, heads, _, _ = self.data.shape
        if lanes == other.data.shape[2] == 1:
            return [(self.data.address, layers * 2 * heads)]
        return [
            (self.data.part(layer, kind, self._lane).address, heads)
            for layer in range(layers)
            for kind in (0, 1)
        ]

    def _copy(
        self,
        target: int,
        target_pitch: int,
        source: int,
        source_pitch: int,
        to: int,
        start: int,
        count: int,
        rows: int,
    ) -> None:
        """Copy `count` positions of so many heads; pitches are in numbers."""
        size, item = self.data.shape[5], HALF.itemsize
        if count and rows:
            self._device.memory.copy(
                target + to * size * item,
                target_pitch * item,
                source + start * size * item,
                source_pitch * item,
                count * size * item,
                rows,
            )


def device_slots(device: Device, config: ModelConfig) -> MakeSlot:
    """Return what makes slots on a device."""

    def make(name: str, layers: int, capacity: int, _: Floats | None) -> DeviceCacheSlot:
        shape = (layers, 2, 1, config.num_key_value_heads, capacity, config.head_dim)
        return DeviceCacheSlot(device, device.zeros(shape), name=name)

    return make
