"""Which GPU to run on, as a user says it."""

from __future__ import annotations

from dataclasses import dataclass

from rdlite.errors import InputError
from rdlite.utils.checks import check_integer


@dataclass(frozen=True, slots=True)
class Cuda:
    """Run on an NVIDIA GPU: `rdlite.load(device=rdlite.Cuda(...))`; "cuda" is `Cuda()`.

    Attributes:
        index: which of several, 0 to 63.
        graphs: capture what each call of a single position does the second time it is made, and
            replay it, which takes less of the host's time. None: where that works; True: it must.
        memory: most bytes of the GPU's memory for weights and intermediate results; caches, and
            float16 copies of packed weights, come on top. None: all of it.

    Raises InputError for numbers out of bounds.
    """

    index: int = 0
    graphs: bool | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        """Check the bounds."""
        check_integer("index", self.index, 0, 63)
        if self.graphs is not None and type(self.graphs) is not bool:
            raise InputError(f"graphs must be True, False or None, got {self.graphs!r:.40}")
        if self.memory is not None:
            check_integer("memory", self.memory, 2**20, 2**50)
