"""Arrays that a session reads while it is made and never again, in memory that is taken back."""

import math
import mmap
import sys
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

#: Elsewhere the system may keep pages that it is told to forget.
CAN_TAKE_BACK = sys.platform == "linux"
#: In bytes, so that no two arrays share a line of the processor's cache.
ALIGNMENT = 64


class LentMemory:
    """Room for some float32 arrays. What is in them is lost when it is taken back."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make it; Linux only."""
        self.arrays: dict[str, npt.NDArray[np.float32]] = {}
        sizes = {name: math.prod(shape) * 4 for name, shape in shapes.items()}
        room = sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes.values())
        if not room:
            return
        self._memory = mmap.mmap(-1, room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        at = 0
        for name, shape in shapes.items():
            flat = np.frombuffer(self._memory, np.float32, sizes[name] // 4, at)
            self.arrays[name] = flat.reshape(shape)
            at += -(-sizes[name] // ALIGNMENT) * ALIGNMENT

    def take_back(self) -> None:
        """Give the pages to the system. Whoever reads the arrays later finds zeros."""
        if self.arrays:
            self._memory.madvise(mmap.MADV_DONTNEED)
