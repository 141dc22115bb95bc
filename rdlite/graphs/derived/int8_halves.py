"""A checked graph, changed so that 8-bit weights are multiplied as two 4-bit halves.

onnxruntime has fast kernels for 8-bit weights only where it rounds activations to int8 too
(accuracy level 4); with float32 activations one row of a large matrix takes 80 times as long. Its
4-bit kernels are fast at either level. An 8-bit integer is 16 times its high half plus its low
half, so two 4-bit products, added, are the same numbers. The halves follow from the stored bytes
by nodes that onnxruntime applies once, when the graph is loaded: bundles keep one set of bytes.
"""

from typing import Any

#: A high half counts 16 times.
BASE = 16.0


def with_int8_halves(graph: bytes) -> bytes:
    """Return the graph with 8-bit products of accuracy level 1 as sums of two 4-bit ones.

    Args:
        graph: a serialized model that `check_graph` has checked.

    Returns:
        The same graph where it has no such product.
    """
    import onnx

    model = onnx.ModelProto.FromString(graph)
    nodes = [*model.graph.node]
    if not any(map(_is_wide, nodes)):
        return graph
    writer = _Writer(model.graph, nodes)
    del model.graph.node[:]
    for node in nodes:
        if _is_wide(node):
            writer.split(node)
        else:
            model.graph.node.append(node)
    changed: bytes = model.SerializeToString(deterministic=True)
    return changed


def _numbers(node: Any) -> dict[str, int]:
    return {attribute.name: attribute.i for attribute in node.attribute}


def _is_wide(node: Any) -> bool:
    numbers = _numbers(node)
    return bool(
        node.op_type == "MatMulNBits"
        and numbers.get("bits") == 8
        and numbers.get("accuracy_level", 0) == 1
        and len(node.input) == 3  # without zero points, as rdlite writes them
    )


class _Writer:
    """Adds nodes and small constants to a graph, under names that it does not have."""

    def __init__(self, graph: Any, nodes: list[Any]) -> None:
        self._graph = graph
        self._taken = {name for node in nodes for name in (*node.input, *node.output)}
        self._taken |= {tensor.name for tensor in graph.initializer}
        self._constants: dict[tuple[str, tuple[int, ...]], str] = {}

    def split(self, node: Any) -> None:
        """Add what stands for one product."""
        x, packed, scales = node.input
        numbers = _numbers(node)
        rows, block = numbers["N"], numbers["block_size"]
        blocks = -(-numbers["K"] // block)
        low_bits = self._constant("low_bits", (), b"\x0f")
        high_bits = self._constant("high_bits", (), b"\xf0")
        four = self._constant("four", (), b"\x04")
        even, odd = (self._slice(packed, first, block) for first in (0, 1))
        # Neighbours share a byte, the first of them in its lower bits.
        high = self._add(
            "BitwiseOr",
            self._add("BitShift", even, four, direction="RIGHT"),
            self._add("BitwiseAnd", odd, high_bits),
        )
        low = self._add(
            "BitwiseOr",
            self._add("BitwiseAnd", even, low_bits),
            self._add("BitShift", odd, four, direction="LEFT"),
        )
        shape = (rows, (blocks + 1) // 2)
        zeros = self._constant("zero_points", shape, bytes(shape[0] * shape[1]))
        wide = self._add("Mul", scales, self._base())
        packing: dict[str, Any] = {**numbers, "bits": 4}
        halves = [
            self._add("MatMulNBits", x, *inputs, domain=node.domain, **packing)
            for inputs in ((high, wide), (low, scales, zeros))  # 8 means zero where none is given
        ]
        self._add("Add", *halves, output=node.output[0])

    def _slice(self, packed: str, first: int, end: int) -> str:
        bounds = [self._integer(value) for value in (first, end, 2, 2)]  # axis 2, every second
        return self._add("Slice", packed, *bounds)

    def _integer(self, value: int) -> str:
        import onnx

        return self._constant(
            f"int.{value}", (1,), value.to_bytes(8, "little"), onnx.TensorProto.INT64
        )

    def _base(self) -> str:
        import numpy as np
        import onnx

        return self._constant("base", (), np.float32(BASE).tobytes(), onnx.TensorProto.FLOAT)

    def _constant(
        self, name: str, shape: tuple[int, ...], data: bytes, kind: int | None = None
    ) -> str:
        import onnx

        key = name, shape
        if key not in self._constants:
            self._constants[key] = new = self._new(name)
            kind = onnx.TensorProto.UINT8 if kind is None else kind
            tensor = onnx.helper.make_tensor(new, kind, shape, data, raw=True)
            self._graph.initializer.append(tensor)
        return self._constants[key]

    def _add(
        self, operator: str, *inputs: str, domain: str = "", output: str = "", **attributes: Any
    ) -> str:
        import onnx

        output = output or self._new(f"{inputs[0]}.{operator}")
        node = onnx.helper.make_node(operator, inputs, [output], domain=domain, **attributes)
        self._graph.node.append(node)
        return output

    def _new(self, name: str) -> str:
        name = f"halves.{name}"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name
