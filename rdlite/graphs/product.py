"""A graph of one matrix product with random weights, to try the kernel that onnxruntime has."""

from typing import Any

import numpy as np

#: Operator, bits, block size and accuracy level of a product.
Kind = tuple[str, int, int, int]


def kind_of(node: Any) -> Kind | None:
    """Return the kind of a product; None for a node that is none."""
    if node.op_type in ("FusedMatMul", "MatMul", "Gemm"):
        return "FusedMatMul", 0, 0, 0
    if node.op_type != "MatMulNBits":
        return None
    numbers = {each.name: each.i for each in node.attribute}
    return (
        "MatMulNBits",
        numbers["bits"],
        numbers["block_size"],
        numbers.get("accuracy_level", 0),
    )


def random_product(kind: Kind, rows: int, columns: int) -> Any:
    """Return a model of `x`, [1, M, columns], times the weights `w0` ...: `y`, [1, M, rows]."""
    import onnx
    from onnx import helper, numpy_helper

    operator, bits, block, level = kind
    rng = np.random.default_rng(1)
    if operator == "FusedMatMul":
        weights = [rng.standard_normal((rows, columns)).astype(np.float32)]
        settings: dict[str, Any] = {"transB": 1}
    else:
        blocks = -(-columns // block)
        packed = rng.integers(0, 256, (rows, blocks, block * bits // 8), np.uint8)
        scales = rng.uniform(0.001, 0.003, (rows, blocks)).astype(np.float32)
        weights = [packed, scales]
        settings = {"K": columns, "N": rows, "bits": bits, "block_size": block}
        settings["accuracy_level"] = level
    names = [f"w{index}" for index in range(len(weights))]
    node = helper.make_node(operator, ["x", *names], ["y"], domain="com.microsoft", **settings)
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, "M", size])
        for name, size in (("x", columns), ("y", rows))
    ]
    tensors = [numpy_helper.from_array(w, name) for w, name in zip(weights, names, strict=True)]
    graph = helper.make_graph([node], "product", values[:1], values[1:], tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, ir_version=10, opset_imports=opsets)
