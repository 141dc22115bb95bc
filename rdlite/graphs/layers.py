"""The parts that looped models are built of, as ONNX operators; reads as the formulas.

Shapes: B batch, S new positions, E width, H query heads, K key/value heads, D head size,
C cache capacity, F the MLP's inner width. Activations are float32.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from rdlite.config.model import ModelConfig
from rdlite.graphs.builder import GraphBuilder, Make, Weight
from rdlite.graphs.rotary import TABLES, rotary_table


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
            block_size=g.quantization.block_of(name),
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
        block_size=g.quantization.block_of(name),
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
