"""Nanbeige4.2 (arXiv 2607.22083): config, weights and graphs.

A Llama-style decoder whose whole stack of layers is the core, run `num_loops` times. The state
starts from the embeddings. The final norm ends every loop, or with `skip_loop_final_norm` only the
last one, and is then part of the coda.
"""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rdlite.architectures.hf_config import ConfigReader
from rdlite.architectures.rotary_config import read_rotary
from rdlite.architectures.stack import stack_weights
from rdlite.config.model import LayerCounts, ModelConfig, Recurrence
from rdlite.errors import FamilyError
from rdlite.graphs.builder import GraphBuilder, Weight
from rdlite.graphs.layers import attention, embed, gated_mlp, linear, rms_norm

MODEL_TYPES = ("nanbeige",)
MARK = None
STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")
REDUNDANT = ()
NORMS = {"norm_1": "input_layernorm", "norm_2": "post_attention_layernorm"}
NORMS_IN_GGUF = ("attn_norm", "ffn_norm")
PAIRED_IN_GGUF = True
GGUF_DEFAULTS: Mapping[str, Any] = {
    "prelude_block_count": 0,
    "coda_block_count": 0,
    "max_recurrence": 0,  # as deep as it was trained
    "embedding_scale": 1.0,
    "state_init": "embeds",
    "state_init_std": 0.0,
    "skip_loop_final_norm": False,
}

#: Switches of the published code that the released checkpoints leave off: what each must be.
OFF: Mapping[str, Any] = {
    "attention_bias": False,
    "mlp_bias": False,
    "qk_layernorm": False,
    "loop_share_kv": False,
    "enable_double_loop_split": False,
    "loop_middle_layers": None,
    "loop_middle_repeats": None,
    "loop_loss_weights": [],  # the published code counts these as loops
    "enable_hyper_connection": False,
    "enable_mhc": False,
    "enable_h_res_identity": False,
    "mhc_diff_for_loop": False,
    "mhc_identity_nohresparam": False,
    "mhc_double_stream_position_for_loop": None,
    "enable_depth_attention": False,
    "ngram_insert_all_layers": False,
    "insert_ngram_layer_idx": [],
    "emb_neighbor_num": None,
    "emb_split_num": None,
    "ngram_vocab_size_ratio": None,
    "ngram_embedding_hidden_size": None,
}


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Turn a hub config.json into a ModelConfig; raises FamilyError for what it does not know."""
    if raw.get("num_loops") is None:
        raise FamilyError(
            "config: a nanbeige without num_loops is one of the older, dense models, which do not "
            "loop; rdlite runs Nanbeige4.2, and llama.cpp runs dense ones"
        )
    keys = ConfigReader(raw, "nanbeige")
    width, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    loops = keys.integer("num_loops")
    size = keys.integer("head_dim", "kv_channels", default=width // heads)
    config = ModelConfig(
        family="nanbeige",
        vocab_size=keys.integer("vocab_size"),
        hidden_size=width,
        intermediate_size=keys.integer("intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=keys.integer("num_key_value_heads", default=heads),
        head_dim=size,
        context_length=keys.integer("max_position_embeddings"),
        norm_eps=keys.number("rms_norm_eps"),
        embedding_scale=1.0,
        qk_bias=False,
        tied_embedding=keys.boolean("tie_word_embeddings", default=False),
        layers=LayerCounts(prelude=0, core=keys.integer("num_hidden_layers"), coda=0),
        rotary=read_rotary(keys, "rope_theta"),
        recurrence=Recurrence(
            "embeds",
            initial_std=0.0,
            mean_steps=loops,
            max_steps=loops,
            norm_each_step=not keys.boolean("skip_loop_final_norm", default=False),
        ),
    )
    keys.must_be("kv_channels", size)
    keys.must_be("hidden_act", "silu")
    keys.must_be("pretraining_tp", 1)
    for name, value in OFF.items():
        keys.must_be(name, value)
    keys.harmless("attention_dropout")
    keys.finish()
    return config


def weights(config: ModelConfig) -> dict[str, Weight]:
    """Every weight of the model by rdlite's name."""
    return stack_weights(config, NORMS, f"{_norm(config)}.weight")


def _norm(config: ModelConfig) -> str:
    """The final norm, named after the part that applies it."""
    return "core.norm" if config.recurrence.norm_each_step else "norm"


def state_norm(config: ModelConfig) -> str | None:
    """Name the norm whose output is the state after a core step, if there is one."""
    return "core.norm.weight" if config.recurrence.norm_each_step else None


def prelude(g: GraphBuilder, input_ids: ir.Value) -> ir.Value:
    """Token ids to embeddings, from which the state starts: [B, S] -> [B, S, E]."""
    return embed(g, input_ids)


def core(g: GraphBuilder, state: ir.Value, embeds: ir.Value) -> ir.Value:
    """One loop over all layers: [B, S, E] -> [B, S, E]."""
    x = state
    for i in range(g.config.layers.core):
        x = _block(g, x, f"core.{i}", i)
    return rms_norm(g, x, "core.norm") if g.config.recurrence.norm_each_step else x


def coda(g: GraphBuilder, state: ir.Value, logit_positions: ir.Value) -> ir.Value:
    """Decode a state: [B, S, E] -> logits [B, P, V] at the P wanted positions."""
    x = g.op.Gather(state, logit_positions, axis=1)
    if not g.config.recurrence.norm_each_step:
        x = rms_norm(g, x, "norm")
    return linear(g, x, "embedding" if g.config.tied_embedding else "head")


def _block(g: GraphBuilder, x: ir.Value, name: str, layer: int) -> ir.Value:
    y = attention(g, rms_norm(g, x, f"{name}.norm_1"), f"{name}.attn", layer)
    x = g.op.Add(y, x)
    y = gated_mlp(g, rms_norm(g, x, f"{name}.norm_2"), f"{name}.mlp")
    return g.op.Add(y, x)
