"""Huginn in PyTorch: the architecture of arXiv 2502.05171, as its published code computes it.

For training and as a reference; the runtime never imports it. Needs the extra `[train]`. Parameters
have the names and shapes of the checkpoint on the hub.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS, ROPE_BASE = 1e-6, 50000.0


@dataclass(frozen=True)
class HuginnConfig:
    """Sizes; `layers` are those of prelude, core and coda."""

    width: int
    heads: int
    inner: int
    vocabulary: int
    context: int
    layers: tuple[int, int, int] = (2, 4, 2)
    mean_steps: int = 32


@dataclass(frozen=True)
class Sight:
    """What attention needs to know: rotations, complex [S, 1, D/2], and who sees whom.

    `mask` is bool [B, 1, S, S]; None: every position sees itself and those before it.
    """

    rotations: Tensor
    mask: Tensor | None


class RMSNorm(nn.Module):
    """Root mean square norm, computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., E] -> float32 [..., E]."""
        return F.rms_norm(x.float(), x.shape[-1:], self.weight, NORM_EPS)


def rotate(x: Tensor, sight: Sight) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of [B, S, H, D] by their positions' angles; float32."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * sight.rotations).flatten(-2)


class Attention(nn.Module):
    """Causal self-attention; queries and keys have a bias."""

    def __init__(self, config: HuginnConfig) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.heads = heads
        self.Wqkv = nn.Linear(width, 3 * width, bias=False)
        self.qk_bias = nn.Parameter(torch.zeros(2, 1, heads, width // heads))
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, sight: Sight) -> Tensor:
        """[B, S, E] -> [B, S, E]."""
        q, k, v = self.Wqkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)  # [B, S, H, D]
        q, k = rotate(q + self.qk_bias[0], sight), rotate(k + self.qk_bias[1], sight)
        q, k, v = (t.float().transpose(1, 2) for t in (q, k, v))
        # Never in bfloat16: on CPUs, the backward pass takes four times as long so.
        with torch.autocast(x.device.type, enabled=False):
            causal = sight.mask is None
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=sight.mask, is_causal=causal)
        return self.proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Gated by SiLU; the gate's rows come first."""

    def __init__(self, config: HuginnConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(config.width, 2 * config.inner, bias=False)
        self.proj = nn.Linear(config.inner, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., E] -> [..., E]."""
        gate, up = self.fc(x).chunk(2, -1)
        return self.proj(F.silu(gate) * up)


class Block(nn.Module):
    """The sandwich block: norms before each layer and after each residual sum."""

    def __init__(self, config: HuginnConfig) -> None:
        super().__init__()
        self.norm_1, self.norm_2, self.norm_3, self.norm_4 = (
            RMSNorm(config.width) for _ in range(4)
        )
        self.attn, self.mlp = Attention(config), MLP(config)

    def forward(self, x: Tensor, sight: Sight) -> Tensor:
        """[B, S, E] -> [B, S, E]."""
        x = self.norm_2(self.attn(self.norm_1(x), sight) + x)
        return self.norm_4(self.mlp(self.norm_3(x)) + x)


class Huginn(nn.Module):
    """Prelude, looped core and coda."""

    def __init__(self, config: HuginnConfig) -> None:
        super().__init__()
        self.config = config
        prelude, core, coda = config.layers
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocabulary, config.width),
                "prelude": nn.ModuleList(Block(config) for _ in range(prelude)),
                "adapter": nn.Linear(2 * config.width, config.width, bias=False),
                "core_block": nn.ModuleList(Block(config) for _ in range(core)),
                "coda": nn.ModuleList(Block(config) for _ in range(coda)),
                "ln_f": RMSNorm(config.width),
            }
        )
        size = config.width // config.heads
        frequencies = 1 / ROPE_BASE ** (torch.arange(0, size, 2).float() / size)
        angles = torch.outer(torch.arange(config.context).float(), frequencies)
        rotations = torch.polar(torch.ones_like(angles), angles)[:, None, :]
        self.register_buffer("rotations", rotations, persistent=False)
        self._initialize()

    def _initialize(self) -> None:
        """Takase initialization: small, and smaller still where a block ends."""
        config = self.config
        std = math.sqrt(2 / (5 * config.width))
        depth = config.layers[0] + config.layers[1] * config.mean_steps + config.layers[2]
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                ends = name.endswith(("attn.proj.weight", "mlp.proj.weight"))
                s = std / math.sqrt(2 * depth) if ends else std
                nn.init.trunc_normal_(parameter, 0.0, s, -3 * s, 3 * s)

    def sight(self, ids: Tensor, mask: Tensor | None = None) -> Sight:
        """Return what the blocks need to know of ids [B, S]."""
        return Sight(self.rotations[: ids.shape[1]], mask)

    def embed(self, ids: Tensor, sight: Sight) -> Tensor:
        """The prelude: int64 [B, S] -> [B, S, E]."""
        x = self.transformer["wte"](ids) * math.sqrt(self.config.width)
        for block in self.transformer["prelude"]:
            x = block(x, sight)
        return x

    def step(self, state: Tensor, embeds: Tensor, sight: Sight) -> Tensor:
        """One core step: two times [B, S, E] -> [B, S, E]."""
        x = self.transformer["adapter"](torch.cat([state.to(embeds.dtype), embeds], -1))
        for block in self.transformer["core_block"]:
            x = block(x, sight)
        return x

    def decode(self, state: Tensor, sight: Sight) -> Tensor:
        """The coda but for the head: [B, S, E] -> [B, S, E]."""
        x = self.transformer["ln_f"](state)
        for block in self.transformer["coda"]:
            x = block(x, sight)
        return self.transformer["ln_f"](x)

    def head(self, hidden: Tensor) -> Tensor:
        """[..., E] -> logits [..., V]; the weights are the embedding's."""
        return F.linear(hidden, self.transformer["wte"].weight.to(hidden.dtype))

    def initial_state(self, embeds: Tensor) -> Tensor:
        """Draw random states of the embeddings' shape."""
        std = math.sqrt(2 / 5)
        return nn.init.trunc_normal_(torch.empty_like(embeds), 0.0, std, -3 * std, 3 * std)

    def forward(
        self,
        ids: Tensor,
        steps: int,
        state: Tensor | None = None,
        mask: Tensor | None = None,
        grad_steps: int | None = None,
    ) -> Tensor:
        """Read ids at a depth of `steps`.

        Args:
            ids: int64 [B, S].
            steps: core steps.
            state: where the states start, [B, S, E]; None: at random.
            mask: bool [B, 1, S, S], true where a position sees another; None: causal.
            grad_steps: only the last so many steps get a gradient; None: all do.

        Returns:
            [B, S, E], what `head` turns into logits.
        """
        sight = self.sight(ids, mask)
        embeds = self.embed(ids, sight)
        state = self.initial_state(embeds) if state is None else state
        free = 0 if grad_steps is None else max(0, steps - grad_steps)
        with torch.no_grad():
            for _ in range(free):
                state = self.step(state, embeds, sight)
        for _ in range(steps - free):
            state = self.step(state, embeds, sight)
        return self.decode(state, sight)
