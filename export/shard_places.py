"""Where each tensor of a bundle's weights will lie, known before any weight is."""

import math
from dataclasses import dataclass

from rdlite.graphs.builder import Weight, Weights
from rdlite.graphs.packing import count_blocks, packed_shape
from rdlite.graphs.serialize import ALIGNMENT, Graphs
from rdlite.weights.storage import Storage

from .bundle_folder import data_files
from .safetensors import Checkpoint


@dataclass(frozen=True, slots=True)
class Places:
    """Where tensors lie: name -> file, offset; and the size of each file, in bytes."""

    tensors: dict[str, tuple[str, int]]
    sizes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Unit:
    """One tensor of a checkpoint on its way into a weight, from this of the weight's numbers on.

    `stashed`: it is kept until the other tensors that the weight is computed from are there.
    """

    weight: str
    source: str
    first: int
    stashed: bool

    @property
    def key(self) -> str:
        """What a journal calls it."""
        return f"{self.weight} < {self.source}"


def place(graphs: Graphs, weights: Weights, storage: Storage | None) -> Places:
    """Lay out the files of external data exactly as a bundle written in order has them."""
    places: dict[str, tuple[str, int]] = {}
    sizes: dict[str, int] = {}
    for file, names in data_files(graphs, weights).items():
        end = 0
        for name in names:
            for tensor, size in _sizes(name, weights[name], storage):
                end += -end % ALIGNMENT
                places[tensor] = (file, end)
                end += size
        sizes[file] = end
    return Places(places, sizes)


def _sizes(name: str, weight: Weight, storage: Storage | None) -> list[tuple[str, int]]:
    bits = storage.quantization.bits.get(name) if storage else None
    if storage is None or bits is None:
        return [(name, 4 * math.prod(weight.shape))]
    block = storage.quantization.block_of(name)
    scales = 2 * weight.shape[0] * count_blocks(weight.shape[1], block)
    return [
        (f"{name}.packed", math.prod(packed_shape(weight.shape, bits, block))),
        (f"{name}.scales", scales),
    ]


def units_by_file(checkpoint: Checkpoint, weights: Weights) -> dict[str, list[Unit]]:
    """Return what is to be done with each file of a checkpoint, by its name."""
    found: dict[str, list[Unit]] = {}
    for name, weight in weights.items():
        first = 0
        for source in weight.sources:
            tensor = checkpoint.tensors[source]
            unit = Unit(name, source, first, weight.make is not None)
            found.setdefault(tensor.file.name, []).append(unit)
            first += math.prod(tensor.shape)
    return found
