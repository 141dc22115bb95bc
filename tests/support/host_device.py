"""A device whose memory is the host's: everything but CUDA itself can be tested with it.

Graphs are those for CUDA, run by onnxruntime on the CPU; arrays are reached by address alone. With
RDLITE_TEST_DEVICE=cuda the same tests run on a GPU.
"""

import ctypes
import os

import numpy as np

from rdlite.cuda.arrays import Device
from rdlite.ort.session import Provider

QUESTIONS = [
    "What is 48 + 76?",
    "a = 7, b = a + 5, c = b * 3, d = c - 4, e = d * 7; what is e mod 10?",
    "Tom has 5 pens. Eats 4. Finds 9. How many pens now?",
]
POISON = 0x7F  # float16 of it is not a number, and an index of it is out of bounds


class HostMemory:
    kind, index = "cpu", 0

    def __init__(self):
        self.blocks, self.most, self.captured = {}, 2**40, 0

    def allocate(self, size):
        from rdlite.errors import RuntimeFailure

        if sum(map(len, self.blocks.copy().values())) + size > self.most:
            raise RuntimeFailure(f"there is no memory for another {size} bytes")
        block = (ctypes.c_uint8 * (size + 64))()
        ctypes.memset(block, POISON, size + 64)
        address = -(-ctypes.addressof(block) // 64) * 64
        self.blocks[address] = block
        return address

    def free(self, address):
        block = self.blocks.pop(address)
        ctypes.memset(block, POISON, len(block))

    def clear(self, address, size):
        self._inside(address, size)
        ctypes.memset(address, 0, size)

    def host(self, size):
        return np.full(size, POISON, np.uint8)

    def upload(self, address, array):
        assert array.flags.c_contiguous
        self._inside(address, array.nbytes)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array, address):
        assert array.flags.c_contiguous
        self._inside(address, array.nbytes)
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def copy(self, target, target_pitch, source, source_pitch, width, rows):
        assert 0 < width <= min(target_pitch, source_pitch)
        for row in range(rows):
            to, origin = target + row * target_pitch, source + row * source_pitch
            self._inside(to, width)
            self._inside(origin, width)
            ctypes.memmove(to, origin, width)

    def available(self):
        return self.most - sum(map(len, self.blocks.copy().values()))

    def capture(self, call):
        self.captured += 1
        return call

    def _inside(self, address, size):
        assert any(
            start <= address and address + size <= ctypes.addressof(block) + len(block)
            for start, block in self.blocks.copy().items()  # some are freed at any moment
        ), "outside of all arrays"


def host_device(graphs=False):
    """Return it, or a GPU if that is asked for."""
    if os.environ.get("RDLITE_TEST_DEVICE") == "cuda":
        from rdlite import Cuda
        from rdlite.cuda.runtime import open_cuda

        return open_cuda(Cuda(graphs=graphs))
    return Device("host", HostMemory(), Provider(), graphs)


def on_device(path="nano", cache=None, device=None):
    """Load a bundle for a device of this machine's memory."""
    from rdlite import Cache
    from rdlite.api.model import Model
    from rdlite.loader import open_bundle

    bundle = open_bundle(path)
    cache = cache or Cache()
    return Model(bundle, None, bundle.config.context_length, cache, device or host_device())
