"""A float16 graph, changed so that a step takes faster kernels on a GPU; the numbers stay.

One position keeps a GPU busy only while its weights are read, and what is small costs its start.
"""

from typing import Any

NORM, SKIP_NORM = "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"
#: The widest blocks that have a kernel of their own; wider ones are widened to float16 each time.
WIDEST = 128


def with_gpu_kernels(graph: bytes) -> bytes:
    """Return the graph with other operators for norms, and blocks that have kernels.

    Args:
        graph: a serialized model with float16 activations.
    """
    import onnx

    model = onnx.ModelProto.FromString(graph)
    body = model.graph
    nodes: list[Any] = []
    for node in body.node:
        if node.op_type == NORM and len(node.output) == 1:
            nodes.append(_as_skip_norm(node))
        elif node.op_type == "MatMulNBits" and attribute(node, "block_size").i > WIDEST:
            nodes += _narrowed(body, node)
        else:
            nodes.append(node)
    del body.node[:]
    body.node.extend(nodes)
    changed: bytes = model.SerializeToString(deterministic=True)
    return changed


def _as_skip_norm(node: Any) -> Any:
    """Return the norm of a value as that of the value added to itself, in half the time.

    `2x / sqrt(mean((2x)^2) + 4e)` is `x / sqrt(mean(x^2) + e)`.
    """
    from onnx import helper

    value, weight = node.input
    epsilon = 4 * attribute(node, "epsilon").f
    return helper.make_node(
        SKIP_NORM, [value, value, weight], node.output, domain="com.microsoft", epsilon=epsilon
    )


def _narrowed(body: Any, node: Any) -> list[Any]:
    """Return a product whose blocks are cut into several with the same scale, when it is loaded."""
    import onnx
    from onnx import helper

    value, packed, scales = node.input
    rows, columns = attribute(node, "N").i, attribute(node, "K").i
    bits, block = attribute(node, "bits").i, attribute(node, "block_size").i
    blocks, parts, wanted = -(-columns // block), block // WIDEST, -(-columns // WIDEST)
    base = node.output[0]

    def constant(name: str, numbers: list[int]) -> str:
        full = f"{base}.{name}"
        body.initializer.append(
            helper.make_tensor(full, onnx.TensorProto.INT64, [len(numbers)], numbers)
        )
        return full

    made: list[Any] = []

    def add(operator: str, inputs: list[str], name: str) -> str:
        made.append(helper.make_node(operator, inputs, [f"{base}.{name}"]))
        return f"{base}.{name}"

    size = WIDEST * bits // 8
    ends = [constant(name, [number]) for name, number in (("from", 0), ("to", wanted), ("axis", 1))]
    shape = constant("packed_shape", [rows, blocks * parts, size])
    cut = add("Slice", [add("Reshape", [packed, shape], "cut"), *ends], "packed")
    columned = add("Reshape", [scales, constant("column", [rows, blocks, 1])], "columns")
    repeated = add("Expand", [columned, constant("repeats", [1, 1, parts])], "repeated")
    flat = add("Reshape", [repeated, constant("scale_shape", [rows, blocks * parts])], "flat")
    product = type(node)()
    product.CopyFrom(node)
    product.input[:] = [value, cut, add("Slice", [flat, *ends], "scales")]
    attribute(product, "block_size").i = WIDEST
    return [*made, product]


def attribute(node: Any, name: str) -> Any:
    """Return an attribute that a node has."""
    return next(each for each in node.attribute if each.name == name)
