"""KV cache slots in a GPU's memory."""

from __future__ import annotations

from rdlite.config.model import ModelConfig
from rdlite.cuda.arrays import HALF, Device, DeviceArray, Floats
from rdlite.ort.kv_cache import Entries, MakeSlot, named_layers


class DeviceCacheSlot:
    """The cache of a graph's layers: float16 [layers, key/value, 1, K, C, D] on the device."""

    def __init__(self, device: Device, config: ModelConfig, layers: int, capacity: int) -> None:
        self.scales: Floats | None = None
        self._device = device
        shape = (layers, 2, 1, config.num_key_value_heads, capacity, config.head_dim)
        self.data = device.empty(shape)

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.data.nbytes

    def grow(self, capacity: int, used: int) -> None:
        """Move to a larger capacity with the first `used` positions; bindings must be remade."""
        old = self.data
        if old.shape[4] < capacity:
            self.data = self._device.empty((*old.shape[:4], capacity, old.shape[5]))
            self._copy(old, 0, used)

    def copy_from(self, source: DeviceCacheSlot, start: int, end: int) -> None:
        """Take the positions from `start` to `end` of another slot."""
        self._copy(source.data, start, end)

    def read(self, start: int, end: int) -> Entries:
        """Return the positions from `start` to `end`, on the host."""
        layers, _, _, heads, capacity, size = self.data.shape
        packed = self._device.empty((layers, 2, 1, heads, end - start, size))
        width, item = (end - start) * size, HALF.itemsize
        if width:
            source = self.data.address + start * size * item
            self._device.memory.copy(
                packed.address,
                width * item,
                source,
                capacity * size * item,
                width * item,
                layers * 2 * heads,
            )
        entries: Entries = packed.read()
        return entries

    def write(self, entries: Entries, start: int = 0) -> None:
        """Take positions from `start` on, from the host."""
        layers, _, _, heads, capacity, size = self.data.shape
        rows = entries.shape[4] * size
        packed = self._device.empty(entries.shape)
        packed.write(entries)
        self._rows(packed, 0, rows, start * size, capacity * size, rows, layers * 2 * heads)

    def inputs(self) -> dict[str, DeviceArray]:
        """The arrays by the graph's input names."""
        return self._named("past_key_values")

    def outputs(self) -> dict[str, DeviceArray]:
        """The same arrays by the graph's output names."""
        return self._named("present")

    def _named(self, prefix: str) -> dict[str, DeviceArray]:
        return named_layers(prefix, self.data.shape[0], self.data.part)

    def _copy(self, source: DeviceArray, start: int, end: int) -> None:
        layers, _, _, heads, capacity, size = self.data.shape
        first, pitch = start * size, source.shape[4] * size
        count = layers * 2 * heads
        self._rows(source, first, pitch, first, capacity * size, (end - start) * size, count)

    def _rows(
        self,
        source: DeviceArray,
        source_first: int,
        source_pitch: int,
        first: int,
        pitch: int,
        width: int,
        rows: int,
    ) -> None:
        """Copy rows of so many numbers."""
        if width and rows:
            item = HALF.itemsize
            self._device.memory.copy(
                self.data.address + first * item,
                pitch * item,
                source.address + source_first * item,
                source_pitch * item,
                width * item,
                rows,
            )


def device_slots(device: Device, config: ModelConfig) -> MakeSlot:
    """Return what makes slots on a device."""
    return lambda layers, capacity, scales: DeviceCacheSlot(device, config, layers, capacity)
