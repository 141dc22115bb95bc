"""The layout of quantized weights: blocks of a row, two 4-bit integers in a byte, float16 scales.

It is the layout of onnxruntime's MatMulNBits without zero points, and of GGUF's Q4_0 and Q8_0 but
for the order of bytes. A stored integer is the signed one plus 2^(bits - 1).
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rdlite.errors import InputError

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.int8]
Scales = npt.NDArray[np.float16]

#: What the scale of a weight's largest number may be: below, float16 has less than five bits.
LEAST_SCALE, MOST_SCALE = 2.0**-20, 65504.0


class Quantizer(Protocol):
    """Chooses integers and scales; the result for a row depends on that row alone."""

    def quantize(self, name: str, rows: Floats, bits: int, block_size: int) -> tuple[Codes, Scales]:
        """Quantize some rows of a weight.

        Args:
            name: of the weight.
            rows: float32 [n, K].
            bits: 4 or 8.
            block_size: weights that share a scale.

        Returns:
            int8 [n, blocks, block_size] of -2^(bits-1) to 2^(bits-1) - 1, zeros past K, and
            float16 [n, blocks].
        """


def count_blocks(columns: int, block_size: int) -> int:
    """Blocks of a row; the last may be filled up with zeros."""
    return -(-columns // block_size)


def packed_shape(shape: tuple[int, ...], bits: int, block_size: int) -> tuple[int, int, int]:
    """Shape of the packed bytes of a weight [N, K]: [N, blocks, bytes of a block]."""
    rows, columns = shape
    return rows, count_blocks(columns, block_size), block_size * bits // 8


def in_blocks(rows: Floats, block_size: int) -> Floats:
    """[n, K] to [n, blocks, block_size], filled up with zeros."""
    n, columns = rows.shape
    blocks = count_blocks(columns, block_size)
    if columns % block_size:
        rows = np.pad(rows, ((0, 0), (0, blocks * block_size - columns)))
    return rows.reshape(n, blocks, block_size)


def check_largest(name: str, largest: float, bits: int, whole: bool = False) -> None:
    """Raise InputError if scales of float16 do not reach the largest magnitude of a weight.

    Args:
        name: of the weight.
        largest: of its magnitudes; 0 can always be stored.
        bits: 4 or 8.
        whole: all of the weight was looked at, so that it can be too small as well.
    """
    low, high = (scale * 2 ** (bits - 1) for scale in (LEAST_SCALE, MOST_SCALE))
    if largest > high or (whole and 0 < largest < low):
        raise InputError(
            f"the largest number of {name} is {largest:g}; with {bits} bits and scales of float16 "
            f"it must lie between {low:.1e} and {high:.1e}: keep this model in float32"
        )


def pack(codes: Codes, bits: int) -> Bytes:
    """Signed integers [n, blocks, block_size] to bytes [n, blocks, bytes of a block]."""
    stored = codes.view(np.uint8) + np.uint8(2 ** (bits - 1))  # wraps, as it should
    if bits == 8:
        return stored
    packed: Bytes = np.bitwise_or(stored[..., 0::2], stored[..., 1::2] << 4)
    return packed


def unpack(packed: Bytes, bits: int) -> Codes:
    """The inverse of `pack`."""
    stored = packed
    if bits == 4:
        stored = np.stack((packed & 15, packed >> 4), axis=-1)
        stored = stored.reshape(*packed.shape[:-1], -1)
    return (stored - np.uint8(2 ** (bits - 1))).view(np.int8)


def dequantize(codes: Codes, scales: npt.NDArray[Any], columns: int) -> Floats:
    """Integers times scales: float32 [n, K]."""
    values = codes * scales.astype(np.float32)[..., None]
    result: Floats = values.reshape(len(codes), -1)[:, :columns]
    return result
