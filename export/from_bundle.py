"""Reads a bundle as a source model."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from rdlite.architectures.registry import FAMILIES
from rdlite.bundle.manifest import MANIFEST, PARTS
from rdlite.bundle.reader import Bundle
from rdlite.config.quantization import Quantization
from rdlite.errors import BundleError
from rdlite.graphs.builder import Weights
from rdlite.graphs.packing import Codes, Scales, packed_shape, unpack
from rdlite.weights.source import Floats
from rdlite.weights.source_model import SourceModel, Tuned

from .safetensors import PIECE_BYTES


def read_bundle(bundle: Bundle) -> SourceModel:
    """Take a bundle apart again.

    Raises:
        BundleError: it is of a family that is not known, or its weights are not those that its
            family, config and quantization call for.
    """
    manifest = bundle.manifest
    family = FAMILIES.get(manifest.model.family)
    if family is None:
        raise BundleError(
            f"{bundle.folder} is of the family {manifest.model.family!r:.60}; known are "
            f"{', '.join(FAMILIES)}"
        )
    weights = family.weights(manifest.model)
    source = BundleWeights(bundle)
    source.check(weights)
    scales = manifest.cache_scales
    tuned = Tuned(
        manifest.exit,
        bundle.read_text(scales.file) if scales else None,
        scales.steps if scales else 0,
    )
    texts = {name: bundle.read_text(name) for name in manifest.files if _is_text(name)}
    return SourceModel(
        manifest.name,
        family,
        manifest.model,
        weights,
        source,
        {name: data for name, data in texts.items() if data is not None},
        manifest.special_tokens,
        bundle.folder,
        manifest.quantization,
        tuned,
        manifest.trained_length,
    )


def _is_text(name: str) -> bool:
    return name != MANIFEST and name.endswith((".json", ".jinja", ".md"))


class _Place(NamedTuple):
    file: str
    offset: int
    shape: tuple[int, ...]
    dtype: str


class BundleWeights:
    """The weights of a bundle: float32, or integers and scales."""

    def __init__(self, bundle: Bundle) -> None:
        """Find where each weight lies."""
        self._bundle = bundle
        self._quantization = bundle.manifest.quantization or Quantization("none")
        self._places: Mapping[str, _Place] = {
            tensor.name: _place(tensor)
            for part in PARTS
            for tensor in onnx.ModelProto.FromString(bundle.graphs[part]).graph.initializer
            if tensor.data_location == onnx.TensorProto.EXTERNAL
        }

    def check(self, weights: Weights) -> None:
        """Raise BundleError unless these are the bundle's weights."""
        for name, weight in weights.items():
            wanted: dict[str, tuple[tuple[int, ...], str]] = {name: (weight.shape, "float32")}
            if name in self._quantization.bits:
                bits, block_size = self._quantization.bits[name], self._quantization.block_of(name)
                packed = packed_shape(weight.shape, bits, block_size)
                wanted = {
                    f"{name}.packed": (packed, "uint8"),
                    f"{name}.scales": (packed[:2], "float16"),
                }
            for tensor, (shape, dtype) in wanted.items():
                place = self._places.get(tensor)
                # Rows of bytes may be told apart by blocks or not; they are the same bytes.
                found = None if place is None else (math.prod(place.shape), place.dtype)
                if found != (math.prod(shape), dtype) or (
                    dtype != "uint8" and place is not None and place.shape != shape
                ):
                    raise BundleError(
                        f"{self._bundle.folder}: the weight {tensor!r} has the shape "
                        f"{place and place.shape} and type {place and place.dtype}, its family and "
                        f"config call for {shape} of {dtype}"
                    )

    def pieces(self, name: str) -> Iterator[Floats]:
        """Yield a weight in pieces; raises BundleError."""
        location, offset, shape, _ = self._places[name]
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

    def coded(self, name: str) -> Iterator[tuple[Codes, Scales]]:
        """Yield a quantized weight some rows at a time; raises BundleError."""
        bits, scales = self._quantization.bits[name], self._mapped(f"{name}.scales")
        rows = len(scales)
        packed = self._mapped(f"{name}.packed").reshape(rows, scales.shape[1], -1)
        some = max(1, PIECE_BYTES // packed[0].nbytes)
        for first in range(0, rows, some):
            codes = unpack(np.array(packed[first : first + some]), bits)
            yield codes, np.array(scales[first : first + some])

    def _mapped(self, tensor: str) -> npt.NDArray[Any]:
        location, offset, shape, dtype = self._places[tensor]
        path = self._bundle.folder / location
        try:
            return np.memmap(path, dtype, "r", offset, shape)
        except (OSError, ValueError) as problem:
            raise BundleError(f"{path} cannot be read: {problem}") from None


def _place(tensor: onnx.TensorProto) -> _Place:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).name
    return _Place(entries["location"], int(entries["offset"]), tuple(tensor.dims), dtype)
