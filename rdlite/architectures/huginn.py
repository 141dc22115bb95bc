"""Huginn-0125 and other checkpoints of its shape (arXiv 2502.05171): config, weights and graphs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from rdlite.architectures import raven
from rdlite.architectures.hf_config import ConfigReader
from rdlite.architectures.raven import MODEL_TYPES as MODEL_TYPES
from rdlite.architectures.rotary_config import read_rotary
from rdlite.config.model import ModelConfig, Rotary
from rdlite.errors import FamilyError
from rdlite.graphs.builder import GraphBuilder, Weight
from rdlite.graphs.layers import add_rms_norm, attention, embed, gated_mlp, rms_norm

MARK = "norm_3.weight"

#: An answer ends at any of these, whatever generation_config.json says.
STOP_TOKENS = ("<|begin_text|>", "<|end_text|>", "<|end_turn|>")

#: Tensors that may be in a checkpoint and are not needed: they follow from others.
REDUNDANT = ("freqs_cis",)
NORMS_IN_GGUF = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
PAIRED_IN_GGUF = False
GGUF_DEFAULTS: Mapping[str, Any] = {}


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Turn a hub config.json into a ModelConfig; raises FamilyError for what it does not know."""
    keys = ConfigReader(raw, "huginn")
    sizes = raven.read_sizes(keys)
    width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if width % heads:
        raise FamilyError(f"config: n_embd ({width}) must be a multiple of the heads ({heads})")
    # The published code multiplies by sqrt(E) whatever `init_values` says.
    scale = float(np.sqrt(width))
    config = ModelConfig(
        family="huginn",
        context_length=keys.integer("block_size"),
        embedding_scale=scale,
        rotary=_rotary(keys),
        recurrence=raven.read_recurrence(keys, width, scale),
        **sizes,
    )
    keys.must_be("head_dim", width // heads)
    raven.finish(keys, config)
    return config


def _rotary(keys: ConfigReader) -> Rotary:
    rotary = read_rotary(keys, "rope_base", interleaved=True, default=50000.0)
    if rotary.scaling is not None:
        raise FamilyError("config: huginn is only known without stretched rotary positions")
    return rotary


def weights(config: ModelConfig) -> dict[str, Weight]:
    """Every weight of the model by rdlite's name."""
    result = raven.outer_weights(config)
    for name, source in raven.block_names(config):
        result |= raven.block_weights(config, name, source, norms=4)
        if config.qk_bias:
            result[f"{name}.attn.qkv.bias"] = _packed_bias(config, source)
    return result


def _packed_bias(config: ModelConfig, source: str) -> Weight:
    heads, key_value_heads = config.num_attention_heads, config.num_key_value_heads
    if heads != key_value_heads:
        raise FamilyError("config: qk_bias needs as many key/value heads as query heads")
    packed = 3 * heads * config.head_dim

    def make(qk_bias: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        # The operator has no bias input, so q's and k's go in front of zeros for v.
        return np.pad(qk_bias.reshape(-1), (0, packed - qk_bias.size))

    shape = (2, 1, heads, config.head_dim)
    return Weight((packed,), (f"{source}.attn.qk_bias",), source_shape=shape, make=make)


def state_norm(config: ModelConfig) -> str:
    """Name the norm whose output is the state after a core step."""
    return f"core.{config.layers.core - 1}.norm_4.weight"


def prelude(g: GraphBuilder, input_ids: ir.Value) -> ir.Value:
    """Token ids to the embeds that every core step is given: [B, S] -> [B, S, E]."""
    return raven.blocks(g, embed(g, input_ids), "prelude", _block)


def core(g: GraphBuilder, state: ir.Value, embeds: ir.Value) -> ir.Value:
    """One step of the recurrence: [B, S, E] -> [B, S, E]."""
    return raven.blocks(g, raven.inject(g, state, embeds), "core", _block)


def coda(g: GraphBuilder, state: ir.Value, logit_positions: ir.Value) -> ir.Value:
    """Decode a state: [B, S, E] -> logits [B, P, V] at the P wanted positions."""
    # The norm before the blocks and the one after them share their weight.
    x = raven.blocks(g, rms_norm(g, state, "norm"), "coda", _block)
    return raven.predict(g, x, logit_positions)


def _block(g: GraphBuilder, x: ir.Value, name: str, layer: int) -> ir.Value:
    # The outer norms come after the residual add: the "sandwich".
    y = attention(g, rms_norm(g, x, f"{name}.norm_1"), f"{name}.attn", layer)
    x = add_rms_norm(g, y, x, f"{name}.norm_2")
    y = gated_mlp(g, rms_norm(g, x, f"{name}.norm_3"), f"{name}.mlp")
    return add_rms_norm(g, y, x, f"{name}.norm_4")
