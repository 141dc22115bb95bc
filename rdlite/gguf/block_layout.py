"""GGUF's blocks and onnxruntime's: the same integers and scales, their bytes in another order.

A block of 32 weights is a float16 scale and then, as Q8_0, 32 signed bytes, or as Q4_0, 16 bytes
whose low halves are the first 16 weights, each plus 8, and whose high halves the other 16.
onnxruntime has scales apart, bytes that are the integer plus 128, and neighbours in a byte.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.graphs.packing import Bytes, Codes, Scales, pack

BLOCK = 32
#: Bits of a weight -> GGML's name of the type.
TYPES = {4: "Q4_0", 8: "Q8_0"}
BITS = {name: bits for bits, name in TYPES.items()}


def to_gguf(codes: Codes, scales: Scales, bits: int) -> Bytes:
    """Integers [n, blocks, 32] and float16 scales [n, blocks] to bytes [n, bytes of a row]."""
    body: npt.NDArray[Any] = codes.view(np.uint8)
    if bits == 4:
        stored = (codes + np.int8(8)).view(np.uint8)
        body = stored[..., :16] | (stored[..., 16:] << 4)
    head = np.ascontiguousarray(scales, "<f2").view(np.uint8).reshape(*scales.shape, 2)
    return np.concatenate((head, body), axis=-1).reshape(len(codes), -1)


def from_gguf(rows: Bytes, bits: int) -> tuple[Codes, Scales]:
    """The inverse of `to_gguf`."""
    blocks = rows.reshape(len(rows), -1, 2 + BLOCK * bits // 8)
    scales = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0]
    body = np.ascontiguousarray(blocks[..., 2:])
    if bits == 8:
        return body.view(np.int8), scales
    codes = np.concatenate((body & 15, body >> 4), axis=-1).view(np.int8)
    codes -= 8
    return codes, scales


def to_packed(rows: Bytes, bits: int) -> tuple[Bytes, Scales]:
    """Bytes of a GGUF tensor's rows to onnxruntime's [n, blocks, bytes of a block] and scales."""
    codes, scales = from_gguf(rows, bits)
    return pack(codes, bits), scales


def turn(rows: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Order each head's rows for rotating neighbours instead of halves: [n, ...] -> same."""
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def turn_back(rows: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """The inverse of `turn`."""
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)
