"""What families share whose whole stack of Llama-like layers is the core: the weights' names."""

from collections.abc import Mapping

from rdlite.config.model import ModelConfig
from rdlite.graphs.builder import Weight
from rdlite.graphs.layers import rotary_weights


def stack_weights(config: ModelConfig, norms: Mapping[str, str], final: str) -> dict[str, Weight]:
    """Return the weights of embedding, layers, final norm and head, by rdlite's name.

    Args:
        config: sizes.
        norms: rdlite's names of a layer's norms -> the checkpoint's.
        final: rdlite's name of the norm after the last layer.
    """
    width, inner = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads * config.head_dim
    shared = config.num_key_value_heads * config.head_dim
    packed = heads + 2 * shared
    result = {
        "embedding.weight": Weight((config.vocab_size, width), ("model.embed_tokens.weight",)),
        final: Weight((width,), ("model.norm.weight",)),
        **rotary_weights(config),
    }
    if not config.tied_embedding:
        result["head.weight"] = Weight((config.vocab_size, width), ("lm_head.weight",))
    for i in range(config.layers.core):
        matrices = {
            "attn.qkv": ((packed, width), [f"self_attn.{x}_proj" for x in "qkv"]),
            "attn.out": ((width, heads), ["self_attn.o_proj"]),
            "mlp.gate_up": ((2 * inner, width), ["mlp.gate_proj", "mlp.up_proj"]),
            "mlp.down": ((width, inner), ["mlp.down_proj"]),
            **{ours: ((width,), [theirs]) for ours, theirs in norms.items()},
        }
        for ours, (shape, theirs) in matrices.items():
            sources = tuple(f"model.layers.{i}.{name}.weight" for name in theirs)
            rows = (heads, shared, shared) if ours == "attn.qkv" else None
            result[f"core.{i}.{ours}.weight"] = Weight(shape, sources, source_rows=rows)
    return result
