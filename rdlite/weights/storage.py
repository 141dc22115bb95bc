"""How the weights of a model are stored: quantized or not, and by what."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rdlite.config.quantization import Quantization
from rdlite.graphs.packing import Codes, Quantizer, Scales, check_largest
from rdlite.weights.source import WeightSource, in_rows
from rdlite.weights.source_model import SourceModel


@dataclass(frozen=True, slots=True)
class Storage:
    """How weights are stored: which of them are quantized, and by what.

    Without a quantizer the weights are quantized already, and are taken as they are. `factors` are
    for vectors that are not: what to multiply each with, of its shape.
    """

    quantization: Quantization
    quantizer: Quantizer | None
    factors: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def coded(
        self, name: str, columns: int, source: WeightSource
    ) -> Iterator[tuple[Codes, Scales]]:
        """Yield the integers and scales of a quantized weight [N, K], some rows at a time."""
        if self.quantizer is None:
            yield from source.coded(name)
            return
        bits, block_size = self.quantization.bits[name], self.quantization.block_of(name)
        largest = 0.0
        for rows in in_rows(source.pieces(name), columns):
            largest = max(largest, float(np.abs(rows).max()))
            check_largest(name, largest, bits)
            yield self.quantizer.quantize(name, rows, bits, block_size)
        check_largest(name, largest, bits, whole=True)


class Scheme(Protocol):
    """A way to quantize a model; `rdlite.quant.find_scheme` gives one."""

    def prepare(self, original: SourceModel) -> Storage:
        """Look at the model and decide how its weights are stored."""
