"""8-bit products as two 4-bit ones: the same numbers, from the same bytes."""

import numpy as np
import onnx
import pytest

from rdlite.graphs.derived.int8_halves import with_int8_halves
from rdlite.graphs.packing import dequantize, in_blocks, pack
from rdlite.ort.session import Session


def product(columns, block, level, rows=48, seed=0):
    """A graph that multiplies with an 8-bit weight, and that weight as float32."""
    rng = np.random.default_rng(seed)
    codes = in_blocks(rng.integers(-128, 128, (rows, columns)).astype(np.float32), block)
    codes = codes.astype(np.int8)
    scales = rng.uniform(0.5, 2, codes.shape[:2]).astype(np.float16)
    node = onnx.helper.make_node(
        "MatMulNBits",
        ["x", "w", "s"],
        ["y"],
        domain="com.microsoft",
        K=columns,
        N=rows,
        bits=8,
        block_size=block,
        accuracy_level=level,
    )
    graph = onnx.helper.make_graph(
        [node],
        "product",
        [onnx.helper.make_tensor_value_info("x", 1, ["B", "S", columns])],
        [onnx.helper.make_tensor_value_info("y", 1, ["B", "S", rows])],
        [
            onnx.numpy_helper.from_array(pack(codes, 8), "w"),
            onnx.numpy_helper.from_array(scales.astype(np.float32), "s"),
        ],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return model.SerializeToString(), dequantize(codes, scales, columns)


@pytest.mark.parametrize(("columns", "block"), [(64, 32), (96, 32), (100, 64), (256, 128)])
def test_the_halves_add_up(columns, block, tmp_path):
    graph, weight = product(columns, block, 1)
    changed = with_int8_halves(graph)
    found = [node.op_type for node in onnx.ModelProto.FromString(changed).graph.node]
    assert found.count("MatMulNBits") == 2
    session = Session("core", changed, tmp_path, 1)
    for rows in (1, 3):
        x = np.random.default_rng(1).standard_normal((1, rows, columns)).astype(np.float32)
        y = np.zeros((1, rows, 48), np.float32)
        session.bind({"x": x}, {"y": y})()
        wanted = x.astype(np.float64) @ weight.T.astype(np.float64)
        assert np.abs(y - wanted).max() / np.abs(wanted).max() < 1e-6


def test_other_products_stay():
    graph, _ = product(64, 32, 4)
    assert with_int8_halves(graph) == graph
