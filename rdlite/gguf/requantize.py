"""Types of GGUF that rdlite does not compute with, rounded to blocks that it does compute with.

Widened to float32, a file of 4-bit weights would take eight times its size in memory. So matrices
in other types than Q4_0, Q8_0 and F32 are rounded a second time, a few rows after the other.
"""

import warnings
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from rdlite.errors import RoundingWarning
from rdlite.gguf.block_layout import BLOCK, TYPES, from_gguf
from rdlite.graphs.packing import Codes, Scales, in_blocks

Floats = npt.NDArray[np.float32]
#: Rows that are looked at to say what rounding costs.
SAMPLE_ROWS = 64


def target_bits(kinds: set[str]) -> int | None:
    """Return the bits that a weight of these types is rounded to; None: it stays float32.

    What has at most 5 bits, scales included, goes on with 4, and all else has 8.
    """
    import gguf

    if kinds == {"F32"}:
        return None
    bits = []
    for kind in kinds:
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        bits.append(8 * size / block)
    return 4 if max(bits) <= 5 else 8


def requantize(rows: Floats, bits: int) -> tuple[Codes, Scales]:
    """Round rows [n, K]: integers int8 [n, blocks, 32] and scales float16 [n, blocks]."""
    import gguf

    blocks = in_blocks(rows, BLOCK)
    kind = gguf.GGMLQuantizationType[TYPES[bits]]
    with np.errstate(all="ignore"):  # scales that are not finite are found afterwards
        data = gguf.quants.quantize(blocks.reshape(len(rows), -1), kind)
    return from_gguf(data, bits)


def rounding_error(rows: Floats, bits: int) -> float:
    """Return what rounding these rows changes, as a share of them: a ratio of root mean squares."""
    codes, scales = requantize(rows, bits)
    wanted = in_blocks(rows, BLOCK)
    with np.errstate(all="ignore"):  # as above
        difference = codes * scales.astype(np.float32)[..., None] - wanted
        return float(np.linalg.norm(difference) / max(float(np.linalg.norm(wanted)), 1e-30))


def warn_of_rounding(file: str, found: Mapping[tuple[str, int], tuple[int, float]]) -> None:
    """Say what is rounded again and what that costs: (types, bits) -> matrices, error."""
    said = ", ".join(
        f"{count} of {kinds} to int{bits} (off by {error:.2%})"
        for (kinds, bits), (count, error) in found.items()
    )
    warnings.warn(
        f"{file}: matrices are rounded again, to blocks that rdlite computes with: {said}. "
        "'rdlite gguf import' does that once for all; 'rdlite quantize' takes a scheme",
        RoundingWarning,
        stacklevel=2,
    )
