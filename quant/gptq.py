"""GPTQ (arXiv 2210.17323) over blocks: what rounding a column loses, the columns after it make up.

Three things are more than the paper has. Within a block the columns with the largest inputs come
first. The scale of a block is the one of several with which the block loses least, by what the
inputs see. And when all columns of a block had their turn, scale and integers are each made the
best for the others, a few times.

Rows are independent of each other, so a weight is quantized a few rows at a time; what they share
is the second moment of the weight's inputs, which `calibrate` gathers.
"""

import os
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rdlite.graphs.packing import Codes, Scales, count_blocks

from .rounding import Rounding, as_scales, in_threads

Floats = npt.NDArray[np.float32]

#: Share of the moments' mean diagonal that is added to it, so that they can be inverted.
DAMPING = 0.01
#: What a block's largest weight may become, as in `rounding`, but more of them: the wider a block,
#: the more is cut off.
CANDIDATES = {
    4: (-11, -10, -9, -8.5, -8, -7.5, -7, 7.5, 8.5, 9.5),
    8: (-130, -128.5, -127, -125, 129, 127.5, 126, 124),
}
#: How often scale and integers of a block are made the best for each other.
SWEEPS = 2
#: Rows that one thread works on at a time.
PIECE = 1024


@dataclass(frozen=True, slots=True)
class Factor:
    """What the inputs of a weight [N, K] say of rounding it.

    Attributes:
        order: in which its columns are rounded; each block's stay together: int64 [K].
        upper: the upper Cholesky factor of the inverse of the moments in this order: [K, K].
    """

    order: npt.NDArray[np.int64]
    upper: Floats


class Factors(Protocol):
    """What `factor_moments` made, by the weight's name."""

    def __contains__(self, name: str) -> bool: ...

    def load(self, name: str) -> Factor:
        """Return the factor of a weight."""


class GPTQ:
    """Quantizes with the factors of the weights' inputs; weights without one are rounded."""

    def __init__(self, factors: Factors) -> None:
        self._factors = factors
        self._rounding = Rounding()
        self._loaded: tuple[str, Factor] | None = None

    def quantize(self, name: str, rows: Floats, bits: int, block_size: int) -> tuple[Codes, Scales]:
        """Quantize some rows; see `rdlite.export.packing.Quantizer`."""
        if name not in self._factors:
            return self._rounding.quantize(name, rows, bits, block_size)
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # first: two may be more than memory holds
            self._loaded = name, self._factors.load(name)
        factor = self._loaded[1]

        def work(piece: Floats) -> tuple[Codes, Scales]:
            return quantize_rows(piece, factor, bits, block_size)

        return in_threads(work, rows, PIECE, os.cpu_count() or 1)


def factor_moments(moments: Floats, block_size: int, damping: float = DAMPING) -> Factor:
    """Return the factor of a weight's moments [K, K], for blocks of this size; overwrites them.

    They must be finite. Where float32 sums left them so far from positive that the usual damping
    does not do, there is more of it.
    """
    diagonal = np.einsum("ii->i", moments)
    dead = diagonal == 0  # inputs that never came
    diagonal[dead] = 1 if dead.all() else diagonal[~dead].mean(dtype=np.float64)
    mean = diagonal.mean(dtype=np.float64)
    order = np.lexsort((-diagonal, np.arange(len(diagonal)) // block_size))
    while True:
        diagonal += damping * mean
        try:
            ordered = moments[np.ix_(order, order)].astype(np.float64)
            lower = np.linalg.cholesky(np.linalg.inv(ordered))
        except np.linalg.LinAlgError:
            damping *= 10
        else:
            return Factor(order, np.ascontiguousarray(lower.T, np.float32))


def quantize_rows(rows: Floats, factor: Factor, bits: int, block_size: int) -> tuple[Codes, Scales]:
    """Quantize rows [n, K] block by block, spreading what is lost over the columns to come."""
    n, columns = rows.shape
    count = count_blocks(columns, block_size)
    order, upper = factor.order, factor.upper
    left = np.ascontiguousarray(rows.T[order])  # [K, n]: columns are worked on one by one
    codes = np.zeros((n, count * block_size), np.int8)
    scales = np.zeros((n, count), np.float16)
    for block in range(count):
        end = min((block + 1) * block_size, columns)
        here = slice(block * block_size, end)
        corner = upper[here, here]
        inverse = np.linalg.inv(corner.astype(np.float64)).astype(np.float32)
        found, scale = _search(left[here], corner, bits)
        found, scale = _refine(left[here], found, scale, inverse @ inverse.T, bits)
        codes[:, order[here]] = found.T
        scales[:, block] = scale
        errors = inverse.T @ (left[here] - found * scale.astype(np.float32))
        left[end:] -= upper[here, end:].T @ errors
    return codes.reshape(n, count, block_size), scales


def _search(columns: Floats, corner: Floats, bits: int) -> tuple[Floats, Scales]:
    """Round a block [k, n] at several scales; returns the best's integers [k, n] and scales [n]."""
    n = columns.shape[1]
    largest = np.take_along_axis(columns, np.abs(columns).argmax(axis=0)[None], axis=0)
    scales = as_scales(largest / np.array(CANDIDATES[bits], np.float32)[:, None])
    tried = len(scales)
    left = np.tile(columns, tried)  # [k, tried * n]: each row of the weight once for each scale
    wide = scales.astype(np.float32).ravel()
    codes, loss = np.empty_like(left), np.zeros(tried * n, np.float32)
    for i in range(len(left)):
        codes[i] = _nearest(left[i], wide, bits)
        error = (left[i] - codes[i] * wide) / corner[i, i]
        left[i + 1 :] -= corner[i, i + 1 :, None] * error
        loss += error * error
    best = loss.reshape(tried, n).argmin(axis=0), np.arange(n)
    return codes.reshape(-1, tried, n)[:, *best], scales[best]


def _refine(
    columns: Floats, codes: Floats, scales: Scales, moments: Floats, bits: int
) -> tuple[Floats, Scales]:
    """Make the scales [n] of a block and each of its integers [k, n] the best for the others.

    `moments` [k, k] are what the block's inputs see where all later columns make up for it.
    """
    for _ in range(SWEEPS):
        seen = moments @ codes
        over = np.einsum("kn,kn->n", seen, codes)
        best = np.einsum("kn,kn->n", seen, columns) / np.where(over > 0, over, 1)
        scales = as_scales(best)
        wide = scales.astype(np.float32)
        slope = moments @ (codes * wide - columns)
        for i in range(len(codes)):
            better = _nearest(codes[i] * wide - slope[i] / moments[i, i], wide, bits)
            slope += moments[i, :, None] * ((better - codes[i]) * wide)
            codes[i] = better
    return codes, scales


def _nearest(values: Floats, scales: Floats, bits: int) -> Floats:
    """The nearest integers at given scales, all [n]."""
    top = 2 ** (bits - 1)
    found = np.rint(values / np.where(scales == 0, 1, scales))
    return np.clip(found, -top, top - 1, out=found)
