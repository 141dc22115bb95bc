"""The models that rdlite is for, as their config.json on the hub says; for benches of their shapes.

Only what decides sizes and depth is here, and what a family insists on.
"""

from typing import Any

from rdlite.export.random_checkpoint import hub_config

from rdlite.architectures import huginn, nanbeige, ouro, recurrent_llama, recurrent_olmo
from rdlite.architectures.registry import Family

#: Sizes of Huginn-0125: width, heads, the MLP's inner width, vocabulary, context, steps.
HUGINN = (5280, 55, 17920, 65536, 4096, 32)


def _ouro(layers: int) -> dict[str, Any]:
    return {
        "model_type": "ouro",
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "intermediate_size": 5632,
        "num_hidden_layers": layers,
        "vocab_size": 49152,
        "max_position_embeddings": 65536,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "total_ut_steps": 4,
        "early_exit_threshold": 1.0,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
    }


def _retrofitted(
    heads: tuple[int, int],
    inner: int,
    vocabulary: int,
    context: int,
    layers: tuple[int, int, int],
    **more: Any,
) -> dict[str, Any]:
    raw = hub_config(2048, heads[0], inner, vocabulary, context, 32, layers)
    del raw["rope_base"]
    return raw | {
        "num_key_value_heads": heads[1],
        "qk_bias": False,
        "tie_embeddings": False,
        "norm_eps": 1e-5,
        "init_values": {"std": raw["init_values"]["std"], "embed_scale": 1.0},
        "rope_theta": 500000.0,
        **more,
    }


NANBEIGE = {
    "model_type": "nanbeige",
    "hidden_size": 3072,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 10752,
    "num_hidden_layers": 22,
    "vocab_size": 166144,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-5,
    "rope_theta": 70000000.0,
    "num_loops": 2,
    "skip_loop_final_norm": False,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
MODELS: dict[str, tuple[Family, dict[str, Any]]] = {
    "Huginn-0125": (huginn, hub_config(*HUGINN)),
    "Recurrent-TinyLlama": (
        recurrent_llama,
        _retrofitted((32, 4), 5632, 32000, 2048, (4, 8, 4), rope_theta=10000.0),
    ),
    "Recurrent-Llama-3.2": (
        recurrent_llama,
        _retrofitted((32, 8), 8192, 128256, 131072, (4, 6, 4), rope_scaling=LLAMA3_SCALING),
    ),
    "Recurrent-OLMo-2": (
        recurrent_olmo,
        _retrofitted((16, 16), 8192, 100352, 4096, (4, 6, 4)),
    ),
    "Ouro-1.4B": (ouro, _ouro(24)),
    "Ouro-2.6B": (ouro, _ouro(48)),
    "Nanbeige4.2-3B": (nanbeige, NANBEIGE),
}
