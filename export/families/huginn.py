"""Huginn-0125 and other checkpoints of its shape (arXiv 2502.05171): config, weights and graphs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from rdlite.config import LayerCounts, ModelConfig, Recurrence, Rotary
from rdlite.errors import FamilyError

from ..blocks import (
    GraphBuilder,
    Weight,
    add_rms_norm,
    attention,
    embed,
    gated_mlp,
    linear,
    rms_norm,
    rotary_weights,
)
from ..config_keys import ConfigReader

MODEL_TYPES = ("huginn_raven",)

#: An answer ends at any of these, whatever generation_config.json says.
STOP_TOKENS = ("<|begin_text|>", "<|end_text|>", "<|end_turn|>")

#: Tensors that may be in a checkpoint and are not needed: they follow from others.
REDUNDANT = ("freqs_cis",)


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Turn a hub config.json into a ModelConfig; raises FamilyError for what it does not know."""
    keys = ConfigReader(raw, "huginn")
    width, heads = keys.integer("n_embd"), keys.integer("num_attention_heads", "n_heads")
    if width % heads:
        raise FamilyError(f"config: n_embd ({width}) must be a multiple of the heads ({heads})")
    layers = LayerCounts(
        prelude=keys.integer("n_layers_in_prelude", low=0),
        core=keys.integer("n_layers_in_recurrent_block"),
        coda=keys.integer("n_layers_in_coda", low=0),
    )
    # The published code multiplies by sqrt(E) whatever `init_values` says, and starts the state
    # from a normal of std sqrt(2 / 5E), cut off at three of them, times the same sqrt(E).
    scale = float(np.sqrt(width))
    std = keys.number("init_values.std", default=float(np.sqrt(2 / (5 * width)))) * scale
    config = ModelConfig(
        family="huginn",
        vocab_size=keys.integer("padded_vocab_size", "vocab_size"),
        hidden_size=width,
        intermediate_size=keys.integer("intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=keys.integer("num_key_value_heads", default=heads),
        head_dim=width // heads,
        context_length=keys.integer("block_size"),
        norm_eps=keys.number("norm_eps"),
        embedding_scale=scale,
        qk_bias=keys.boolean("qk_bias"),
        tied_embedding=keys.boolean("tie_embeddings"),
        layers=layers,
        rotary=Rotary(base=keys.number("rope_base", default=50000.0), interleaved=True),
        recurrence=Recurrence("random", std, mean_steps=keys.integer("mean_recurrence")),
    )
    keys.must_be("head_dim", width // heads)
    keys.must_be("init_values.embed_scale", scale)
    keys.must_be("block_class_name", "SandwichBlock")
    keys.must_be("norm_class_name", "RMSNorm_llama")
    keys.must_be("mlp_class_name", "GatedMLP")
    keys.must_be("nonlin_name", "SiLU")
    keys.must_be("bias", False)
    keys.must_be("injection_type", "linear")
    keys.must_be("state_init", "like-init")
    keys.must_be("architecture_class_name", "RecurrentGPT")
    keys.must_be("test_time_noise", 0)
    keys.must_be("tie_word_embeddings", config.tied_embedding)
    keys.harmless(
        # how it was trained
        "activation_checkpoint_impl",
        "effective_expected_depth",
        "init_orthogonal",
        "init_strategy",
        "init_values.embedding",
        "init_values.out_proj",
        "mean_backprop_depth",
        "sampling_scheme",
        # what other keys already say
        "n_heads",
        "n_layers",
        "padding_multiple",
        "test_time_noise_type",
        "vocab_size",
    )
    keys.finish()
    return config


def weights(config: ModelConfig) -> dict[str, Weight]:
    """Every weight of the model by rdlite's name."""
    width = config.hidden_size
    result = {
        "embedding.weight": Weight((config.vocab_size, width), ("transformer.wte.weight",)),
        "core.adapter.weight": Weight((width, 2 * width), ("transformer.adapter.weight",)),
        "norm.weight": Weight((width,), ("transformer.ln_f.weight",)),
        **rotary_weights(config),
    }
    if not config.tied_embedding:
        result["head.weight"] = Weight((config.vocab_size, width), ("lm_head.weight",))
    for part, source in (("prelude", "prelude"), ("core", "core_block"), ("coda", "coda")):
        for i in range(getattr(config.layers, part)):
            result |= _block_weights(config, f"{part}.{i}", f"transformer.{source}.{i}")
    return result


def _block_weights(config: ModelConfig, name: str, source: str) -> dict[str, Weight]:
    width, inner = config.hidden_size, config.intermediate_size
    heads, key_value_heads = config.num_attention_heads, config.num_key_value_heads
    packed = (heads + 2 * key_value_heads) * config.head_dim
    matrices = {
        "attn.qkv": ("attn.Wqkv", (packed, width)),
        "attn.out": ("attn.proj", (width, width)),
        "mlp.gate_up": ("mlp.fc", (2 * inner, width)),
        "mlp.down": ("mlp.proj", (width, inner)),
        **{f"norm_{n}": (f"norm_{n}", (width,)) for n in (1, 2, 3, 4)},
    }
    result = {
        f"{name}.{ours}.weight": Weight(shape, (f"{source}.{theirs}.weight",))
        for ours, (theirs, shape) in matrices.items()
    }
    if config.qk_bias:
        if heads != key_value_heads:
            raise FamilyError("config: qk_bias needs as many key/value heads as query heads")

        def packed_bias(qk_bias: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            # The operator has no bias input, so q's and k's go in front of zeros for v.
            return np.pad(qk_bias.reshape(-1), (0, packed - qk_bias.size))

        result[f"{name}.attn.qkv.bias"] = Weight(
            (packed,),
            (f"{source}.attn.qk_bias",),
            source_shape=(2, 1, heads, config.head_dim),
            make=packed_bias,
        )
    return result


def state_norm(config: ModelConfig) -> str:
    """Name the norm whose output is the state after a core step."""
    return f"core.{config.layers.core - 1}.norm_4.weight"


def prelude(g: GraphBuilder, input_ids: ir.Value) -> ir.Value:
    """Token ids to the embeds that every core step is given: [B, S] -> [B, S, E]."""
    return _blocks(g, embed(g, input_ids), "prelude", g.config.layers.prelude)


def core(g: GraphBuilder, state: ir.Value, embeds: ir.Value) -> ir.Value:
    """One step of the recurrence: [B, S, E] -> [B, S, E]."""
    x = linear(g, g.op.Concat(state, embeds, axis=-1), "core.adapter")
    return _blocks(g, x, "core", g.config.layers.core)


def coda(g: GraphBuilder, state: ir.Value, logit_positions: ir.Value) -> ir.Value:
    """Decode a state: [B, S, E] -> logits [B, P, V] at the P wanted positions."""
    x = _blocks(g, rms_norm(g, state, "norm"), "coda", g.config.layers.coda)
    x = rms_norm(g, g.op.Gather(x, logit_positions, axis=1), "norm")
    return linear(g, x, "embedding" if g.config.tied_embedding else "head")


def _blocks(g: GraphBuilder, x: ir.Value, part: str, count: int) -> ir.Value:
    for i in range(count):
        x = _block(g, x, f"{part}.{i}", i)
    return x


def _block(g: GraphBuilder, x: ir.Value, name: str, layer: int) -> ir.Value:
    # The outer norms come after the residual add: the "sandwich".
    y = attention(g, rms_norm(g, x, f"{name}.norm_1"), f"{name}.attn", layer)
    x = add_rms_norm(g, y, x, f"{name}.norm_2")
    y = gated_mlp(g, rms_norm(g, x, f"{name}.norm_3"), f"{name}.mlp")
    return add_rms_norm(g, y, x, f"{name}.norm_4")
