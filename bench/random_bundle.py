"""Quantized bundles of real shapes with random weights, written straight, for timing.

Times do not depend on what the numbers are, so the integers are drawn instead of rounded.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from rdlite.export.exporter import write_bundle
from rdlite.export.random_checkpoint import hub_config
from rdlite.quant.options import Options, quantization
from shapes import HUGINN

from rdlite.architectures import huginn
from rdlite.architectures.registry import Family
from rdlite.graphs.builder import Weights
from rdlite.graphs.packing import Codes, Floats, Scales, count_blocks
from rdlite.weights.source_model import SourceModel
from rdlite.weights.storage import Storage


class _Even:
    """Norms of one, tables as they are; what is quantized is read and not looked at."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def pieces(self, name: str) -> Iterator[Floats]:
        weight = self._weights[name]
        if weight.make is not None and not weight.sources:
            yield weight.make()
            return
        rows = 1 if len(weight.shape) == 1 else 64
        left = weight.shape[0] if len(weight.shape) == 2 else 1
        while left > 0:
            value = 1 if len(weight.shape) == 1 else 0.001  # so that float16 can hold the sums
            yield np.full((min(rows, left), weight.shape[-1]), value, np.float32)
            left -= rows


class _Drawn:
    """Integers drawn at random and small scales, so that no state explodes where none is normed.

    They are drawn once for each shape of a piece, as drawing takes longer than all else.
    """

    def __init__(self, std: float) -> None:
        self._rng = np.random.default_rng(0)
        self._std = std
        self._pieces: dict[tuple[int, ...], tuple[Codes, Scales]] = {}

    def quantize(self, name: str, rows: Floats, bits: int, block_size: int) -> tuple[Codes, Scales]:
        shape = (len(rows), count_blocks(rows.shape[1], block_size), block_size)
        if (bits, *shape) not in self._pieces:
            top = 2 ** (bits - 1)
            spread = 2 * top / np.sqrt(12)  # of evenly spread integers
            codes = self._rng.integers(-top, top, shape, np.int8)
            scales = np.full(shape[:2], self._std / spread, np.float16)
            self._pieces[bits, *shape] = codes, scales
        return self._pieces[bits, *shape]


def write_random_bundle(
    folder: Path,
    bits: int | None,
    family: Family,
    raw: dict[str, Any],
    name: str = "random",
    block_size: int | None = None,
    accuracy_level: int = 4,
) -> Path:
    """Write a bundle of a config.json's shape at 4 or 8 bits; returns its path.

    Blocks are those of the schemes int4 and int8, unless another size is given. Without bits the
    weights are float32, and all alike.
    """
    config = family.read_config(raw)
    weights = family.weights(config)
    original = SourceModel(name, family, config, weights, _Even(weights), {}, {}, folder)
    if bits is None:
        return write_bundle(original, folder, force=True)
    matrices = dict.fromkeys(original.matrices(), bits)
    options = Options(block_size=block_size, accuracy_level=accuracy_level)
    plan = quantization("random", matrices, options, original)
    storage = Storage(plan, _Drawn(0.002))
    return write_bundle(original, folder, storage, force=True)


def write_random_huginn(
    folder: Path,
    bits: int,
    layers: tuple[int, int, int] = (2, 4, 2),
    vocabulary: int = HUGINN[3],
    block_size: int | None = None,
    accuracy_level: int = 4,
) -> Path:
    """Write a bundle of Huginn's width and other depths; returns its path."""
    width, heads, inner, _, context, steps = HUGINN
    raw = hub_config(width, heads, inner, vocabulary, context, steps, layers)
    name = "huginn-random"
    return write_random_bundle(folder, bits, huginn, raw, name, block_size, accuracy_level)


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--bits", default=4, show_default=True, type=click.IntRange(4, 8))
@click.option("--layers", nargs=3, type=int, default=(2, 4, 2), show_default=True)
@click.option("--vocabulary", default=HUGINN[3], show_default=True, type=click.IntRange(1, 2**22))
@click.option("--block-size", type=int, help="Weights that share a scale. Default: the scheme's.")
@click.option("--accuracy-level", default=4, show_default=True, type=click.Choice([1, 4]))
def main(
    folder: Path,
    bits: int,
    layers: tuple[int, int, int],
    vocabulary: int,
    block_size: int | None,
    accuracy_level: int,
) -> None:
    write_random_huginn(folder, bits, layers, vocabulary, block_size, accuracy_level)


if __name__ == "__main__":
    main()
