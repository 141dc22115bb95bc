"""The operators a graph may use, and the shapes they give: sizes that follow from one another.

A shape is a tuple of sizes and of the symbols B, S, P, C. Because every value's shape is known and
bounded before the graph is loaded, no graph can read outside its tensors or ask for more memory
than its declared sizes need.
"""

import math
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from rdlite.config import ModelConfig
from rdlite.errors import GraphError

Shape = tuple[int | str, ...]

#: Largest number of elements a value may have per position.
MAX_ELEMENTS = 2**24


@dataclass(frozen=True, slots=True)
class Call:
    """One node, with what its rule needs to know."""

    shapes: list[Shape | None]  # of the inputs; None where an optional one is left out
    constants: list[npt.NDArray[Any] | None]
    attributes: Mapping[str, Any]
    outputs: int
    config: ModelConfig

    def input(self, i: int) -> Shape:
        """The shape of an input that must be there."""
        shape = self.shapes[i] if i < len(self.shapes) else None
        if shape is None:
            raise _Mismatch(f"input {i} is missing")
        return shape

    def absent(self, *numbers: int) -> None:
        """Refuse inputs that this runtime does not use."""
        for i in numbers:
            if i < len(self.shapes) and self.shapes[i] is not None:
                raise _Mismatch(f"input {i} is not supported")

    def require(self, what: str, value: object, expected: object) -> None:
        """Refuse a value that is not the expected one."""
        if value != expected:
            raise _Mismatch(f"{what} is {value!r:.80}, expected {expected!r:.80}")


class _Mismatch(Exception):
    """A rule does not hold; the caller adds which node it was."""


Rule = Callable[[Call], list[Shape]]


@dataclass(frozen=True, slots=True)
class Operator:
    """An allowed operator: its shape rule and the attributes it may have."""

    rule: Rule
    attributes: frozenset[str]


def infer_shapes(
    nodes: Any,
    shapes: MutableMapping[str, Shape],
    constants: Mapping[str, npt.NDArray[Any]],
    config: ModelConfig,
    where: str,
) -> None:
    """Follow the nodes in order and add every value's shape to `shapes`; raises GraphError."""
    for number, node in enumerate(nodes):
        what = f"{where}: node {number} ({node.op_type})"
        for name in node.input:
            if name and name not in shapes:
                raise GraphError(f"{what} reads {name!r:.80} before anything writes it")
        call = Call(
            [shapes[name] if name else None for name in node.input],
            [constants.get(name) for name in node.input],
            {attribute.name: _plain(attribute) for attribute in node.attribute},
            len(node.output),
            config,
        )
        domain = "" if node.domain == "ai.onnx" else node.domain
        try:
            results = OPERATORS[domain, node.op_type].rule(call)
        except _Mismatch as problem:
            raise GraphError(f"{what}: {problem}") from None
        if len(node.output) > len(results):
            raise GraphError(f"{what} has {len(node.output)} outputs, expected {len(results)}")
        for name, shape in zip(node.output, results, strict=False):
            if not name:
                continue
            if name in shapes:
                raise GraphError(f"{what} writes {name!r:.80}, which is already there")
            if len(shape) > 4 or math.prod(s for s in shape if isinstance(s, int)) > MAX_ELEMENTS:
                raise GraphError(f"{what} makes a value as large as {shape}")
            shapes[name] = shape


def _plain(attribute: Any) -> Any:
    kinds = {1: "f", 2: "i", 3: "s", 7: "ints"}
    value = getattr(attribute, kinds[attribute.type])
    return tuple(value) if attribute.type == 7 else value


def _broadcast(call: Call) -> list[Shape]:
    a, b = call.input(0), call.input(1)
    a, b = (1,) * (len(b) - len(a)) + a, (1,) * (len(a) - len(b)) + b
    for x, y in zip(a, b, strict=True):
        if x != y and 1 not in (x, y):
            raise _Mismatch(f"shapes {a} and {b} do not go together")
    return [tuple(y if x == 1 else x for x, y in zip(a, b, strict=True))]


def _same(call: Call) -> list[Shape]:
    return [call.input(0)]


def _last(shape: Shape) -> int:
    if not shape or not isinstance(shape[-1], int):
        raise _Mismatch(f"the last dimension of {shape} must be a size")
    return shape[-1]


def _axis(call: Call, rank: int, default: int) -> int:
    axis = call.attributes.get("axis", default)
    if not -rank <= axis < rank:
        raise _Mismatch(f"axis {axis} is outside a value of {rank} dimensions")
    return int(axis % rank)


def _gather(call: Call) -> list[Shape]:
    data, indices = call.input(0), call.input(1)
    axis = _axis(call, len(data), 0)
    return [data[:axis] + indices + data[axis + 1 :]]


def _concat(call: Call) -> list[Shape]:
    first = call.input(0)
    call.require("axis", _axis(call, len(first), 0), len(first) - 1)
    for i in range(len(call.shapes)):
        call.require(f"shape of input {i}", call.input(i)[:-1], first[:-1])
    return [(*first[:-1], sum(_last(call.input(i)) for i in range(len(call.shapes))))]


def _split(call: Call) -> list[Shape]:
    call.absent(1)
    shape = call.input(0)
    call.require("axis", _axis(call, len(shape), 0), len(shape) - 1)
    call.require("num_outputs", call.attributes.get("num_outputs"), call.outputs)
    size, rest = divmod(_last(shape), call.outputs)
    call.require(f"remainder of {_last(shape)} in {call.outputs} parts", rest, 0)
    return [(*shape[:-1], size)] * call.outputs


