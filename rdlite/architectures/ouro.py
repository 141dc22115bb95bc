"""Ouro 1.4B and 2.6B, Thinking ones too (arXiv 2510.25741): config, weights and graphs.

The whole stack of layers is the core. It starts from the embeddings themselves, and a norm ends
every step; the normed state goes on to the next step, to the exit gate and to the head.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from rdlite.architectures.hf_config import ConfigReader
from rdlite.architectures.rotary_config import read_rotary
from rdlite.architectures.stack import stack_weights
from rdlite.config.model import LayerCounts, ModelConfig, Recurrence
from rdlite.graphs.builder import GraphBuilder, Weight
from rdlite.graphs.layers import (
    attention,
    embed,
    gated_mlp,
    linear,
    reduce_last,
    rms_norm,
)

MODEL_TYPES = ("ouro",)
MARK = None
STOP_TOKENS = ("<|endoftext|>", "<|im_end|>")
REDUNDANT = ()
NORMS = {
    "norm_1": "input_layernorm",
    "norm_2": "input_layernorm_2",
    "norm_3": "post_attention_layernorm",
    "norm_4": "post_attention_layernorm_2",
}
NORMS_IN_GGUF = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
PAIRED_IN_GGUF = True
GGUF_DEFAULTS: Mapping[str, Any] = {
    "prelude_block_count": 0,
    "coda_block_count": 0,
    "max_recurrence": 0,  # as deep as it was trained
    "embedding_scale": 1.0,
    "state_init": "embeds",
    "state_init_std": 0.0,
}


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Turn a hub config.json into a ModelConfig; raises FamilyError for what it does not know."""
    keys = ConfigReader(raw, "ouro")
    width, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    layers, loops = keys.integer("num_hidden_layers"), keys.integer("total_ut_steps")
    config = ModelConfig(
        family="ouro",
        vocab_size=keys.integer("vocab_size"),
        hidden_size=width,
        intermediate_size=keys.integer("intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=keys.integer("num_key_value_heads", default=heads),
        head_dim=keys.integer("head_dim", default=width // heads),
        context_length=keys.integer("max_position_embeddings"),
        norm_eps=keys.number("rms_norm_eps"),
        embedding_scale=1.0,
        qk_bias=False,
        tied_embedding=keys.boolean("tie_word_embeddings", default=False),
        layers=LayerCounts(prelude=0, core=layers, coda=0),
        rotary=read_rotary(keys, "rope_theta"),
        recurrence=Recurrence(
            "embeds",
            initial_std=0.0,
            mean_steps=loops,
            max_steps=loops,
            exit_threshold=keys.number("early_exit_threshold", default=1),
        ),
    )
    keys.must_be("hidden_act", "silu")
    keys.must_be("attention_bias", False)
    keys.must_be("use_sliding_window", False)
    keys.must_be("layer_types", ["full_attention"] * layers)
    keys.harmless("attention_dropout", "chunk_size", "max_window_layers", "sliding_window")
    keys.finish()
    return config


def weights(config: ModelConfig) -> dict[str, Weight]:
    """Every weight of the model by rdlite's name."""
    result = stack_weights(config, NORMS, "core.norm.weight")
    if config.recurrence.exit_threshold is not None:
        gate, width = "model.early_exit_gate", config.hidden_size
        result["core.gate.weight"] = Weight(
            (width,), (f"{gate}.weight",), source_shape=(1, width), make=_flat
        )
        result["core.gate.bias"] = Weight((1,), (f"{gate}.bias",))
    return result


def _flat(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return array.reshape(-1)


def state_norm(config: ModelConfig) -> str:
    """Name the norm whose output is the state after a core step."""
    return "core.norm.weight"


def prelude(g: GraphBuilder, input_ids: ir.Value) -> ir.Value:
    """Token ids to embeddings, from which the state starts: [B, S] -> [B, S, E]."""
    return embed(g, input_ids)


def core(g: GraphBuilder, state: ir.Value, embeds: ir.Value) -> ir.Value:
    """One loop over all layers: [B, S, E] -> [B, S, E], and the gate's word on it."""
    x = state
    for i in range(g.config.layers.core):
        x = _block(g, x, f"core.{i}", i)
    x = rms_norm(g, x, "core.norm")
    if g.config.recurrence.exit_threshold is None:  # GGUF files of others leave the gate out
        return x
    gate = reduce_last(g, "ReduceSum", g.op.Mul(x, g.weight("core.gate.weight")))
    exit_probability = g.op.Sigmoid(g.op.Add(gate, g.weight("core.gate.bias")))
    g.output(exit_probability, "exit_probability", np.float32, ["B", "S"])
    return x


def coda(g: GraphBuilder, state: ir.Value, logit_positions: ir.Value) -> ir.Value:
    """Decode a state: [B, S, E] -> logits [B, P, V] at the P wanted positions."""
    x = g.op.Gather(state, logit_positions, axis=1)
    return linear(g, x, "embedding" if g.config.tied_embedding else "head")


def _block(g: GraphBuilder, x: ir.Value, name: str, layer: int) -> ir.Value:
    # Norms before and after attention and MLP, all inside the residual.
    y = attention(g, rms_norm(g, x, f"{name}.norm_1"), f"{name}.attn", layer)
    x = g.op.Add(rms_norm(g, y, f"{name}.norm_2"), x)
    y = gated_mlp(g, rms_norm(g, x, f"{name}.norm_3"), f"{name}.mlp")
    return g.op.Add(rms_norm(g, y, f"{name}.norm_4"), x)
