"""What rdlite's weights are called in a GGUF file, and which rows of which tensors they are.

The names are llama.cpp's where it has one. A packed projection is stored as the tensors that it
consists of, since that is how llama.cpp reads Ouro; blocks are counted through all three parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rdlite.architectures.registry import Family
from rdlite.bundle.manifest import PARTS
from rdlite.config.model import ModelConfig
from rdlite.graphs.builder import Weights

OUTER = {
    "embedding.weight": "token_embd.weight",
    "head.weight": "output.weight",
    "norm.weight": "output_norm.weight",
    "core.norm.weight": "output_norm.weight",
    "core.adapter.weight": "adapter.weight",
}
IN_BLOCK = {
    "attn.qkv.bias": "attn_qkv.bias",
    "attn.q_norm.weight": "attn_q_norm.weight",
    "attn.k_norm.weight": "attn_k_norm.weight",
    "attn.out.weight": "attn_output.weight",
    "mlp.down.weight": "ffn_down.weight",
}
#: Small weights that llama.cpp would stumble over as tensors are metadata instead.
IN_METADATA = {"core.gate.weight": "exit_gate.weight", "core.gate.bias": "exit_gate.bias"}


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor that is some rows of a weight.

    `heads` is how many heads its rows are turned for: llama.cpp rotates neighbouring pairs in
    families where the published code rotates halves, and has their rows in another order. 0: none.
    """

    name: str
    shape: tuple[int, ...]
    heads: int = 0


def architecture(family_name: str) -> str:
    """Return what a family is called in general.architecture, which has letters only."""
    return family_name.replace("-", "")


def pieces(family: Family, config: ModelConfig, weights: Weights) -> Mapping[str, list[Piece]]:
    """Return the tensors that each weight consists of, row after row; tables have none."""
    firsts, first = {}, 0
    for part in PARTS:
        firsts[part] = first
        first += getattr(config.layers, part)
    result: dict[str, list[Piece]] = {}
    for name, weight in weights.items():
        if not weight.sources or name in IN_METADATA:
            continue
        if name in OUTER:
            result[name] = [Piece(OUTER[name], weight.shape)]
            continue
        part, layer, inner = name.split(".", 2)
        block = f"blk.{firsts[part] + int(layer)}"
        result[name] = [
            Piece(f"{block}.{piece.name}", piece.shape, piece.heads)
            for piece in _in_block(family, config, inner, weight.shape)
        ]
    return result


def _in_block(
    family: Family, config: ModelConfig, name: str, shape: tuple[int, ...]
) -> list[Piece]:
    size, heads = config.head_dim, config.num_attention_heads
    shared = config.num_key_value_heads
    if name == "attn.qkv.weight":
        turned = family.PAIRED_IN_GGUF
        return [
            Piece("attn_q.weight", (heads * size, shape[1]), heads * turned),
            Piece("attn_k.weight", (shared * size, shape[1]), shared * turned),
            Piece("attn_v.weight", (shared * size, shape[1])),
        ]
    if name == "mlp.gate_up.weight":
        half = (shape[0] // 2, shape[1])
        return [Piece("ffn_gate.weight", half), Piece("ffn_up.weight", half)]
    if name.startswith("norm_"):
        number = int(name.removeprefix("norm_").removesuffix(".weight"))
        return [Piece(f"{family.NORMS_IN_GGUF[number - 1]}.weight", shape)]
    return [Piece(IN_BLOCK[name], shape)]
