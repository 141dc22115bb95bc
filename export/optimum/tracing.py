"""Steps that are traced as one operator each, where a plain trace would spell out shapes.

A tracer turns `x.view(b, s, ...)` into arithmetic on the shape of x, which nobody can check before
the graph runs. These functions compute the same in PyTorch and say, in `symbolic`, which standard
operator stands for them.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def split_evenly(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Tensor.chunk for sizes that are fixed: traced as one Split and not as a Slice for each."""
    size = int(x.shape[dim])
    if size % chunks:
        raise ValueError(f"{size} cannot be split into {chunks} equal parts")
    parts: tuple[Tensor, ...] = x.split([size // chunks] * chunks, dim)
    return parts


def _integers(g: Any, values: list[int]) -> Any:
    return g.op("Constant", value_t=torch.tensor(values, dtype=torch.int64))


class SplitLast(Function):
    """[B, S, N] -> [B, S, *sizes]: the last axis becomes several."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """Reshape."""
        return x.reshape(*x.shape[:2], *sizes)

    @staticmethod
    def symbolic(g: Any, x: Any, sizes: tuple[int, ...]) -> Any:
        """In a Reshape, 0 keeps an axis as it is; the tracer wants a -1 beside it."""
        return g.op("Reshape", x, _integers(g, [0, 0, *sizes[:-1], -1]))


class NewPositions(Function):
    """The number of new positions S of x [B, S, ...], an int64 scalar."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Ask for its shape."""
        return torch.tensor(x.shape[1])

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        """Shape gives a list of one."""
        return g.op("Squeeze", g.op("Shape", x, start_i=1, end_i=2), _integers(g, [0]))


class Count(Function):
    """int64 [N]: 0, 1, 2 ... for an int64 scalar N."""

    @staticmethod
    def forward(ctx: Any, size: Tensor) -> Tensor:
        """Count."""
        return torch.arange(int(size))

    @staticmethod
    def symbolic(g: Any, size: Any) -> Any:
        """A Range of whole numbers."""
        zero, one = (g.op("Constant", value_t=torch.tensor(n)) for n in (0, 1))
        return g.op("Range", zero, size, one)


class Spread(Function):
    """[B, 1, S, 1] -> [B, K, S, D]: the same numbers for every head and channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: int, size: int) -> Tensor:
        """Expand."""
        return x.expand(-1, heads, -1, size).contiguous()

    @staticmethod
    def symbolic(g: Any, x: Any, heads: int, size: int) -> Any:
        """Axes of 1 leave the input's as they are."""
        return g.op("Expand", x, _integers(g, [1, heads, 1, size]))


class Write(Function):
    """The cache [B, K, C, D] with new entries [B, K, S, D] where `places`, int64, says."""

    @staticmethod
    def forward(ctx: Any, cache: Tensor, places: Tensor, entries: Tensor) -> Tensor:
        """Scatter along C."""
        return cache.scatter(2, places, entries)

    @staticmethod
    def symbolic(g: Any, cache: Any, places: Any, entries: Any) -> Any:
        """Onnxruntime copies nothing but the entries if the output is the cache itself."""
        return g.op("ScatterElements", cache, places, entries, axis_i=2)


class Filled(Function):
    """The first T places of a cache: [B, K, C, D] -> [B, K, T, D]; T is an int64 scalar."""

    @staticmethod
    def forward(ctx: Any, cache: Tensor, total: Tensor) -> Tensor:
        """Cut it."""
        return cache[:, :, : int(total)]

    @staticmethod
    def symbolic(g: Any, cache: Any, total: Any) -> Any:
        """A Slice, whose end is an input of the graph."""
        end = g.op("Unsqueeze", total, _integers(g, [0]))
        return g.op("Slice", cache, _integers(g, [0]), end, _integers(g, [2]))
