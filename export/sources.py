"""Where the weights of a new bundle come from: a checkpoint, or a bundle with float32 weights."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from rdlite.bundle import PARTS, Bundle
from rdlite.errors import BundleError

from .blocks import Weights
from .checkpoint import PIECE_BYTES, Checkpoint

Floats = npt.NDArray[np.float32]


class _Place(NamedTuple):
    file: str
    offset: int
    shape: tuple[int, ...]


class WeightSource(Protocol):
    """Gives the weights of a model by rdlite's names."""

    def pieces(self, name: str) -> Iterator[Floats]:
        """Yield a weight flat and in order, in float32 pieces that fit in memory, all finite."""


class CheckpointWeights:
    """A checkpoint's tensors, under rdlite's names."""

    def __init__(self, checkpoint: Checkpoint, weights: Weights) -> None:
        self._checkpoint = checkpoint
        self._weights = weights

    def pieces(self, name: str) -> Iterator[Floats]:
        """Yield a weight in pieces; raises CheckpointError."""
        weight = self._weights[name]
        if weight.make is not None:
            yield weight.make(*(self._checkpoint.read(source) for source in weight.sources))
            return
        for source in weight.sources:
            yield from self._checkpoint.pieces(source)


class BundleWeights:
    """The weights of a bundle that is not quantized."""

    def __init__(self, bundle: Bundle) -> None:
        """Find where each weight lies; raises BundleError if one is not float32."""
        self._bundle = bundle
        self._places: Mapping[str, _Place] = {
            tensor.name: _place(tensor)
            for part in PARTS
            for tensor in onnx.ModelProto.FromString(bundle.graphs[part]).graph.initializer
            if tensor.data_location == onnx.TensorProto.EXTERNAL
            and tensor.data_type == onnx.TensorProto.FLOAT
        }

    def check(self, weights: Weights) -> None:
        """Raise BundleError unless these are the bundle's weights."""
        for name, weight in weights.items():
            found = self._places[name].shape if name in self._places else None
            if found != weight.shape:
                raise BundleError(
                    f"{self._bundle.folder}: the weight {name!r} has the shape {found}, its "
                    f"family and config call for {weight.shape}"
                )

    def pieces(self, name: str) -> Iterator[Floats]:
        """Yield a weight in pieces; raises BundleError."""
        location, offset, shape = self._places[name]
        left = math.prod(shape)
        path = self._bundle.folder / location
        try:
            with path.open("rb") as file:
                file.seek(offset)
                while left:
                    piece = np.fromfile(file, "<f4", min(left, PIECE_BYTES // 4))
                    if not piece.size:
                        raise BundleError(f"{path} ends inside the weight {name!r}")
                    left -= piece.size
                    if not np.isfinite(piece).all():
                        raise BundleError(
                            f"the weight {name!r} of {self._bundle.folder} holds NaN or infinite "
                            "values; export the checkpoint again"
                        )
                    yield piece
        except OSError as problem:
            raise BundleError(f"{path} cannot be read: {problem.strerror}") from None


def _place(tensor: onnx.TensorProto) -> _Place:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return _Place(entries["location"], int(entries["offset"]), tuple(tensor.dims))


def in_rows(pieces: Iterator[Floats], columns: int) -> Iterator[Floats]:
    """Cut a flat weight into groups of whole rows: float32 [n, columns]."""
    rest = np.empty(0, np.float32)
    for piece in pieces:
        flat = np.concatenate((rest, piece.reshape(-1))) if rest.size else piece.reshape(-1)
        whole = len(flat) // columns * columns
        if whole:
            yield flat[:whole].reshape(-1, columns)
        rest = flat[whole:]
