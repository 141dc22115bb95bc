"""Whether rows of a call have, on this machine, the bits that they have alone.

That hangs on the kernels of matrix products, which onnxruntime chooses by processor, bits, block
size and accuracy level. So a small product of each kind that a model has is tried, once a process.
"""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdlite.ort.session import Session

#: Operator, bits, block size and accuracy level of a product.
Kind = tuple[str, int, int, int]
MOST = 16  # rows that are tried
#: With float32 activations a second row costs more than company is worth.
COSTLY_LEVEL = 1


def rows_pair(graphs: Iterable[bytes]) -> bool | None:
    """Say how positions must be called so that each has the same bits in any company.

    Returns:
        False: in any number. True: rows of even numbers of rows agree with each other, and not with
        a position alone; so that needs a row beside it. None: not by rows.
    """
    import onnx

    kinds = {
        kind
        for graph in graphs
        for node in onnx.ModelProto.FromString(graph).graph.node
        if (kind := _kind(node)) is not None
    }
    found = [_try(kind) for kind in sorted(kinds)]
    if any(each is None for each in found):
        return None
    return any(found)  # kinds that agree with single calls agree with even ones all the more


def _kind(node: Any) -> Kind | None:
    if node.op_type in ("FusedMatMul", "MatMul", "Gemm"):
        return "FusedMatMul", 0, 0, 0
    if node.op_type != "MatMulNBits":
        return None
    numbers: Mapping[str, int] = {each.name: each.i for each in node.attribute}
    level = numbers.get("accuracy_level", 0)
    return "MatMulNBits", numbers["bits"], numbers["block_size"], level


@functools.cache
def _try(kind: Kind) -> bool | None:
    _, _, block, level = kind
    columns = max(4 * block, 256)
    rng = np.random.default_rng(0)
    session = Session("rows", _product(kind, columns), Path.cwd(), 1)
    rows = rng.standard_normal((1, MOST, columns)).astype(np.float32)

    def product(x: Any) -> Any:
        result = np.zeros((1, x.shape[1], 48), np.float32)
        session.bind({"x": np.ascontiguousarray(x)}, {"y": result})()
        return result[0]

    alone = np.concatenate([product(rows[:, i : i + 1]) for i in range(MOST)])
    if all(np.array_equal(product(rows[:, :n]), alone[:n]) for n in range(2, MOST + 1)):
        return False
    if level == COSTLY_LEVEL:
        return None
    nothing = np.zeros_like(rows[:, :1])
    beside = np.concatenate(
        [product(np.concatenate((rows[:, i : i + 1], nothing), 1))[:1] for i in range(MOST)]
    )
    even = range(2, MOST + 1, 2)
    return True if all(np.array_equal(product(rows[:, :n]), beside[:n]) for n in even) else None


def _product(kind: Kind, columns: int) -> bytes:
    import onnx
    from onnx import helper, numpy_helper

    operator, bits, block, level = kind
    rng, rows = np.random.default_rng(1), 48
    if operator == "FusedMatMul":
        weights = [rng.standard_normal((rows, columns)).astype(np.float32)]
        settings: dict[str, Any] = {"transB": 1}
    else:
        blocks = columns // block
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
    graph = helper.make_graph([node], "rows", values[:1], values[1:], tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    made: bytes = helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()
    return made
