"""Llama models retrofitted with recurrence (arXiv 2511.07384): Recurrent-Llama-3.2, -TinyLlama."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rdlite.architectures import raven
from rdlite.architectures.raven import MODEL_TYPES as MODEL_TYPES
from rdlite.config.model import ModelConfig
from rdlite.graphs.builder import GraphBuilder, Weight
from rdlite.graphs.layers import attention, embed, gated_mlp, rms_norm

#: Huginn and the retrofitted OLMo have tensors that this family has not.
MARK = None
STOP_TOKENS = ("<|end_of_text|>", "<|eot_id|>", "</s>")
REDUNDANT = ()
NORMS_IN_GGUF = ("attn_norm", "ffn_norm")
PAIRED_IN_GGUF = False
GGUF_DEFAULTS: Mapping[str, Any] = {}


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Turn a hub config.json into a ModelConfig; raises FamilyError for what it does not know."""
    return raven.read_retrofitted(raw, "recurrent-llama")


def weights(config: ModelConfig) -> dict[str, Weight]:
    """Every weight of the model by rdlite's name."""
    result = raven.outer_weights(config)
    for name, source in raven.block_names(config):
        result |= raven.block_weights(config, name, source, norms=2)
    return result


def state_norm(config: ModelConfig) -> None:
    """A step ends with a residual add."""


def prelude(g: GraphBuilder, input_ids: ir.Value) -> ir.Value:
    """Token ids to the embeds that every core step is given: [B, S] -> [B, S, E]."""
    return raven.blocks(g, embed(g, input_ids), "prelude", _block)


def core(g: GraphBuilder, state: ir.Value, embeds: ir.Value) -> ir.Value:
    """One step of the recurrence: [B, S, E] -> [B, S, E]."""
    return raven.blocks(g, raven.inject(g, state, embeds), "core", _block)


def coda(g: GraphBuilder, state: ir.Value, logit_positions: ir.Value) -> ir.Value:
    """Decode a state: [B, S, E] -> logits [B, P, V] at the P wanted positions."""
    return raven.predict(g, raven.blocks(g, state, "coda", _block), logit_positions)


def _block(g: GraphBuilder, x: ir.Value, name: str, layer: int) -> ir.Value:
    y = attention(g, rms_norm(g, x, f"{name}.norm_1"), f"{name}.attn", layer)
    x = g.op.Add(y, x)
    y = gated_mlp(g, rms_norm(g, x, f"{name}.norm_2"), f"{name}.mlp")
    return g.op.Add(y, x)
