"""Collects the nodes and weights of one ONNX graph."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from rdlite.config.model import ModelConfig
from rdlite.config.quantization import Quantization
from rdlite.graphs.packing import packed_shape

OPSET, IR_VERSION = 21, 10
MICROSOFT = "com.microsoft"
FUSED = {
    "FusedMatMul",
    "GatherBlockQuantized",
    "GroupQueryAttention",
    "MatMulNBits",
    "QuickGelu",
    "SkipSimplifiedLayerNormalization",
}

Floats = npt.NDArray[np.float32]
Make = Callable[..., Floats]


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of a model: its shape, and how it comes out of the checkpoint.

    `sources` are checkpoint tensors that together, one after the other, are the weight row by
    row. With `make`, a small one, it is `make(*sources)` instead, `source_shape` being theirs.
    `source_rows` says how many rows each has, where that differs.
    """

    shape: tuple[int, ...]
    sources: tuple[str, ...] = ()
    source_shape: tuple[int, ...] | None = None
    make: Make | None = None
    source_rows: tuple[int, ...] | None = None


Weights = Mapping[str, Weight]


class GraphBuilder:
    """Collects one graph's nodes, inputs, outputs and weights. `g.op.Add(x, y)` adds a node."""

    def __init__(
        self, config: ModelConfig, weights: Weights, quantization: Quantization | None = None
    ) -> None:
        self.config = config
        self.quantization = quantization or Quantization("none")
        self.op = _Operators()
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self.weight_values: dict[str, ir.Value] = {}
        self._weights = weights
        self._constants: dict[str, ir.Value] = {}
        self.seqlens_k = self.input("seqlens_k", np.int32, ["B"])
        self.total_sequence_length = self.input("total_sequence_length", np.int32, [])

    def input(self, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> ir.Value:
        """Declare a graph input."""
        value = _value(name, dtype, shape)
        self.inputs.append(value)
        return value

    def output(
        self, value: ir.Value, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]
    ) -> None:
        """Declare `value` a graph output called `name`."""
        value.name = name
        value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
        value.shape = ir.Shape(shape)
        self.outputs.append(value)

    def weight(self, name: str) -> ir.Value:
        """Return the model's weight `name` as an initializer, one however often it is used."""
        return self._initializer(name, np.float32, self._weights[name].shape)

    def packed_weight(self, name: str, rows: bool = False) -> tuple[ir.Value, ir.Value]:
        """Return the integers and the scales of a quantized weight [N, K].

        Args:
            name: of the weight.
            rows: the integers as [N, bytes of a row], not [N, blocks, bytes of a block]; the same
                bytes.
        """
        bits, block_size = self.quantization.bits[name], self.quantization.block_of(name)
        shape = self._weights[name].shape
        n, blocks, size = packed_shape(shape, bits, block_size)
        packed = (n, blocks * size) if rows else (n, blocks, size)
        # Float16 on disk; onnxruntime widens them once, when the graph is loaded.
        scales = self._initializer(f"{name}.scales", np.float16, (n, blocks))
        return (
            self._initializer(f"{name}.packed", np.uint8, packed),
            self.op.Cast(scales, to=ir.DataType.FLOAT),
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the model's weight `name`."""
        return self._weights[name].shape

    def _initializer(self, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> ir.Value:
        if name not in self.weight_values:
            self.weight_values[name] = _value(name, dtype, shape)
        return self.weight_values[name]

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike, name: str) -> ir.Value:
        """Return a small constant that lives in the graph file itself; one for each name."""
        if name in self._constants:
            return self._constants[name]
        tensor = ir.tensor(np.asarray(value, dtype), name=name)
        constant = _value(name, dtype, tensor.shape.numpy())
        constant.const_value = tensor
        self._constants[name] = constant
        return constant

    def finish(self, name: str) -> ir.Model:
        """Return the graph; its weights have names and shapes but no data yet."""

        def is_cache(value: ir.Value) -> bool:
            return value.name is not None and value.name.startswith(("past_key_", "present."))

        graph = ir.Graph(
            sorted(self.inputs, key=is_cache),  # the cache comes last
            sorted(self.outputs, key=is_cache),
            nodes=self.op.tape.nodes,
            initializers=[*self.weight_values.values(), *self._constants.values()],
            opset_imports={"": OPSET, MICROSOFT: 1},
            name=name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="rdlite")


class _Operators:
    """`op.Name(inputs, attribute=...)` records a node; fused ones are found in their domain."""

    def __init__(self) -> None:
        self.tape = ir.tape.Tape()

    def __getattr__(self, name: str) -> Callable[..., ir.Value]:
        def record(*inputs: ir.Value | None, **attributes: Any) -> ir.Value:
            return self.tape.op(name, inputs, attributes, domain=_domain(name))

        return record

    def several(
        self, outputs: int, name: str, *inputs: ir.Value | None, **attributes: Any
    ) -> Sequence[ir.Value]:
        """Record a node with more than one output."""
        return self.tape.op_multi_out(
            name, inputs, attributes, num_outputs=outputs, domain=_domain(name)
        )


def _domain(operator: str) -> str:
    return MICROSOFT if operator in FUSED else ""


def _value(name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> ir.Value:
    kind = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
    return ir.Value(name=name, type=kind, shape=ir.Shape(shape))
