"""The operators a graph may use: the shapes they give, the types they take, their attributes.

A shape is a tuple of sizes and of the symbols B, S, P, C. Because every value's shape is known and
bounded before a graph is loaded, none can read outside its tensors or ask for more memory than its
declared sizes need. Rules are as strict as the graphs that rdlite makes allow.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from rdlite.config import ModelConfig
from rdlite.quantization import ACCURACY_LEVELS, BITS, BLOCK_SIZES

Shape = tuple[int | str, ...]
FLOATS = frozenset(["FLOAT", "FLOAT16", "BFLOAT16"])


class Mismatch(Exception):
    """A rule does not hold; the caller adds which node it was."""


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of a value before anything runs: its name, shape, type, and constant data.

    `stored` values are tensors of the file; their size is not that of what is computed.
    """

    name: str
    shape: Shape
    dtype: str
    constant: npt.NDArray[Any] | None = None
    stored: bool = False

    @property
    def elements(self) -> int:
        """Numbers in it; at one position, if it has them for each."""
        return math.prod(size for size in self.shape if isinstance(size, int))


@dataclass(frozen=True, slots=True)
class Call:
    """One node, with what its rule needs to know. An input that is left out is None."""

    inputs: Sequence[Value | None]
    outputs: Sequence[str]
    attributes: Mapping[str, Any]
    config: ModelConfig

    def value(self, i: int) -> Value:
        """An input that must be there."""
        value = self.inputs[i] if i < len(self.inputs) else None
        if value is None:
            raise Mismatch(f"input {i} is missing")
        return value

    def input(self, i: int) -> Shape:
        """The shape of an input that must be there, and hold floating-point numbers."""
        value = self.value(i)
        if value.dtype not in FLOATS:
            raise Mismatch(f"input {i} is {value.dtype}, expected floating-point numbers")
        return value.shape

    def typed(self, i: int, *dtypes: str) -> Shape:
        """The shape of an input that must be there and have one of these types."""
        value = self.value(i)
        if value.dtype not in dtypes:
            raise Mismatch(f"input {i} is {value.dtype}, expected {' or '.join(dtypes)}")
        return value.shape

    def arity(self, most_inputs: int, outputs: int = 1) -> None:
        """Refuse further inputs, and any other number of outputs."""
        if any(value is not None for value in self.inputs[most_inputs:]):
            raise Mismatch(f"it has more than {most_inputs} inputs")
        self.require("number of outputs", len(self.outputs), outputs)
        if "" in self.outputs and outputs > 1 and len(self.outputs) != 4:
            raise Mismatch("an output is left out")

    def require(self, what: str, value: object, expected: object) -> None:
        """Refuse a value that is not the expected one."""
        if value != expected:
            raise Mismatch(f"{what} is {value!r:.80}, expected {expected!r:.80}")

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole-number attribute, which must be there if it has no default."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise Mismatch(f"the attribute {name} is missing")
        return value


Rule = Callable[[Call], Sequence[Shape]]


@dataclass(frozen=True, slots=True)
class Operator:
    """An allowed operator: its shape rule, and its attributes by their type."""

    rule: Rule
    integers: frozenset[str] = field(default_factory=frozenset)
    floats: frozenset[str] = field(default_factory=frozenset)


def _elementwise(call: Call) -> list[Shape]:
    call.arity(2)
    a, b = call.input(0), call.input(1)
    small, large = sorted((a, b), key=len)
    # A scalar, a row along the last axis, or the same shape: nothing that makes a value grow.
    if small not in ((), (1,), large[-1:], large):
        raise Mismatch(f"shapes {a} and {b} do not go together")
    return [large]


def _unary(call: Call) -> list[Shape]:
    call.arity(1)
    return [call.input(0)]


def _cast(call: Call) -> list[Shape]:
    if call.integer("to") not in (1, 10, 16):  # FLOAT, FLOAT16, BFLOAT16
        raise Mismatch("it must cast to a floating-point type")
    return _unary(call)


def _last(shape: Shape) -> int:
    if not shape or not isinstance(shape[-1], int):
        raise Mismatch(f"the last dimension of {shape} must be a size")
    return shape[-1]


def _last_axis(call: Call, shape: Shape, default: int) -> None:
    axis = call.integer("axis", default)
    if axis not in (-1, len(shape) - 1):
        raise Mismatch(f"axis is {axis}, expected -1")


