"""The tensors of a graph: possible shapes, known types, bytes inside their files."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.bundle.check.op_rules import Value
from rdlite.errors import GraphError

MAX_ELEMENTS = 2**40
_COUNT = re.compile(r"[0-9]{1,18}")
#: ONNX's number of a type -> its name there and its bytes.
DTYPES = {
    1: ("FLOAT", 4),
    2: ("UINT8", 1),
    3: ("INT8", 1),
    6: ("INT32", 4),
    7: ("INT64", 8),
    10: ("FLOAT16", 2),
    16: ("BFLOAT16", 2),
}


def check_tensor(tensor: Any, file_sizes: Mapping[str, int], where: str) -> Value:
    """Return what an initializer is; raises GraphError unless its bytes are where it says."""
    what = f"{where}: tensor {tensor.name!r:.80}"
    if tensor.data_type not in DTYPES:
        raise GraphError(f"{what} has the data type {tensor.data_type}")
    if len(tensor.dims) > 4:
        raise GraphError(f"{what} has {len(tensor.dims)} dimensions")
    shape = tuple(tensor.dims)
    if any(size < 1 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise GraphError(f"{what} has the impossible shape {shape}")
    dtype, width = DTYPES[tensor.data_type]
    size = math.prod(shape) * width
    if tensor.data_location == 1:  # external
        _check_external(tensor, size, file_sizes, what)
        return Value(tensor.name, shape, dtype, stored=True)
    if len(tensor.raw_data) != size:
        raise GraphError(
            f"{what} must hold {size} bytes of raw data for {shape} of {dtype}, "
            f"it has {len(tensor.raw_data)}"
        )
    constant = _constant(tensor, shape, dtype)
    return Value(tensor.name, shape, dtype, constant, stored=True)


def _constant(tensor: Any, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any] | None:
    """The values of a small list of indices; nothing else is ever looked at."""
    if dtype != "INT64" or math.prod(shape) > 16:
        return None
    return np.frombuffer(tensor.raw_data, "<i8").reshape(shape)


def _check_external(tensor: Any, size: int, file_sizes: Mapping[str, int], what: str) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    unknown = set(entries) - {"location", "offset", "length"}
    if unknown or len(entries) != len(tensor.external_data) or tensor.raw_data:
        raise GraphError(f"{what} is stored in a way that rdlite does not support")
    location = entries.get("location", "")
    if location not in file_sizes or not location.endswith(".data"):
        raise GraphError(
            f"{what} lies in {location!r:.140}, which is no data file of the bundle; "
            "only bare names that the manifest lists are allowed"
        )
    for key in ("offset", "length"):
        if not _COUNT.fullmatch(entries.get(key, "")):
            raise GraphError(f"{what} has the {key} {entries.get(key)!r:.40}; it must be a count")
    if int(entries["length"]) != size:
        raise GraphError(f"{what} has {entries['length']} bytes, its shape and type need {size}")
    end = int(entries["offset"]) + size
    if end > file_sizes[location]:
        raise GraphError(
            f"{what} ends at byte {end} of {location}, which has {file_sizes[location]}"
        )
