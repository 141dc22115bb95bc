"""What the families of the Raven code share: keys of config.json, names of tensors, the adapter.

Huginn-0125 was trained with that code, and the retrofitted models reuse it with other blocks. In
all of them `model_type` is huginn_raven; which family a checkpoint is of shows in its tensors.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import onnx_ir as ir

from rdlite.architectures.hf_config import ConfigReader
from rdlite.architectures.rotary_config import read_rotary
from rdlite.config.model import LayerCounts, ModelConfig, Recurrence
from rdlite.graphs.builder import GraphBuilder, Weight
from rdlite.graphs.layers import linear, rms_norm, rotary_weights

MODEL_TYPES = ("huginn_raven",)
PARTS = {"prelude": "prelude", "core": "core_block", "coda": "coda"}

#: x, the block's name, its number in its graph -> x.
Block = Callable[[GraphBuilder, ir.Value, str, int], ir.Value]


def read_sizes(keys: ConfigReader) -> dict[str, Any]:
    """Return the fields of a ModelConfig that all of these families read in the same way."""
    heads = keys.integer("num_attention_heads", "n_heads")
    width = keys.integer("n_embd")
    return {
        "vocab_size": keys.integer("padded_vocab_size", "vocab_size"),
        "hidden_size": width,
        "intermediate_size": keys.integer("intermediate_size"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.integer("num_key_value_heads", default=heads),
        "head_dim": keys.integer("head_dim", default=width // heads),
        "norm_eps": keys.number("norm_eps"),
        "qk_bias": keys.boolean("qk_bias"),
        "tied_embedding": keys.boolean("tie_embeddings"),
        "layers": LayerCounts(
            prelude=keys.integer("n_layers_in_prelude", low=0),
            core=keys.integer("n_layers_in_recurrent_block"),
            coda=keys.integer("n_layers_in_coda", low=0),
        ),
    }


def read_recurrence(keys: ConfigReader, width: int, scale: float) -> Recurrence:
    """Return how the state starts: normal, cut off at three deviations, scaled like embeddings."""
    std = keys.number("init_values.std", default=(2 / (5 * width)) ** 0.5) * scale
    return Recurrence("random", std, mean_steps=keys.integer("mean_recurrence"))


def finish(keys: ConfigReader, config: ModelConfig) -> None:
    """Refuse what these families do not compute, and every key that nobody asked for."""
    keys.must_be("init_values.embed_scale", config.embedding_scale)
    keys.must_be("block_class_name", "SandwichBlock")  # so called in all of them
    keys.must_be("norm_class_name", "RMSNorm_llama")
    keys.must_be("mlp_class_name", "GatedMLP")
    keys.must_be("nonlin_name", "SiLU")
    keys.must_be("bias", False)
    keys.must_be("injection_type", "linear")
    keys.must_be("state_init", "like-init")
    keys.must_be("initial_state_mode", "random")
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
        "trained_length",  # told by the manifest
        # what other keys already say
        "n_heads",
        "n_layers",
        "padding_multiple",
        "test_time_noise_type",
        "vocab_size",
    )
    keys.finish()


def read_retrofitted(raw: Mapping[str, Any], family: str) -> ModelConfig:
    """Read the config.json of a model that was retrofitted with recurrence (arXiv 2511.07384)."""
    keys = ConfigReader(raw, family)
    sizes = read_sizes(keys)
    scale = keys.number("init_values.embed_scale")
    config = ModelConfig(
        family=family,
        context_length=keys.integer("max_position_embeddings", "block_size"),
        embedding_scale=scale,
        rotary=read_rotary(keys, "rope_theta", "rope_base"),
        recurrence=read_recurrence(keys, sizes["hidden_size"], scale),
        **sizes,
    )
    keys.must_be("qk_bias", False)
    keys.harmless("block_size", "rope_base")
    finish(keys, config)
    return config


def outer_weights(config: ModelConfig) -> dict[str, Weight]:
    """The weights that are in no block, by rdlite's name."""
    width = config.hidden_size
    result = {
        "embedding.weight": Weight((config.vocab_size, width), ("transformer.wte.weight",)),
        "core.adapter.weight": Weight((width, 2 * width), ("transformer.adapter.weight",)),
        "norm.weight": Weight((width,), ("transformer.ln_f.weight",)),
        **rotary_weights(config),
    }
    if not config.tied_embedding:
        result["head.weight"] = Weight((config.vocab_size, width), ("lm_head.weight",))
    return result


def block_names(config: ModelConfig) -> Iterator[tuple[str, str]]:
    """Yield rdlite's name of every block and what its tensors' names begin with."""
    for ours, theirs in PARTS.items():
        for i in range(getattr(config.layers, ours)):
            yield f"{ours}.{i}", f"transformer.{theirs}.{i}"


def block_weights(config: ModelConfig, name: str, source: str, norms: int) -> dict[str, Weight]:
    """The matrices and the norms, numbered from 1, of a block."""
    width, inner = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads * config.head_dim
    packed = heads + 2 * config.num_key_value_heads * config.head_dim
    shapes = {
        "attn.qkv": ("attn.Wqkv", (packed, width)),
        "attn.out": ("attn.proj", (width, heads)),
        "mlp.gate_up": ("mlp.fc", (2 * inner, width)),
        "mlp.down": ("mlp.proj", (width, inner)),
        **{f"norm_{n}": (f"norm_{n}", (width,)) for n in range(1, norms + 1)},
    }
    return {
        f"{name}.{ours}.weight": Weight(shape, (f"{source}.{theirs}.weight",))
        for ours, (theirs, shape) in shapes.items()
    }


def blocks(g: GraphBuilder, x: ir.Value, part: str, block: Block) -> ir.Value:
    """All blocks of a part."""
    for i in range(getattr(g.config.layers, part)):
        x = block(g, x, f"{part}.{i}", i)
    return x


def inject(g: GraphBuilder, state: ir.Value, embeds: ir.Value) -> ir.Value:
    """The adapter: what a core step starts from."""
    return linear(g, g.op.Concat(state, embeds, axis=-1), "core.adapter")


def predict(g: GraphBuilder, x: ir.Value, logit_positions: ir.Value) -> ir.Value:
    """Norm and head at the wanted positions: [B, S, E] -> [B, P, V]."""
    x = rms_norm(g, g.op.Gather(x, logit_positions, axis=1), "norm")
    return linear(g, x, "embedding" if g.config.tied_embedding else "head")
