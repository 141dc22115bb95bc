"""Rounding to nearest: the scale of each block is searched, not taken from its largest weight."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.graphs.packing import Codes, Scales, in_blocks

Floats = npt.NDArray[np.float32]

#: Rows that one thread works on at a time hold about this many weights, to stay in its cache.
PIECE = 2**16
#: What the scale is tried at: a block's largest weight (with its sign) becomes this number. The
#: range reaches one further below zero than above it; past its end the largest weight is cut off.
CANDIDATES = {4: (-9.0, -8.5, -8.0, -7.5, -7.0, 7.5), 8: (127.5, 126.5)}


class Rounding:
    """Rounds each block at the scale with the smallest squared error.

    From several scales that stretch a block's largest weight to the end of the range, or past it,
    the integers follow; from the integers the best scale, by least squares.
    """

    def __init__(self, search: bool = True, threads: int | None = None) -> None:
        """Make it.

        Args:
            search: false takes the scale that the largest weight asks for, for comparison.
            threads: how many work; None: one for each core. The result does not depend on it.
        """
        self._search = search
        self._threads = threads or os.cpu_count() or 1

    def quantize(self, name: str, rows: Floats, bits: int, block_size: int) -> tuple[Codes, Scales]:
        """Quantize some rows; see `rdlite.export.packing.Quantizer`."""

        def work(piece: Floats) -> tuple[Codes, Scales]:
            return self.blocks(in_blocks(piece, block_size), bits)

        return in_threads(work, rows, max(1, PIECE // rows.shape[1]), self._threads)

    def blocks(self, blocks: Floats, bits: int) -> tuple[Codes, Scales]:
        """Quantize [n, blocks, block_size]."""
        return search_scales(blocks, bits) if self._search else plain_scales(blocks, bits)


def in_threads(
    work: Callable[[Floats], tuple[Codes, Scales]], rows: Floats, step: int, threads: int
) -> tuple[Codes, Scales]:
    """Quantize a few rows at a time, several threads at once."""
    pieces = [rows[i : i + step] for i in range(0, len(rows), step)]
    with ThreadPoolExecutor(threads) as pool:
        codes, scales = zip(*pool.map(work, pieces), strict=True)
    return np.concatenate(codes), np.concatenate(scales)


def encode(blocks: Floats, scales: npt.NDArray[Any], bits: int) -> Codes:
    """The nearest integers at given scales: [n, blocks, block_size] -> int8, same shape."""
    top = 2 ** (bits - 1)
    inverse = 1 / np.where(scales == 0, 1, scales).astype(np.float32)
    scaled = blocks * inverse[..., None]
    np.rint(scaled, out=scaled)
    np.clip(scaled, -top, top - 1, out=scaled)
    return scaled.astype(np.int8)


def plain_scales(blocks: Floats, bits: int) -> tuple[Codes, Scales]:
    """Round at the scale that makes a block's largest weight the largest integer."""
    scales = as_scales(np.abs(blocks).max(axis=-1) / (2 ** (bits - 1) - 1))
    return encode(blocks, scales, bits), scales


def search_scales(blocks: Floats, bits: int) -> tuple[Codes, Scales]:
    """Round at the best of several scales, each made the best for its own integers."""
    place = np.abs(blocks).argmax(axis=-1)
    largest = np.take_along_axis(blocks, place[..., None], axis=-1)[..., 0]
    best_scales = np.zeros(largest.shape, np.float16)
    best_codes = np.zeros(blocks.shape, np.int8)
    best_error = np.full(largest.shape, np.inf, np.float32)
    for end in CANDIDATES[bits]:
        scales = as_scales(largest / np.float32(end))
        codes = encode(blocks, scales, bits)
        for refine in (False, True):
            if refine:  # the least-squares scale of these integers
                values = codes.astype(np.float32)
                over = np.einsum("nbk,nbk->nb", values, values)
                scales = as_scales(np.einsum("nbk,nbk->nb", values, blocks) / np.maximum(over, 1))
                codes = encode(blocks, scales, bits)
            difference = codes * scales.astype(np.float32)[..., None]
            difference -= blocks
            error = np.einsum("nbk,nbk->nb", difference, difference)
            better = error < best_error
            best_error[better] = error[better]
            best_scales[better] = scales[better]
            best_codes[better] = codes[better]
    return best_codes, best_scales


def as_scales(values: Floats) -> Scales:
    """Round to float16, never to infinity."""
    limit = np.finfo(np.float16).max
    return np.clip(values, -limit, limit).astype(np.float16)
