"""Where the weights of a new bundle come from: a checkpoint, or a bundle with float32 weights."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rdlite.graphs.packing import Codes, Scales

Floats = npt.NDArray[np.float32]


class WeightSource(Protocol):
    """Gives the weights of a model by rdlite's names."""

    def pieces(self, name: str) -> Iterator[Floats]:
        """Yield a weight flat and in order, in float32 pieces that fit in memory, all finite."""

    def coded(self, name: str) -> Iterator[tuple[Codes, Scales]]:
        """Yield the integers and scales of a weight that is quantized, some rows at a time."""


def in_rows(pieces: Iterator[Floats], columns: int) -> Iterator[Floats]:
    """Cut a flat weight into groups of whole rows: float32 [n, columns]."""
    rest = np.empty(0, np.float32)
    for piece in pieces:
        flat = np.concatenate((rest, piece.reshape(-1))) if rest.size else piece.reshape(-1)
        whole = len(flat) // columns * columns
        if whole:
            yield flat[:whole].reshape(-1, columns)
        rest = flat[whole:]
