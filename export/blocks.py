"""The parts that looped models are built of, as ONNX operators; reads as the formulas.

Shapes: B batch, S new positions, E width, H query heads, K key/value heads, D head size,
C cache capacity, F the MLP's inner width. Activations are float32.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from rdlite.config import ModelConfig
from rdlite.quantization import Quantization
from rdlite.rotary import TABLES, rotary_table

from .packing import packed_shape

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
        bits, block_size = self.quantization.bits[name], self.quantization.block_size
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


def embed(g: GraphBuilder, input_ids: ir.Value) -> ir.Value:
    """Rows of the embedding, times its scale: [B, S] -> [B, S, E]."""
    name = "embedding.weight"
    if name in g.quantization.bits:
        packed, scales = g.packed_weight(name, rows=True)
        x = g.op.GatherBlockQuantized(
            packed,
            input_ids,
            scales,
            gather_axis=0,
            quantize_axis=1,
            bits=g.quantization.bits[name],
            block_size=g.quantization.block_size,
        )
    else:
        x = g.op.Gather(g.weight(name), input_ids, axis=0)
    if g.config.embedding_scale == 1:
        return x
    return g.op.Mul(x, g.constant(g.config.embedding_scale, np.float32, "embedding.scale"))


def linear(g: GraphBuilder, x: ir.Value, name: str) -> ir.Value:
    """`x @ weight.T`, the weight being [out, in] as checkpoints and quantized layouts keep it."""
    name = f"{name}.weight"
    if name not in g.quantization.bits:
        return g.op.FusedMatMul(x, g.weight(name), transB=1)
    rows, columns = g.shape(name)
    return g.op.MatMulNBits(
        x,
        *g.packed_weight(name),
        K=columns,
        N=rows,
        bits=g.quantization.bits[name],
        block_size=g.quantization.block_size,
        accuracy_level=g.quantization.accuracy_level,
    )


def rms_norm(g: GraphBuilder, x: ir.Value, name: str) -> ir.Value:
    """`x / rms(x) * weight`, in float32."""
    return g.op.SimplifiedLayerNormalization(
        x, g.weight(f"{name}.weight"), axis=-1, epsilon=g.config.norm_eps, stash_type=1
    )


def add_rms_norm(g: GraphBuilder, x: ir.Value, y: ir.Value, name: str) -> ir.Value:
    """`rms_norm(x + y)` in one operator."""
    return g.op.SkipSimplifiedLayerNormalization(
        x, y, g.weight(f"{name}.weight"), epsilon=g.config.norm_eps
    )


def attention(
    g: GraphBuilder, x: ir.Value, name: str, layer: int, qk_norm: bool = False
) -> ir.Value:
    """Causal self-attention over the cache of the graph's layer number `layer`: [B, S, E] -> same.

    The packed projection holds q, k and v heads in this order; rotary is inside the operator,
    which writes the new keys and values into the cache it is given. With `qk_norm`, all queries of
    a position are normed together, and all its keys.
    """
    config = g.config
    shape: list[int | str] = ["B", config.num_key_value_heads, "C", config.head_dim]
    past = [
        g.input(f"past_key_values.{layer}.{part}", np.float32, shape) for part in ("key", "value")
    ]
    qkv = linear(g, x, f"{name}.qkv")
    if config.qk_bias:
        qkv = g.op.Add(qkv, g.weight(f"{name}.qkv.bias"))
    query_key_value: Sequence[ir.Value | None] = (qkv, None, None)
    if qk_norm:
        heads, shared = config.num_attention_heads, config.num_key_value_heads
        sizes = [count * config.head_dim for count in (heads, shared, shared)]
        sizes_value = g.constant(sizes, np.int64, "attn.sizes")
        q, k, v = g.op.several(3, "Split", qkv, sizes_value, axis=-1)
        query_key_value = rms_norm(g, q, f"{name}.q_norm"), rms_norm(g, k, f"{name}.k_norm"), v
    y, key, value = g.op.several(
        3,
        "GroupQueryAttention",
        *query_key_value,
        *past,
        g.seqlens_k,
        g.total_sequence_length,
        g.weight("rotary.cos"),
        g.weight("rotary.sin"),
        num_heads=config.num_attention_heads,
        kv_num_heads=config.num_key_value_heads,
        scale=config.head_dim**-0.5,
        do_rotary=1,
        rotary_interleaved=int(config.rotary.interleaved),
    )
    g.output(key, f"present.{layer}.key", np.float32, shape)
    g.output(value, f"present.{layer}.value", np.float32, shape)
    return linear(g, y, f"{name}.out")


def gated_mlp(g: GraphBuilder, x: ir.Value, name: str) -> ir.Value:
    """`down(silu(gate) * up)`; gate and up are the two halves of one projection."""
    gate, up = g.op.several(2, "Split", linear(g, x, f"{name}.gate_up"), axis=-1, num_outputs=2)
    gate = g.op.QuickGelu(gate, alpha=1.0)  # with alpha 1 this is SiLU
    return linear(g, g.op.Mul(gate, up), f"{name}.down")


def reduce_last(g: GraphBuilder, operator: str, x: ir.Value) -> ir.Value:
    """ReduceSum or ReduceL2 over the last axis: [..., N] -> [...]."""
    reduced: ir.Value = getattr(g.op, operator)(
        x, g.constant([-1], np.int64, "last_axis"), keepdims=0
    )
    return reduced


def rotary_weights(config: ModelConfig) -> dict[str, Weight]:
    """Cosine and sine tables, [positions, D/2], computed in float32 like the published code."""

    def table(name: str) -> Make:
        return lambda: rotary_table(config, name, config.rotary_positions)

    shape = (config.rotary_positions, config.head_dim // 2)
    return {name: Weight(shape, make=table(name)) for name in TABLES}
