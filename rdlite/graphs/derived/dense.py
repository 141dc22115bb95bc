"""A float16 graph whose packed weights are inputs: matrices of float16, that lie on a GPU already.

Kernels for packed weights win where one position is computed. From a few positions on they are
slower than the plain product of float16 matrices, although that reads four times as much.
"""

from dataclasses import dataclass
from typing import Any

from rdlite.graphs.derived.gpu import attribute

FLOAT16 = 10


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight of a graph.

    Attributes:
        name: of the graph's input.
        shape: [K, N]; positions are multiplied from the left.
        product: a graph of one node that multiplies `x`, float16 [M, K], by it: `y`, [M, N].
    """

    name: str
    shape: tuple[int, int]
    product: bytes


def with_dense_weights(graph: bytes) -> tuple[bytes, list[Matrix]]:
    """Return the graph with an input in place of each packed weight, and those weights.

    Args:
        graph: a serialized model with float16 activations.
    """
    import onnx
    from onnx import helper

    model = onnx.ModelProto.FromString(graph)
    body = model.graph
    tensors = {tensor.name: tensor for tensor in body.initializer}
    found: dict[str, Matrix] = {}
    for index, node in enumerate(body.node):
        if node.op_type != "MatMulNBits" or any(name not in tensors for name in node.input[1:]):
            continue
        packed = node.input[1]
        shape = attribute(node, "K").i, attribute(node, "N").i
        if packed not in found:
            product = _product(model, node, [tensors[name] for name in node.input[1:]], shape)
            found[packed] = Matrix(f"{packed}.dense", shape, product)
        plain = helper.make_node("MatMul", [node.input[0], found[packed].name], node.output)
        plain.name = node.name
        body.node[index].CopyFrom(plain)
    body.input.extend(
        helper.make_tensor_value_info(each.name, FLOAT16, each.shape) for each in found.values()
    )
    used = {name for node in body.node for name in node.input}
    kept = [tensor for tensor in body.initializer if tensor.name in used]
    del body.initializer[:]
    body.initializer.extend(kept)
    changed: bytes = model.SerializeToString(deterministic=True)
    return changed, list(found.values())


def _product(model: Any, node: Any, tensors: list[Any], shape: tuple[int, int]) -> bytes:
    from onnx import helper

    single = type(node)()
    single.CopyFrom(node)
    single.input[0], single.output[0] = "x", "y"
    graph = helper.make_graph(
        [single],
        "product",
        [helper.make_tensor_value_info("x", FLOAT16, ["M", shape[0]])],
        [helper.make_tensor_value_info("y", FLOAT16, ["M", shape[1]])],
        tensors,
    )
    made = helper.make_model(
        graph, ir_version=model.ir_version, opset_imports=list(model.opset_import)
    )
    packed: bytes = made.SerializeToString()
    return packed
