"""Half-quadratic quantization (HQQ, mobiusml 2023), for blocks that are symmetric around zero.

The error is measured by a norm below one, so that a few outliers may be far off for the good of the
many. Weights alone are looked at. The published method moves a zero point; here the scale moves,
because the blocks have none.
"""

import numpy as np
import numpy.typing as npt

from rdlite.graphs.packing import Codes, Scales

from .rounding import Rounding, as_scales, encode, search_scales

Floats = npt.NDArray[np.float32]

#: The norm, the weight of the quadratic term, how it grows, and the rounds, as published.
NORM, BETA, KAPPA, ROUNDS = 0.7, 10.0, 1.01, 20


class HalfQuadratic(Rounding):
    """Rounds each block at the scale that HQQ finds, from the one of least squared error on."""

    def blocks(self, blocks: Floats, bits: int) -> tuple[Codes, Scales]:
        """Quantize [n, blocks, block_size]."""
        _, scales = search_scales(blocks, bits)
        # The published constants are for weights of a certain size.
        unit = np.abs(blocks).mean(axis=-1, keepdims=True) + np.float32(1e-20)
        normal = blocks / unit
        scale, beta = scales.astype(np.float32) / unit[..., 0], BETA
        best = _error(normal, encode(normal, scale, bits), scale)
        for _ in range(ROUNDS):
            codes = encode(normal, scale, bits).astype(np.float32)
            off = normal - codes * scale[..., None]
            outliers = _shrink(off, beta)
            over = np.einsum("nbk,nbk->nb", codes, codes)
            scale = np.einsum("nbk,nbk->nb", codes, normal - outliers) / np.maximum(over, 1)
            error = _error(normal, encode(normal, scale, bits), scale)
            better = error < best
            found = as_scales(scale * unit[..., 0])
            scales[better] = found[better]
            best = np.minimum(best, error)
            beta *= KAPPA
        return encode(blocks, scales, bits), scales


def _shrink(x: Floats, beta: float) -> Floats:
    """The proximal step of |x|^NORM."""
    size = np.abs(x)
    less = np.power(size + np.float32(1e-8), np.float32(NORM - 1)) / np.float32(beta)
    result: Floats = np.sign(x) * np.maximum(0, size - less)
    return result


def _error(blocks: Floats, codes: Codes, scale: Floats) -> Floats:
    off = np.abs(blocks - codes * scale[..., None])
    result: Floats = np.power(off, np.float32(NORM)).sum(axis=-1)
    return result
