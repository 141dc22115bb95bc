"""GPTQ (arXiv 2210.17323) over blocks: what rounding a column loses, the columns after it make up.

Rows are independent of each other, so a weight is quantized a few rows at a time; what they share
is the second moment of the weight's inputs, which `calibrate` gathers.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from rdlite.graphs.packing import Codes, Scales, in_blocks

from .rounding import Rounding, encode, search_scales

Floats = npt.NDArray[np.float32]

#: Share of the moments' mean diagonal that is added to it, so that they can be inverted.
DAMPING = 0.01


class Factors(Protocol):
    """What `factor_moments` made, by the weight's name."""

    def __contains__(self, name: str) -> bool: ...

    def load(self, name: str) -> Floats:
        """Return the factor of a weight [N, K]: float32 [K, K]."""


class GPTQ:
    """Quantizes with the factors of the weights' inputs; weights without one are rounded."""

    def __init__(self, factors: Factors) -> None:
        self._factors = factors
        self._rounding = Rounding()
        self._loaded: tuple[str, Floats] | None = None

    def quantize(self, name: str, rows: Floats, bits: int, block_size: int) -> tuple[Codes, Scales]:
        """Quantize some rows; see `rdlite.export.packing.Quantizer`."""
        if name not in self._factors:
            return self._rounding.quantize(name, rows, bits, block_size)
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # first: two may be more than memory holds
            self._loaded = name, self._factors.load(name)
        return quantize_rows(rows, self._loaded[1], bits, block_size)


def factor_moments(moments: Floats) -> Floats:
    """Return the upper Cholesky factor of the inverse of damped moments [K, K]; overwrites them.

    They must be finite. Where float32 sums left them so far from positive that the usual damping
    does not do, there is more of it.
    """
    diagonal = np.einsum("ii->i", moments)
    dead = diagonal == 0  # inputs that never came
    diagonal[dead] = 1 if dead.all() else diagonal[~dead].mean(dtype=np.float64)
    mean, damping = diagonal.mean(dtype=np.float64), DAMPING
    while True:
        diagonal += damping * mean
        try:
            lower = np.linalg.cholesky(np.linalg.inv(moments.astype(np.float64)))
        except np.linalg.LinAlgError:
            damping *= 10
        else:
            factor: Floats = np.ascontiguousarray(lower.T, np.float32)
            return factor


def quantize_rows(rows: Floats, factor: Floats, bits: int, block_size: int) -> tuple[Codes, Scales]:
    """Quantize rows [n, K] block by block, spreading what is lost over the columns to come."""
    columns = rows.shape[1]
    blocks = in_blocks(rows, block_size)
    n, count, _ = blocks.shape
    left = blocks.reshape(n, -1).copy()
    codes = np.zeros(blocks.shape, np.int8)
    scales = np.zeros((n, count), np.float16)
    for block in range(count):
        start, end = block * block_size, min((block + 1) * block_size, columns)
        here = left[:, start : start + block_size]
        _, found = search_scales(here[:, None], bits)
        scale = scales[:, block] = found[:, 0]
        wide = scale.astype(np.float32)
        errors = np.zeros((n, end - start), np.float32)
        for i in range(start, end):
            column = left[:, i]
            code = encode(column[:, None, None], scale[:, None], bits)[:, 0, 0]
            codes[:, block, i - start] = code
            errors[:, i - start] = error = (column - code * wide) / factor[i, i]
            left[:, i + 1 : end] -= error[:, None] * factor[i, i + 1 : end]
        left[:, end:columns] -= errors @ factor[start:end, end:]
    return codes, scales
