"""A checked graph, changed so that wide copies of its scales take no memory.

Scales are stored as float16, and Cast nodes widen them once, when the graph is loaded. onnxruntime
keeps the result for as long as the session lives, although most kernels copy it beside the packed
integers and never look at it again. So the scales of products are given to the session, in memory
that can be taken back, and those of an embedding are widened row by row, as they are looked up.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PRODUCT, LOOKUP = "MatMulNBits", "GatherBlockQuantized"
SCALES = 2  # which of their inputs


@dataclass(frozen=True, slots=True)
class Place:
    """Where float16 scales are stored: the file, the bytes before them, and their shape."""

    file: str
    offset: int
    shape: tuple[int, ...]


def with_wide_scales(graph: bytes, chosen: Callable[[Any], bool]) -> tuple[bytes, dict[str, Place]]:
    """Return the graph, and by name the scales that its session must be given, as float32.

    Args:
        graph: a serialized model that `check_graph` has checked.
        chosen: whether a MatMulNBits node never reads its scales once they are packed.
    """
    import onnx

    model: Any = onnx.ModelProto.FromString(graph)
    body = model.graph
    stored = {tensor.name: tensor for tensor in body.initializer if _is_stored_narrow(tensor)}
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in body.node:
        for position, name in enumerate(node.input):
            readers[name].append(node if position == SCALES else None)
    places: dict[str, Place] = {}
    nodes: list[Any] = []
    for node in body.node:
        widens = node.op_type == "Cast" and node.input[0] in stored
        using = readers[node.output[0]] if widens else []
        kinds = {each and each.op_type for each in using}
        if kinds == {PRODUCT} and all(map(chosen, using)):
            place = places[node.output[0]] = _place(stored[node.input[0]])
            body.initializer.append(_without_data(node.output[0], place))
        elif kinds == {LOOKUP}:
            for lookup in using:
                lookup.input[SCALES] = node.input[0]
        elif node.op_type == LOOKUP and node.input[SCALES] in stored:
            nodes += _by_rows(body, node)
        else:
            nodes.append(node)
    if len(nodes) == len(body.node):
        return graph, places
    changed = onnx.helper.make_graph(nodes, body.name, body.input, body.output)
    used = {name for node in nodes for name in node.input}
    changed.initializer.extend(tensor for tensor in body.initializer if tensor.name in used)
    body.CopyFrom(changed)
    return model.SerializeToString(deterministic=True), places


def _is_stored_narrow(tensor: Any) -> bool:
    return tensor.data_type == tensor.FLOAT16 and bool(tensor.external_data)


def _place(tensor: Any) -> Place:
    where = {entry.key: entry.value for entry in tensor.external_data}
    return Place(where["location"], int(where.get("offset", 0)), tuple(tensor.dims))


def _without_data(name: str, place: Place) -> Any:
    """Return an initializer; onnxruntime wants the name of a file that is there nevertheless."""
    import onnx

    kind = onnx.TensorProto.FLOAT
    tensor: Any = onnx.TensorProto(name=name, data_type=kind, dims=place.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place.file)
    return tensor


def _by_rows(body: Any, lookup: Any) -> list[Any]:
    """Return nodes that look up packed rows and scales of [B, S] ids first, and widen after."""
    import onnx

    packed, ids, scales = lookup.input
    base, made = lookup.output[0], list[Any]()

    def constant(name: str, shape: list[int], number: int) -> str:
        full, kind = f"{base}.{name}", onnx.TensorProto.INT64
        body.initializer.append(onnx.helper.make_tensor(full, kind, shape, [number]))
        return full

    def add(name: str, operator: str, *inputs: str, **attributes: Any) -> str:
        made.append(onnx.helper.make_node(operator, inputs, [f"{base}.{name}"], **attributes))
        return f"{base}.{name}"

    flat = add("flat", "Reshape", ids, constant("any", [1], -1))
    rows = add("rows", "Gather", packed, flat)
    wide = add("wide", "Cast", add("scales", "Gather", scales, flat), to=onnx.TensorProto.FLOAT)
    ends = constant("first", [], 0), add("count", "Size", ids), constant("step", [], 1)
    order = add("ids", "Reshape", add("order", "Range", *ends), add("shape", "Shape", ids))
    lookup.input[:] = [rows, order, wide]
    return [*made, lookup]
