"""Holds one ONNX graph, as bytes, against the graph contract before onnxruntime sees it.

Checked: an allowlist of operators and their attributes, no subgraphs or functions, every tensor's
bytes inside its file, shapes that follow from each other, inputs and outputs as the contract says.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from rdlite.config import ModelConfig
from rdlite.errors import GraphError
from rdlite.graph_shapes import OPERATORS, Shape, infer_shapes

MAX_NODES = 20_000
MAX_TENSOR_ELEMENTS = 2**40
_COUNT = re.compile(r"[0-9]{1,18}")


def contract(part: str, config: ModelConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a part takes and gives: name -> (dtype name, shape), contract version 1."""
    width, layers = config.hidden_size, getattr(config.layers, part)
    cache = ("FLOAT", ("B", config.num_key_value_heads, "C", config.head_dim))
    hidden = ("FLOAT", ("B", "S", width))
    inputs: dict[str, Any] = {
        "seqlens_k": ("INT32", ("B",)),
        "total_sequence_length": ("INT32", ()),
    }
    outputs: dict[str, Any] = {}
    if part == "prelude":
        inputs["input_ids"] = ("INT64", ("B", "S"))
        outputs["embeds"] = hidden
    elif part == "core":
        inputs |= {"state": hidden, "embeds": hidden}
        outputs |= {"next_state": hidden, "change": ("FLOAT", ("B", "S"))}
    else:
        inputs |= {"state": hidden, "logit_positions": ("INT64", ("P",))}
        outputs["logits"] = ("FLOAT", ("B", "P", config.vocab_size))
    for i in range(layers):
        for kind in ("key", "value"):
            inputs[f"past_key_values.{i}.{kind}"] = cache
            outputs[f"present.{i}.{kind}"] = cache
    return inputs, outputs


def check_graph(data: bytes, part: str, config: ModelConfig, file_sizes: Mapping[str, int]) -> None:
    """Check the graph `part` ("prelude", "core" or "coda"); raises GraphError.

    Args:
        data: the serialized ONNX model.
        part: which graph it must be.
        config: the sizes it must have.
        file_sizes: the bundle's files and their sizes in bytes; external data must lie in them.
    """
    import onnx
    from google.protobuf.message import DecodeError

    where = f"{part}.onnx"
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise GraphError(f"{where} is not an ONNX model") from None
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        raise GraphError(f"{where} has functions, training or sparse parts; none is allowed")
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx", "com.microsoft"):
            raise GraphError(f"{where} imports operators of {opset.domain!r:.60}")
    if len(graph.node) > MAX_NODES:
        raise GraphError(f"{where} has {len(graph.node)} nodes; at most {MAX_NODES} are allowed")

    dtype_name = onnx.TensorProto.DataType.Name
    shapes: dict[str, Shape] = {}
    constants: dict[str, npt.NDArray[Any]] = {}
    for tensor in graph.initializer:
        if not tensor.name or tensor.name in shapes:
            raise GraphError(f"{where} names the initializer {tensor.name!r:.80} twice")
        shape, dtype = _tensor_type(tensor, where)
        shapes[tensor.name] = shape
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(tensor, shape, dtype, file_sizes, where)
        else:
            constants[tensor.name] = _constant(tensor, shape, dtype, where)
    inputs, outputs = contract(part, config)
    _check_values(graph.input, inputs, f"{where} input", dtype_name)
    _check_values(graph.output, outputs, f"{where} output", dtype_name)
    for name, (_, shape) in inputs.items():
        if name in shapes:
            raise GraphError(f"{where}: {name} is both an input and an initializer")
        shapes[name] = shape
    for node in graph.node:
        _check_node(node, where)
    infer_shapes(graph.node, shapes, constants, config, where)
    for name, (_, shape) in outputs.items():
        if shapes.get(name) != shape:
            raise GraphError(
                f"{where}: {name} comes out as {shapes.get(name)}, the contract says {shape}"
            )


