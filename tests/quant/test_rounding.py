"""Integers and scales: the layout is exact, and searching the scale pays."""

import numpy as np
import pytest
from rdlite.quant.rounding import Rounding

from rdlite.graphs.packing import dequantize, in_blocks, pack, packed_shape, unpack


def weights(rows=37, columns=100, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32)


def error(quantizer, rows, bits, block=32):
    codes, scales = quantizer.quantize("w", rows, bits, block)
    return np.linalg.norm(dequantize(codes, scales, rows.shape[1]) - rows) / np.linalg.norm(rows)


@pytest.mark.parametrize("bits", [4, 8])
def test_packing_loses_nothing(bits):
    top = 2 ** (bits - 1)
    codes = np.random.default_rng(0).integers(-top, top, (5, 3, 32)).astype(np.int8)
    packed = pack(codes, bits)
    assert packed.shape == packed_shape((5, 96), bits, 32)
    assert (unpack(packed, bits) == codes).all()


def test_four_bit_integers_lie_low_nibble_first_and_shifted_by_eight():
    codes = np.array([[[-8, 7, 0, -1]]], np.int8)
    assert pack(codes, 4).tolist() == [[[0xF0, 0x78]]]
    assert pack(codes, 8).tolist() == [[[120, 135, 128, 127]]]


def test_rows_are_filled_up_with_zeros():
    rows = weights(3, 40)
    blocks = in_blocks(rows, 32)
    assert blocks.shape == (3, 2, 32)
    assert (blocks.reshape(3, 64)[:, :40] == rows).all()
    assert not blocks.reshape(3, 64)[:, 40:].any()


@pytest.mark.parametrize("bits", [4, 8])
def test_searched_scales_lose_less_than_plain_ones(bits):
    rows = weights(200, 320)
    searched, plain = error(Rounding(), rows, bits), error(Rounding(search=False), rows, bits)
    assert searched < {4: 0.87, 8: 0.99}[bits] * plain
    assert plain < {4: 0.11, 8: 0.006}[bits]


def test_the_result_depends_neither_on_threads_nor_on_the_rows_beside():
    rows = weights(3000, 64)
    codes, scales = Rounding(threads=1).quantize("w", rows, 4, 32)
    more, same = Rounding(threads=3).quantize("w", rows, 4, 32)
    assert (codes == more).all()
    assert (scales == same).all()
    alone, scale = Rounding().quantize("w", rows[1234:1235], 4, 32)
    assert (alone == codes[1234]).all()
    assert (scale == scales[1234]).all()


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_extreme_blocks_stay_finite(value):
    rows = np.full((2, 64), value, np.float32)
    for bits in (4, 8):
        codes, scales = Rounding().quantize("w", rows, bits, 32)
        assert np.isfinite(dequantize(codes, scales, 64)).all()
