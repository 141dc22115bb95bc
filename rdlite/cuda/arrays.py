"""Arrays in the memory of a GPU, and the runners and cache slots that work on them.

Nothing here knows CUDA: `Memory` is what a driver does, and `rdlite.cuda` is one. Copies and graphs
follow each other on one stream, so nothing is waited for but what the host wants to read.
"""

from __future__ import annotations

import copy
import math
import weakref
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rdlite.errors import Interrupted, RuntimeFailure
from rdlite.ort.session import Interrupt, Provider, Run, Session

Host = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
HALF = np.dtype(np.float16)


class Memory(Protocol):
    """What the driver of a device does; addresses are numbers, sizes are in bytes."""

    #: What onnxruntime calls where the memory is, and which of several it is.
    kind: str
    index: int

    def allocate(self, size: int) -> int:
        """Return the address of new memory; raises RuntimeFailure if there is none left."""

    def free(self, address: int) -> None:
        """Give memory back, when what was asked for before is done with it."""

    def clear(self, address: int, size: int) -> None:
        """Fill memory with zeros."""

    def host(self, size: int) -> npt.NDArray[np.uint8]:
        """Return memory of the host that is copied to fast; freed with the array."""

    def upload(self, address: int, array: Host) -> None:
        """Copy a C-contiguous array there; it may be changed as soon as this returns."""

    def download(self, array: Host, address: int) -> None:
        """Copy from there, and wait until it and all before it is done."""

    def copy(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int
    ) -> None:
        """Copy rows of `width` bytes, each so many bytes after the one before."""

    def available(self) -> int:
        """Return the bytes that are free."""

    def capture(self, call: Run) -> Run:
        """Record what a call does, which was made before, without doing it; returns what does it.

        Raises RuntimeFailure if it cannot be recorded.
        """


@dataclass(slots=True)
class Device:
    """Where a model runs if that is not the CPU.

    Attributes:
        name: as users call it.
        memory: of the device.
        provider: what onnxruntime runs graphs with.
        graphs: whether calls of single positions are captured once and then replayed: True, False,
            or None, where that works.
    """

    name: str
    memory: Memory
    provider: Provider
    graphs: bool | None = False

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike = HALF) -> DeviceArray:
        """Return a new array; raises RuntimeFailure if there is no memory left."""
        dtype = np.dtype(dtype)
        address = self.memory.allocate(max(1, math.prod(shape) * dtype.itemsize))
        array = DeviceArray(self.memory, address, shape, dtype)
        weakref.finalize(array, self.memory.free, address)
        return array

    def zeros(self, shape: tuple[int, ...]) -> DeviceArray:
        """Return a new array of zeros.

        Attention multiplies what lies past a text's end by zero, and zero times what is no number
        is none.
        """
        array = self.empty(shape)
        self.memory.clear(array.address, array.nbytes)
        return array


class DeviceArray:
    """A C-contiguous array in a device's memory."""

    def __init__(
        self,
        memory: Memory,
        address: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        owner: DeviceArray | None = None,
    ) -> None:
        """Use `Device.empty`, and `part` of an array, which keeps it alive."""
        self.memory = memory
        self.place = memory.kind, memory.index
        self.address = address
        self.shape = shape
        self.dtype = dtype
        self.nbytes = math.prod(shape) * dtype.itemsize
        self._owner = owner

    def part(self, *indices: int) -> DeviceArray:
        """Return what stands at these leading indices; the same memory."""
        rest = self.shape[len(indices) :]
        number = 0
        for index, size in zip(indices, self.shape, strict=False):
            number = number * size + index
        address = self.address + number * math.prod(rest) * self.dtype.itemsize
        return DeviceArray(self.memory, address, rest, self.dtype, self)

    def rows(self, start: int, end: int) -> DeviceArray:
        """Return what stands from `start` to `end` along the first axis; the same memory."""
        shape = (end - start, *self.shape[1:])
        address = self.address + start * math.prod(shape[1:]) * self.dtype.itemsize
        return DeviceArray(self.memory, address, shape, self.dtype, self)

    def with_axis(self) -> DeviceArray:
        """Return the same memory with a first axis of one."""
        return DeviceArray(self.memory, self.address, (1, *self.shape), self.dtype, self)

    def write(self, values: npt.ArrayLike) -> None:
        """Copy numbers of the same shape there; they are rounded to what the array holds."""
        self.memory.upload(self.address, np.ascontiguousarray(values, self.dtype))

    def read(self) -> Host:
        """Return a copy on the host."""
        result = np.empty(self.shape, self.dtype)
        self.memory.download(result, self.address)
        return result

    def copy_from(self, source: DeviceArray) -> None:
        """Take what another array of the same size holds."""
        self.memory.copy(self.address, self.nbytes, source.address, source.nbytes, self.nbytes, 1)


class Captured:
    """A call that is captured the second time it is made, and replayed from then on."""

    def __init__(self, device: Device, call: Run, interrupt: Interrupt) -> None:
        """Capture nothing yet; `interrupt` ends replays as it ends the call."""
        self._device = device
        self._call = call
        self._interrupt = interrupt
        self._made = False
        self._replay: Run | None = None

    def __call__(self) -> None:
        """Make the call, or replay it."""
        if self._replay is None and not self._capture():
            self._call()
            self._made = True  # one that is cut short may not have all memory that it needs
            return
        if self._interrupt.is_set:
            raise Interrupted
        assert self._replay is not None
        self._replay()

    def _capture(self) -> bool:
        if not self._made or self._device.graphs is False:
            return False
        try:
            self._replay = self._device.memory.capture(self._call)
        except RuntimeFailure:
            if self._device.graphs:
                raise
            self._device.graphs = False  # not here: calls are made as they are
            return False
        return True


class Change:
    """How far the last step moved the states of some positions, worked out when it is asked for."""

    def __init__(
        self,
        device: Device,
        session: Session,
        states: tuple[DeviceArray, ...],
        interrupt: Interrupt,
    ) -> None:
        """Take the states before and after even and odd steps: float16 [B, S, E]."""
        self._result = result = Readback(device, states[0].shape[:2], np.float32)

        def bind(before: DeviceArray, after: DeviceArray) -> Run:
            inputs = {"state": before, "next_state": after}
            run = session.bind(inputs, {"change": result.array}, interrupt)
            return Captured(device, run, interrupt)

        self._runs = bind(*states), bind(*states[::-1])

    def read(self, step: int) -> Host:
        """Return it after step number `step`: float32 [B, S]; overwritten by the next read."""
        self._runs[step % 2]()
        return self._result.read()


class Readback:
    """A small array and the place on the host where it is read, made once."""

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._over(device, device.empty(shape, dtype))

    @classmethod
    def over(cls, device: Device, array: DeviceArray) -> Readback:
        """Return one of an array that is there."""
        readback = cls.__new__(cls)
        readback._over(device, array)
        return readback

    def _over(self, device: Device, array: DeviceArray) -> None:
        self.array = array
        self._host = device.memory.host(array.nbytes).view(array.dtype).reshape(array.shape)

    def first(self, shape: tuple[int, ...]) -> Readback:
        """Return one of fewer numbers in the same places."""
        part = copy.copy(self)
        array = self.array
        part.array = DeviceArray(array.memory, array.address, shape, array.dtype, array)
        part._host = self._host.reshape(-1)[: math.prod(shape)].reshape(shape)
        return part

    def read(self) -> Host:
        """Wait for what writes it and return it; overwritten by the next read."""
        self.array.memory.download(self._host, self.array.address)
        return self._host