def _reduce(call: Call) -> list[Shape]:
    axes = call.constants[1] if len(call.constants) > 1 else None
    call.require("axes", None if axes is None else axes.tolist(), [-1])
    shape = call.input(0)
    return [shape[:-1] if call.attributes.get("keepdims", 1) == 0 else (*shape[:-1], 1)]


def _fused_matmul(call: Call) -> list[Shape]:
    a, b = call.input(0), call.input(1)
    call.require("transB", call.attributes.get("transB", 0), 1)
    call.require("dimensions of the weight", len(b), 2)
    call.require("inner size of the weight", b[1], _last(a))
    return [(*a[:-1], b[0])]


def _norm(call: Call) -> list[Shape]:
    x = call.input(0)
    call.require("shape of the weight", call.input(1), (_last(x),))
    call.require("axis", _axis(call, len(x), -1), len(x) - 1)
    call.require("outputs", call.outputs, 1)
    return [x]


def _skip_norm(call: Call) -> list[Shape]:
    x = call.input(0)
    call.require("shape of the second input", call.input(1), x)
    call.require("shape of the weight", call.input(2), (_last(x),))
    call.absent(3)
    return [x, (), (), x]  # the second and third are for training; the fourth is the sum


def _attention(call: Call) -> list[Shape]:
    config = call.config
    heads, key_value_heads = config.num_attention_heads, config.num_key_value_heads
    size = config.head_dim
    call.require("num_heads", call.attributes.get("num_heads"), heads)
    call.require("kv_num_heads", call.attributes.get("kv_num_heads"), key_value_heads)
    call.absent(1, 2, *range(9, len(call.shapes)))
    packed = (heads + 2 * key_value_heads) * size
    call.require("shape of the packed projection", call.input(0), ("B", "S", packed))
    cache: Shape = ("B", key_value_heads, "C", size)
    call.require("shape of the past keys", call.input(3), cache)
    call.require("shape of the past values", call.input(4), cache)
    call.require("shape of seqlens_k", call.input(5), ("B",))
    call.require("shape of total_sequence_length", call.input(6), ())
    if call.attributes.get("do_rotary", 0):
        for i in (7, 8):
            call.require(
                "shape of a rotary table", call.input(i), (config.context_length, size // 2)
            )
    return [("B", "S", heads * size), cache, cache]


def _integer(call: Call, name: str) -> int:
    value = call.attributes.get(name)
    if not isinstance(value, int):
        raise _Mismatch(f"the attribute {name} is missing")
    return value


def _block_layout(call: Call) -> tuple[int, int]:
    bits, block = call.attributes.get("bits", 4), _integer(call, "block_size")
    if bits not in (4, 8) or block not in (16, 32, 64, 128, 256):
        raise _Mismatch(f"bits {bits} with block_size {block} is not supported")
    return bits, block


def _matmul_nbits(call: Call) -> list[Shape]:
    bits, block = _block_layout(call)
    k, n = _integer(call, "K"), _integer(call, "N")
    a = call.input(0)
    blocks = -(-_last(a) // block)
    call.require("K", k, _last(a))
    call.require("shape of the packed weight", call.input(1), (n, blocks, block * bits // 8))
    if call.input(2) not in ((n, blocks), (n * blocks,)):
        raise _Mismatch(f"shape of the scales is {call.input(2)}, expected {(n, blocks)}")
    zero_points = -(-blocks * bits // 8)
    if len(call.shapes) > 3 and call.shapes[3] not in (None, (n, zero_points), (n * zero_points,)):
        raise _Mismatch(f"shape of the zero points is {call.shapes[3]}")
    call.absent(4, 5)
    return [(*a[:-1], n)]


def _gather_block_quantized(call: Call) -> list[Shape]:
    bits, block = _block_layout(call)
    data, indices, scales = call.input(0), call.input(1), call.input(2)
    call.require("gather_axis", call.attributes.get("gather_axis", 0), 0)
    call.require("quantize_axis", call.attributes.get("quantize_axis", 1), 1)
    call.require("dimensions of the packed rows", len(data), 2)
    call.require("number of rows", data[0], call.config.vocab_size)
    width = _last(data) * 8 // bits
    call.require("shape of the scales", scales, (data[0], -(-width // block)))
    call.absent(3)
    return [(*indices, width)]


def _operator(rule: Rule, *attributes: str) -> Operator:
    return Operator(rule, frozenset(attributes))


OPERATORS: dict[tuple[str, str], Operator] = {
    ("", "Add"): _operator(_broadcast),
    ("", "Cast"): _operator(_same, "to"),
    ("", "Concat"): _operator(_concat, "axis"),
    ("", "Div"): _operator(_broadcast),
    ("", "Gather"): _operator(_gather, "axis"),
    ("", "Mul"): _operator(_broadcast),
    ("", "ReduceL2"): _operator(_reduce, "keepdims"),
    ("", "Sigmoid"): _operator(_same),
    ("", "SimplifiedLayerNormalization"): _operator(_norm, "axis", "epsilon", "stash_type"),
    ("", "Split"): _operator(_split, "axis", "num_outputs"),
    ("", "Sub"): _operator(_broadcast),
    ("com.microsoft", "FusedMatMul"): _operator(_fused_matmul, "transB"),
    ("com.microsoft", "GatherBlockQuantized"): _operator(
        _gather_block_quantized, "bits", "block_size", "gather_axis", "quantize_axis"
    ),
    ("com.microsoft", "GroupQueryAttention"): _operator(
        _attention, "num_heads", "kv_num_heads", "scale", "do_rotary", "rotary_interleaved"
    ),
    ("com.microsoft", "MatMulNBits"): _operator(
        _matmul_nbits, "K", "N", "bits", "block_size", "accuracy_level"
    ),
    ("com.microsoft", "QuickGelu"): _operator(_same, "alpha"),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): _operator(_skip_norm, "epsilon"),
}
