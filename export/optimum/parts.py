"""Prelude, core and coda of a live PyTorch model, with the inputs and outputs of the contract.

Shapes: B batch, S new positions, T positions so far, E width, H heads, D head size, C capacity of
the cache, P positions whose logits are wanted.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig

from rdlite.architectures.raven import PARTS
from rdlite.architectures.registry import FAMILIES
from rdlite.config.model import ModelConfig
from rdlite.errors import FamilyError

from ..optimum.tracing import Count, Filled, NewPositions, SplitLast, Spread, Write

FUSED_HINT = "'rdlite export', or --flavour fused, needs no PyTorch model and knows more families"


def submodels(config: ModelConfig, model: nn.Module) -> dict[str, nn.Module]:
    """Split a model into prelude, core and coda; with the config bound, optimum's fn_get_submodels.

    Args:
        config: its sizes and constants.
        model: a module whose parameters have the names and shapes of a Huginn checkpoint. Its
            norms, MLPs, adapter and embedding are called as they are; its attention is written
            anew, over a cache.

    Raises:
        FamilyError: a parameter is missing, has another shape, or would be left out.
    """
    check_family(config)
    _check_parameters(config, model)
    parts = {"prelude": Prelude, "core": Core, "coda": Coda}
    return {name: part(config, model).eval() for name, part in parts.items()}


def check_family(config: ModelConfig) -> None:
    """Raise FamilyError unless these parts can be traced from a model of this config."""
    if config.family != "huginn" or config.num_key_value_heads != config.num_attention_heads:
        raise FamilyError(
            "portable bundles are traced from Huginn's blocks, with as many key/value heads as "
            f"heads; this is {config.family} with {config.num_key_value_heads} of "
            f"{config.num_attention_heads}; {FUSED_HINT}"
        )


def _check_parameters(config: ModelConfig, model: nn.Module) -> None:
    wanted = {
        source: weight.source_shape or weight.shape
        for weight in FAMILIES[config.family].weights(config).values()
        for source in weight.sources
    }
    found = {name: tuple(value.shape) for name, value in model.named_parameters()}
    for name, shape in wanted.items():
        if found.get(name) != shape:
            what = f"the shape {found[name]}" if name in found else "nothing"
            raise FamilyError(
                f"{type(model).__name__} has {what} where Huginn has the parameter {name} of "
                f"shape {shape}; {FUSED_HINT}"
            )
    unknown = sorted(found.keys() - wanted.keys())
    if unknown:
        raise FamilyError(
            f"{type(model).__name__} has {len(unknown)} parameters that Huginn has not, the first "
            f"{unknown[0]}; leaving them out would change the model; {FUSED_HINT}"
        )


class _Part(nn.Module):
    """What the three have in common: the model's modules, rotary tables, a cache for each layer."""

    def __init__(self, config: ModelConfig, model: nn.Module, part: str) -> None:
        super().__init__()
        self.config = PretrainedConfig()  # optimum sets fields of it
        self.sizes = config
        self.transformer: Any = model.transformer
        self.blocks = [(i, block) for i, block in enumerate(self.transformer[PARTS[part]])]
        size = config.head_dim
        frequencies = 1 / config.rotary.base ** (torch.arange(0, size, 2).float() / size)
        angles = torch.outer(torch.arange(config.context_length).float(), frequencies)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        for i, block in self.blocks:
            if config.qk_bias:
                bias = block.attn.qk_bias.detach().float().flatten()
                self.register_buffer(f"qkv_bias_{i}", F.pad(bias, (0, config.hidden_size)))

    def run(
        self, x: Tensor, seqlens_k: Tensor, total: Tensor, past: Sequence[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """All blocks: [B, S, E] -> [B, S, E] and the caches, keys and values in turn."""
        if past is None:  # a part without blocks
            return x, []
        size, total = NewPositions.apply(x), total.long()
        first = seqlens_k.long() + 1 - size  # [B]
        positions = first[:, None] + Count.apply(size)  # [B, S]
        cos = self.cos[positions][:, :, None, :, None]  # [B, S, 1, D/2, 1]
        sin = self.sin[positions][:, :, None, :, None]
        standing = positions[:, None, :, None]  # [B, 1, S, 1]
        places = Spread.apply(standing, self.sizes.num_attention_heads, self.sizes.head_dim)
        seen = Count.apply(total) <= standing  # [B, 1, S, T]
        present: list[Tensor] = []
        for i, block in self.blocks:
            bias = getattr(self, f"qkv_bias_{i}", None)
            qkv = block.attn.Wqkv(block.norm_1(x))
            q, k, v = (qkv if bias is None else qkv + bias).chunk(3, -1)
            q, k = self._rotate(q, cos, sin), self._rotate(k, cos, sin)
            v = self._heads(v).transpose(1, 2)
            keys = Write.apply(past[2 * i], places, k.transpose(1, 2))
            values = Write.apply(past[2 * i + 1], places, v)
            present += [keys, values]
            y = self._attend(q.transpose(1, 2), keys, values, total, seen)
            x = block.norm_2(block.attn.proj(y) + x)
            x = block.norm_4(block.mlp(block.norm_3(x)) + x)
        return x, present

    def _heads(self, x: Tensor) -> Tensor:
        """[B, S, E] -> [B, S, H, D]."""
        heads: Tensor = SplitLast.apply(x, (self.sizes.num_attention_heads, self.sizes.head_dim))
        return heads

    def _rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate the pairs (2i, 2i + 1) of each head: [B, S, E] -> [B, S, H, D]."""
        heads, size = self.sizes.num_attention_heads, self.sizes.head_dim
        even, odd = SplitLast.apply(x, (heads, size // 2, 2)).chunk(2, -1)
        pairs = torch.cat((even * cos - odd * sin, even * sin + odd * cos), -1)
        rotated: Tensor = SplitLast.apply(pairs, (heads, size))
        return rotated

    def _attend(
        self, q: Tensor, keys: Tensor, values: Tensor, total: Tensor, seen: Tensor
    ) -> Tensor:
        """Queries [B, H, S, D] over the caches [B, H, C, D] -> [B, S, E]."""
        scores = q @ Filled.apply(keys, total).transpose(2, 3) * self.sizes.head_dim**-0.5
        weights = torch.where(seen, scores, torch.tensor(float("-inf"))).softmax(-1)
        y = (weights @ Filled.apply(values, total)).transpose(1, 2)
        joined: Tensor = SplitLast.apply(y, (self.sizes.hidden_size,))
        return joined


class Prelude(_Part):
    """Token ids to embeds."""

    def __init__(self, config: ModelConfig, model: nn.Module) -> None:
        super().__init__(config, model, "prelude")

    def forward(
        self,
        input_ids: Tensor,
        seqlens_k: Tensor,
        total_sequence_length: Tensor,
        past_key_values: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        """int64 [B, S] -> [B, S, E] and the caches."""
        x = self.transformer["wte"](input_ids) * self.sizes.embedding_scale
        x, present = self.run(x, seqlens_k, total_sequence_length, past_key_values)
        return (x, *present)


class Core(_Part):
    """One step of the recurrence."""

    def __init__(self, config: ModelConfig, model: nn.Module) -> None:
        super().__init__(config, model, "core")

    def forward(
        self,
        state: Tensor,
        embeds: Tensor,
        seqlens_k: Tensor,
        total_sequence_length: Tensor,
        past_key_values: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        """Two [B, S, E] -> the next state, how far it moved [B, S], and the caches."""
        x = self.transformer["adapter"](torch.cat((state, embeds), -1))
        x, present = self.run(x, seqlens_k, total_sequence_length, past_key_values)
        moved = torch.linalg.vector_norm(x - state, dim=-1)
        return (x, moved / torch.linalg.vector_norm(x, dim=-1), *present)


class Coda(_Part):
    """A state to logits."""

    def __init__(self, config: ModelConfig, model: nn.Module) -> None:
        super().__init__(config, model, "coda")
        if not config.tied_embedding:
            self.lm_head: Any = model.lm_head

    def forward(
        self,
        state: Tensor,
        logit_positions: Tensor,
        seqlens_k: Tensor,
        total_sequence_length: Tensor,
        past_key_values: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        """[B, S, E] -> [B, P, V] and the caches."""
        x = self.transformer["ln_f"](state)
        x, present = self.run(x, seqlens_k, total_sequence_length, past_key_values)
        x = self.transformer["ln_f"](x.index_select(1, logit_positions))
        head = self.transformer["wte"] if self.sizes.tied_embedding else self.lm_head
        return (F.linear(x, head.weight), *present)
