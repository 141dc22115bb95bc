"""Lays the weights of a GGUF file out as the data files that onnxruntime maps."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.gguf.weights import GGUFWeights
from rdlite.graphs.serialize import ALIGNMENT, Graphs

#: The data file of each part.
DATA = "weights.data"


class Layout:
    """Where each weight lies in the data file of a part; a weight of two parts is in both."""

    def __init__(self, source: GGUFWeights, graphs: Graphs) -> None:
        """Give the weights of each graph their places."""
        self._source = source
        #: Name of an initializer -> file, offset. It has the same place in every part.
        self.places: dict[str, tuple[str, int]] = {}
        self._parts: dict[str, list[str]] = {}
        end = 0
        for part, model in graphs.items():
            names = self._parts[part] = []
            for name, value in model.graph.initializers.items():
                if value.const_value is not None:
                    continue
                names.append(str(name))
                if name in self.places:
                    continue
                assert value.shape
                assert value.dtype
                self.places[str(name)] = (DATA, end)
                size = math.prod(value.shape.numpy()) * int(value.dtype.itemsize)
                end += -(-size // ALIGNMENT) * ALIGNMENT

    def write(self, part: str, folder: Path) -> Path:
        """Write the data file of a part into a folder; returns the folder.

        The file is sparse: what belongs to other parts takes no room.
        """
        ready: dict[str, npt.NDArray[Any]] = {}
        with (folder / DATA).open("wb") as file:
            for name in self._parts[part]:
                if name in self._source.weights:
                    array: npt.NDArray[Any] = self._source.floats(name)
                else:
                    weight = name.rpartition(".")[0]
                    if name not in ready:
                        packed, scales = self._source.packed(weight)
                        ready |= {f"{weight}.packed": packed, f"{weight}.scales": scales}
                    array = ready.pop(name)
                file.seek(self.places[name][1])
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._source.let_go()
        return folder
