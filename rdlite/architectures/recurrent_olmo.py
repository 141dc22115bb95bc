"""OLMo 2 models retrofitted with recurrence (arXiv 2511.07384): Recurrent-OLMo-2."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rdlite.architectures import raven
from rdlite.architectures.raven import MODEL_TYPES as MODEL_TYPES
from rdlite.config.model import ModelConfig
from rdlite.graphs.builder import GraphBuilder, Weight
from rdlite.graphs.layers import attention, embed, gated_mlp, rms_norm

MARK = "attn.q_norm.weight"
STOP_TOKENS = ("<|endoftext|>",)
REDUNDANT = ()
NORMS_IN_GGUF = ("post_attention_norm", "post_ffw_norm")
PAIRED_IN_GGUF = False
GGUF_DEFAULTS: Mapping[str, Any] = {}


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Turn a hub config.json into a ModelConfig; raises FamilyError for what it does not know."""
    return raven.read_retrofitted(raw, "recurrent-olmo")


def weights(config: ModelConfig) -> dict[str, Weight]:
    """Every weight of the model by rdlite's name."""
    result = raven.outer_weights(config)
    sizes = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
    for name, source in raven.block_names(config):
        result |= raven.block_weights(config, name, source, norms=2)
        for kind, heads in sizes.items():
            norm = f"attn.{kind}_norm.weight"
            result[f"{name}.{norm}"] = Weight((heads * config.head_dim,), (f"{source}.{norm}",))
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
    # Norms come after what they norm, inside the residual; queries and keys are normed as well.
    y = attention(g, x, f"{name}.attn", layer, qk_norm=True)
    x = g.op.Add(rms_norm(g, y, f"{name}.norm_1"), x)
    y = gated_mlp(g, x, f"{name}.mlp")
    return g.op.Add(rms_norm(g, y, f"{name}.norm_2"), x)