def _gather(call: Call) -> list[Shape]:
    call.arity(2)
    data, indices = call.input(0), call.typed(1, "INT64")
    axis = call.integer("axis", 0)
    if axis == 0 and len(data) == 2 and indices == ("B", "S"):  # rows of an embedding
        call.require("number of rows", data[0], call.config.vocab_size)
        return [(*indices, data[1])]
    if axis == 1 and len(data) == 3 and data[:2] == ("B", "S") and indices == ("P",):
        return [("B", "P", data[2])]
    raise Mismatch(f"it takes {indices} of {data} along axis {axis}, which no model needs")


def _concat(call: Call) -> list[Shape]:
    call.arity(2)
    a, b = call.input(0), call.input(1)
    _last_axis(call, a, 0)
    call.require("shape of input 1", b[:-1], a[:-1])
    return [(*a[:-1], _last(a) + _last(b))]


def _split(call: Call) -> list[Shape]:
    shape = call.input(0)
    _last_axis(call, shape, 0)
    if len(call.inputs) < 2:  # in halves
        call.arity(1, outputs=2)
        call.require("num_outputs", call.attributes.get("num_outputs"), 2)
        call.require(f"remainder of {_last(shape)} in two", _last(shape) % 2, 0)
        return [(*shape[:-1], _last(shape) // 2)] * 2
    call.arity(2, outputs=3)
    call.require("num_outputs", call.attributes.get("num_outputs"), None)
    call.require("shape of the sizes", call.typed(1, "INT64"), (3,))
    constant = call.value(1).constant
    sizes = [] if constant is None else constant.tolist()
    if min(sizes, default=0) < 1 or sum(sizes) != _last(shape):
        raise Mismatch(f"{_last(shape)} cannot be split into {sizes}")
    return [(*shape[:-1], size) for size in sizes]


def _reduce(call: Call) -> list[Shape]:
    call.arity(2)
    call.require("shape of the axes", call.typed(1, "INT64"), (1,))
    axes = call.value(1).constant
    call.require("axes", None if axes is None else axes.tolist(), [-1])
    shape = call.input(0)
    _last(shape)
    return [shape[:-1] if call.integer("keepdims", 1) == 0 else (*shape[:-1], 1)]


def _fused_matmul(call: Call) -> list[Shape]:
    call.arity(2)
    a, b = call.input(0), call.input(1)
    call.require("transB", call.integer("transB", 0), 1)
    call.require("dimensions of the weight", len(b), 2)
    call.require("inner size of the weight", b[1], _last(a))
    return [(*a[:-1], b[0])]


def _norm(call: Call) -> list[Shape]:
    call.arity(2)
    x = call.input(0)
    call.require("shape of the weight", call.input(1), (_last(x),))
    _last_axis(call, x, -1)
    return [x]


def _skip_norm(call: Call) -> list[Shape]:
    # Outputs 1 and 2 are for training; the fourth is the sum.
    if tuple(map(bool, call.outputs)) not in ((True,), (True, False, False, True)):
        raise Mismatch("it may have its first output, and its fourth")
    call.arity(3, outputs=len(call.outputs))
    x = call.input(0)
    call.require("shape of the second input", call.input(1), x)
    call.require("shape of the weight", call.input(2), (_last(x),))
    return [x, (), (), x]


def _attention(call: Call) -> list[Shape]:
    config = call.config
    heads, key_value_heads = config.num_attention_heads, config.num_key_value_heads
    size = config.head_dim
    call.arity(9, outputs=3)
    call.require("num_heads", call.attributes.get("num_heads"), heads)
    call.require("kv_num_heads", call.attributes.get("kv_num_heads"), key_value_heads)
    if call.inputs[1] is None:
        call.require("input 2", call.inputs[2], None)
        packed = (heads + 2 * key_value_heads) * size
        call.require("shape of the packed projection", call.input(0), ("B", "S", packed))
    else:
        for i, count in enumerate((heads, key_value_heads, key_value_heads)):
            call.require(f"shape of input {i}", call.input(i), ("B", "S", count * size))
    cache: Shape = ("B", key_value_heads, "C", size)
    for i, kind in ((3, "key"), (4, "value")):
        call.require(f"shape of the past {kind}s", call.input(i), cache)
        # It writes where it reads: the cache of one layer, and of no other.
        past = call.value(i).name
        call.require(f"name of the past {kind}s", past.split(".")[0::2], ["past_key_values", kind])
        written = past.replace("past_key_values", "present")
        call.require(f"output {i - 2}", call.outputs[i - 2], written)
    for i, name in ((5, "seqlens_k"), (6, "total_sequence_length")):
        call.require(f"input {i}", call.value(i).name, name)
    if call.integer("do_rotary", 0):
        table = (config.context_length, size // 2)
        for i in (7, 8):
            call.require("shape of a rotary table", call.input(i), table)
    return [("B", "S", heads * size), cache, cache]


def _block_layout(call: Call) -> tuple[int, int]:
    bits, block = call.integer("bits", 4), call.integer("block_size")
    if bits not in BITS or block not in BLOCK_SIZES:
        raise Mismatch(f"bits {bits} with block_size {block} is not supported")
    return bits, block


def _matmul_nbits(call: Call) -> list[Shape]:
    call.arity(4)
    bits, block = _block_layout(call)
    if call.integer("accuracy_level", 0) not in (0, *ACCURACY_LEVELS):
        raise Mismatch(f"accuracy_level {call.integer('accuracy_level')} is not supported")
    k, n = call.integer("K"), call.integer("N")
    a = call.input(0)
    blocks = -(-_last(a) // block)
    call.require("K", k, _last(a))
    packed = call.typed(1, "UINT8")
    call.require("shape of the packed weight", packed, (n, blocks, block * bits // 8))
    if call.input(2) not in ((n, blocks), (n * blocks,)):
        raise Mismatch(f"shape of the scales is {call.input(2)}, expected {(n, blocks)}")
    if len(call.inputs) > 3 and call.inputs[3] is not None:
        size = -(-blocks * bits // 8)
        if call.typed(3, "UINT8") not in ((n, size), (n * size,)):
            raise Mismatch(f"shape of the zero points is {call.value(3).shape}")
    return [(*a[:-1], n)]


def _gather_block_quantized(call: Call) -> list[Shape]:
    call.arity(3)
    bits, block = _block_layout(call)
    data, indices, scales = call.typed(0, "UINT8"), call.typed(1, "INT64"), call.input(2)
    call.require("gather_axis", call.integer("gather_axis", 0), 0)
    call.require("quantize_axis", call.integer("quantize_axis", 1), 1)
    call.require("dimensions of the packed rows", len(data), 2)
    call.require("number of rows", data[0], call.config.vocab_size)
    call.require("shape of the indices", indices, ("B", "S"))
    width = _last(data) * 8 // bits
    call.require("shape of the scales", scales, (data[0], -(-width // block)))
    return [(*indices, width)]


def _operator(rule: Rule, integers: str = "", floats: str = "") -> Operator:
    return Operator(rule, frozenset(integers.split()), frozenset(floats.split()))


OPERATORS: dict[tuple[str, str], Operator] = {
    ("", "Add"): _operator(_elementwise),
    ("", "Cast"): _operator(_cast, "to"),
    ("", "Concat"): _operator(_concat, "axis"),
    ("", "Div"): _operator(_elementwise),
    ("", "Gather"): _operator(_gather, "axis"),
    ("", "Mul"): _operator(_elementwise),
    ("", "ReduceL2"): _operator(_reduce, "keepdims"),
    ("", "ReduceSum"): _operator(_reduce, "keepdims"),
    ("", "Sigmoid"): _operator(_unary),
    ("", "SimplifiedLayerNormalization"): _operator(_norm, "axis stash_type", "epsilon"),
    ("", "Split"): _operator(_split, "axis num_outputs"),
    ("", "Sub"): _operator(_elementwise),
    ("com.microsoft", "FusedMatMul"): _operator(_fused_matmul, "transB"),
    ("com.microsoft", "GatherBlockQuantized"): _operator(
        _gather_block_quantized, "bits block_size gather_axis quantize_axis"
    ),
    ("com.microsoft", "GroupQueryAttention"): _operator(
        _attention, "num_heads kv_num_heads do_rotary rotary_interleaved", "scale"
    ),
    ("com.microsoft", "MatMulNBits"): _operator(
        _matmul_nbits, "K N bits block_size accuracy_level"
    ),
    ("com.microsoft", "QuickGelu"): _operator(_unary, floats="alpha"),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): _operator(_skip_norm, floats="epsilon"),
}