def _tensor_type(tensor: Any, where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    import onnx

    dtypes: dict[int, npt.DTypeLike] = {
        onnx.TensorProto.FLOAT: np.float32,
        onnx.TensorProto.FLOAT16: np.float16,
        onnx.TensorProto.BFLOAT16: ml_dtypes.bfloat16,
        onnx.TensorProto.UINT8: np.uint8,
        onnx.TensorProto.INT8: np.int8,
        onnx.TensorProto.INT32: np.int32,
        onnx.TensorProto.INT64: np.int64,
    }
    if tensor.data_type not in dtypes:
        raise GraphError(
            f"{where}: tensor {tensor.name!r:.80} has the data type {tensor.data_type}"
        )
    shape = tuple(tensor.dims)
    if any(size < 1 for size in shape) or math.prod(shape) > MAX_TENSOR_ELEMENTS or len(shape) > 4:
        raise GraphError(f"{where}: tensor {tensor.name!r:.80} has the impossible shape {shape}")
    return shape, np.dtype(dtypes[tensor.data_type])


def _check_external(
    tensor: Any,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    file_sizes: Mapping[str, int],
    where: str,
) -> None:
    what = f"{where}: external tensor {tensor.name!r:.80}"
    entries = {entry.key: entry.value for entry in tensor.external_data}
    unknown = set(entries) - {"location", "offset", "length"}
    if unknown or len(entries) != len(tensor.external_data) or tensor.raw_data:
        raise GraphError(f"{what} is described in a way that is not read")
    location = entries.get("location", "")
    if location not in file_sizes or not location.endswith(".data"):
        raise GraphError(
            f"{what} lies in {location!r:.140}, which is no data file of the bundle; "
            "only bare names that the manifest lists are read"
        )
    for key in ("offset", "length"):
        if not _COUNT.fullmatch(entries.get(key, "")):
            raise GraphError(f"{what} has the {key} {entries.get(key)!r:.40}; it must be a count")
    size = math.prod(shape) * dtype.itemsize
    if int(entries["length"]) != size:
        raise GraphError(f"{what} has {entries['length']} bytes, but {shape} of {dtype} are {size}")
    end = int(entries["offset"]) + size
    if end > file_sizes[location]:
        raise GraphError(
            f"{what} ends at byte {end} of {location}, which has {file_sizes[location]}"
        )


def _constant(
    tensor: Any, shape: tuple[int, ...], dtype: np.dtype[Any], where: str
) -> npt.NDArray[Any]:
    if len(tensor.raw_data) != math.prod(shape) * dtype.itemsize:
        raise GraphError(
            f"{where}: tensor {tensor.name!r:.80} must hold {math.prod(shape)} values of {dtype} "
            f"as raw data, it has {len(tensor.raw_data)} bytes"
        )
    return np.frombuffer(tensor.raw_data, dtype).reshape(shape)


def _check_values(values: Any, expected: Mapping[str, Any], what: str, dtype_name: Any) -> None:
    names = [value.name for value in values]
    if sorted(names) != sorted(expected):
        missing = sorted(set(expected) - set(names))
        extra = sorted(set(names) - set(expected))
        raise GraphError(
            f"{what}s differ from the contract: missing {missing}, extra {extra}"[:300]
        )
    for value in values:
        dtype, shape = expected[value.name]
        tensor = value.type.tensor_type
        if not tensor.elem_type or dtype_name(tensor.elem_type) != dtype:
            raise GraphError(f"{what} {value.name} must be {dtype}")
        dims = tensor.shape.dim
        if len(dims) != len(shape):
            raise GraphError(f"{what} {value.name} must have {len(shape)} dimensions")
        for dim, size in zip(dims, shape, strict=True):
            fixed = dim.dim_value if dim.HasField("dim_value") else None
            if fixed != (size if isinstance(size, int) else None):
                raise GraphError(
                    f"{what} {value.name} has the size {fixed} where the contract says {size}"
                )


def _check_node(node: Any, where: str) -> None:
    import onnx

    what = f"{where}: node {node.name!r:.60} ({node.op_type:.60})"
    key = (node.domain if node.domain != "ai.onnx" else "", node.op_type)
    if key not in OPERATORS:
        domain = f"{node.domain}." if node.domain else ""
        raise GraphError(f"{where} uses the operator {domain}{node.op_type}, which is not allowed")
    plain = (
        onnx.AttributeProto.INT,
        onnx.AttributeProto.FLOAT,
        onnx.AttributeProto.STRING,
        onnx.AttributeProto.INTS,
    )
    for attribute in node.attribute:
        if attribute.type not in plain or attribute.ref_attr_name:
            raise GraphError(
                f"{what} has the attribute {attribute.name!r:.60} of a kind not allowed"
            )
        if attribute.name not in OPERATORS[key].attributes:
            raise GraphError(
                f"{what} has the attribute {attribute.name!r:.60}, which is not allowed"
            )
