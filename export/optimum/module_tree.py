"""A Huginn checkpoint as PyTorch modules, for where no live model is at hand.

It has what a trace needs: parameters under the checkpoint's names, norms and MLPs that can be
called. Attention has only its weights, because every part writes it over its own cache.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdlite.architectures.raven import PARTS
from rdlite.config.model import ModelConfig

from ..safetensors import Checkpoint


class RMSNorm(nn.Module):
    """Root mean square norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """[..., E] -> [..., E]."""
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class MLP(nn.Module):
    """Gated by SiLU; the gate's rows come first."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.fc = nn.Linear(width, 2 * inner, bias=False)
        self.proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., E] -> [..., E]."""
        gate, up = self.fc(x).chunk(2, -1)
        result: Tensor = self.proj(F.silu(gate) * up)
        return result


class AttentionWeights(nn.Module):
    """The weights of attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        self.Wqkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        if config.qk_bias:
            self.qk_bias = nn.Parameter(torch.empty(2, 1, heads, config.head_dim))


class Block(nn.Module):
    """The parts of a sandwich block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_1, self.norm_2, self.norm_3, self.norm_4 = (RMSNorm(config) for _ in range(4))
        self.attn, self.mlp = AttentionWeights(config), MLP(config)


class ModuleTree(nn.Module):
    """All parts of a model under the names of its checkpoint."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.hidden_size
        parts: dict[str, nn.Module] = {
            theirs: nn.ModuleList(Block(config) for _ in range(getattr(config.layers, ours)))
            for ours, theirs in PARTS.items()
        }
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, width),
                "adapter": nn.Linear(2 * width, width, bias=False),
                "ln_f": RMSNorm(config),
                **parts,
            }
        )
        if not config.tied_embedding:
            self.lm_head = nn.Linear(width, config.vocab_size, bias=False)


def load_modules(config: ModelConfig, checkpoint: Checkpoint) -> ModuleTree:
    """Build the modules of a checkpoint and fill them, in float32; raises CheckpointError."""
    with torch.device("meta"):  # no memory until the weights are there
        tree = ModuleTree(config)
    weights = {
        name: torch.from_numpy(checkpoint.read(name))
        for name, _ in tree.named_parameters()
        if name in checkpoint.tensors  # what is missing, the check of parameters will name
    }
    tree.load_state_dict(weights, strict=False, assign=True)
    return tree
