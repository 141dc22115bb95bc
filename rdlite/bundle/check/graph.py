"""Holds one ONNX graph, as bytes, against the graph contract before onnxruntime sees it.

Checked: a list of operators and their attributes, no subgraphs or functions, every tensor's bytes
inside its file, shapes that follow from each other, inputs and outputs as the contract says.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rdlite.bundle.check.fused_ops import FUSED
from rdlite.bundle.check.op_rules import Call, Mismatch, Operator, Result, Shape, Value
from rdlite.bundle.check.portable_ops import PORTABLE
from rdlite.bundle.check.tensors import DTYPES, check_tensor
from rdlite.config.model import ModelConfig
from rdlite.errors import GraphError

MAX_NODES = 10_000
MAX_NAME_CHARACTERS = 300
#: Elements per position: of one value, and of all values of a graph together.
MAX_VALUE_ELEMENTS, MAX_GRAPH_ELEMENTS = 2**22, 2**24

#: What a graph may be made of.
OPERATORS = {"fused": FUSED, "portable": PORTABLE}
FLAVOURS = tuple(OPERATORS)
#: The operators that write a cache, and the only ones that may take one as it comes.
CACHE_WRITERS = ("GroupQueryAttention", "ScatterElements")
#: Those that onnxruntime applies to stored weights once, when the graph is loaded.
FOLDED = ("Cast", "Transpose")

Contract = dict[str, tuple[str, Shape]]


def contract(part: str, config: ModelConfig) -> tuple[Contract, Contract]:
    """Return what a part takes and gives: name -> (dtype name, shape), contract version 1."""
    width, layers = config.hidden_size, getattr(config.layers, part)
    cache: tuple[str, Shape] = ("FLOAT", ("B", config.num_key_value_heads, "C", config.head_dim))
    hidden: tuple[str, Shape] = ("FLOAT", ("B", "S", width))
    inputs: Contract = {
        "seqlens_k": ("INT32", ("B",)),
        "total_sequence_length": ("INT32", ()),
    }
    outputs: Contract = {}
    if part == "prelude":
        inputs["input_ids"] = ("INT64", ("B", "S"))
        outputs["embeds"] = hidden
    elif part == "core":
        inputs |= {"state": hidden, "embeds": hidden}
        outputs |= {"next_state": hidden, "change": ("FLOAT", ("B", "S"))}
        if config.recurrence.exit_threshold is not None:
            outputs["exit_probability"] = ("FLOAT", ("B", "S"))
    else:
        inputs |= {"state": hidden, "logit_positions": ("INT64", ("P",))}
        outputs["logits"] = ("FLOAT", ("B", "P", config.vocab_size))
    for i in range(layers):
        for kind in ("key", "value"):
            inputs[f"past_key_values.{i}.{kind}"] = cache
            outputs[f"present.{i}.{kind}"] = cache
    return inputs, outputs


def check_graph(
    data: bytes,
    part: str,
    config: ModelConfig,
    file_sizes: Mapping[str, int],
    flavour: str = "fused",
) -> None:
    """Check the graph `part` ("prelude", "core" or "coda"); raises GraphError.

    Args:
        data: the serialized ONNX model.
        part: which graph it must be.
        config: the sizes it must have.
        file_sizes: the bundle's files and their sizes in bytes; external data must lie in them.
        flavour: "fused", or "portable" if it must be made of standard operators alone.
    """
    import onnx
    from google.protobuf.message import DecodeError

    where = f"{part}.onnx"
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise GraphError(f"{where} is not an ONNX model") from None
    graph = model.graph
    _check_outline(model, where)
    values: dict[str, Value] = {}
    for tensor in graph.initializer:
        if not tensor.name or tensor.name in values:
            raise GraphError(f"{where} names the initializer {tensor.name!r:.80} twice")
        values[tensor.name] = check_tensor(tensor, file_sizes, where)
    inputs, outputs = contract(part, config)
    _check_declared(graph.input, inputs, f"{where} input")
    _check_declared(graph.output, outputs, f"{where} output")
    for name, (dtype, shape) in inputs.items():
        if name in values:
            raise GraphError(f"{where}: {name} is both an input and an initializer")
        values[name] = Value(name, shape, dtype)
    elements = 0
    widened = sum(value.elements for value in values.values() if value.stored)
    for number, node in enumerate(graph.node):
        for value in _results(node, number, values, config, OPERATORS[flavour], where):
            if value.stored:
                widened -= value.elements
            else:
                elements += value.elements
            if elements > MAX_GRAPH_ELEMENTS or widened < 0:
                raise GraphError(f"{where}: its values take more memory than any model's")
            values[value.name] = value
    for name, (_, shape) in outputs.items():
        found = values[name].shape if name in values else None
        if found != shape or name in inputs:
            raise GraphError(f"{where}: {name} comes out as {found}, the contract says {shape}")


def _check_outline(model: Any, where: str) -> None:
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        raise GraphError(f"{where} has functions, training or sparse parts; none is allowed")
    if graph.value_info or graph.quantization_annotation or model.metadata_props:
        raise GraphError(f"{where} carries notes on values or on itself; none is allowed")
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx", "com.microsoft"):
            raise GraphError(f"{where} imports operators of {opset.domain!r:.60}")
    if len(graph.node) > MAX_NODES:
        raise GraphError(f"{where} has {len(graph.node)} nodes; at most {MAX_NODES} are allowed")
    for text in _texts(graph):
        # protobuf hands out bytes where a string is not UTF-8
        if not isinstance(text, str) or len(text) > MAX_NAME_CHARACTERS:
            raise GraphError(f"{where} has a name that is no text or too long: {text!r:.60}")


def _texts(graph: Any) -> Iterator[object]:
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for tensor in graph.initializer:
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)
    for value in (*graph.input, *graph.output):
        yield value.name


def _check_declared(values: Any, expected: Contract, what: str) -> None:
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
        if DTYPES.get(tensor.elem_type, ("", 0))[0] != dtype:
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


def _results(
    node: Any,
    number: int,
    values: Mapping[str, Value],
    config: ModelConfig,
    operators: Mapping[tuple[str, str], Operator],
    where: str,
) -> Iterator[Value]:
    """Check a node and yield what it writes."""
    key = (node.domain if node.domain != "ai.onnx" else "", node.op_type)
    if key not in operators:
        domain = f"{node.domain}." if node.domain else ""
        raise GraphError(f"{where} uses the operator {domain}{node.op_type}, which is not allowed")
    what = f"{where}: node {number} ({node.op_type})"
    for name in node.input:
        if name and name not in values:
            raise GraphError(f"{what} reads {name!r:.80} before anything writes it")
    inputs = [values[name] if name else None for name in node.input]
    call = Call(inputs, list(node.output), _attributes(node, operators[key], what), config)
    try:
        results = operators[key].rule(call)
    except Mismatch as problem:
        raise GraphError(f"{what}: {problem}") from None
    written = set()
    for name, result in zip(node.output, results, strict=False):
        if not name:
            continue
        result = result if isinstance(result, Result) else Result(result)
        if name in values or name in written:
            raise GraphError(f"{what} writes {name!r:.80}, which is already there")
        symbols = [size for size in result.shape if isinstance(size, str)]
        if len(set(symbols)) < len(symbols):
            raise GraphError(f"{what} makes a value with an axis twice, {result.shape}")
        # What is made of weights as the graph is loaded is as large as they make it.
        stored = node.op_type in FOLDED and inputs[0] is not None and inputs[0].stored
        value = Value(name, result.shape, result.dtype, stored=stored, size=result.size)
        if value.elements > MAX_VALUE_ELEMENTS and not stored:
            raise GraphError(f"{what} makes a value as large as {result.shape}")
        written.add(name)
        yield value
    for name in node.input:
        if name.startswith("past_key_values.") and node.op_type not in CACHE_WRITERS:
            raise GraphError(f"{what} reads the cache {name!r:.80}, which is written in place")


def _attributes(node: Any, operator: Operator, what: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for attribute in node.attribute:
        name = attribute.name
        if attribute.type == 2 and name in operator.integers:
            result[name] = attribute.i
        elif attribute.type == 1 and name in operator.floats and math.isfinite(attribute.f):
            result[name] = attribute.f
        elif attribute.type == 7 and name in operator.lists:
            result[name] = tuple(attribute.ints)
        else:
            raise GraphError(f"{what} has the attribute {name!r:.60}, which is not allowed")
        if attribute.ref_attr_name:
            raise GraphError(f"{what} refers to an attribute of a function")
    if len(result) != len(node.attribute):
        raise GraphError(f"{what} names an attribute twice")
    return result
