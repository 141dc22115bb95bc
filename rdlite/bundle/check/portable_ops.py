"""The operators of portable graphs: standard ones alone, as a traced model uses them.

Attention is spelled out: ScatterElements writes new keys and values into the cache where it lies,
Slice reads the T places of it that are filled. Sizes that depend on an input can only be S, the
number of new positions, and T.
"""

import math

from rdlite.bundle.check.op_rules import (
    Call,
    Mismatch,
    Operator,
    Result,
    Shape,
    concat,
    last,
    operator,
    reduce,
    unary,
)

MAX_RANK = 5


def _broadcast(*shapes: Shape) -> Shape:
    """The shape of values that are put together number by number."""
    rank = max(map(len, shapes))
    result: list[int | str] = []
    for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        wider = {size for size in sizes if size != 1}
        if len(wider) > 1:
            raise Mismatch(f"shapes {' and '.join(map(str, shapes))} do not go together")
        result.append(wider.pop() if wider else 1)
    return tuple(result)


def _constant(call: Call, i: int, what: str) -> list[int]:
    """The numbers of an input that must be a short constant list of integers."""
    call.typed(i, "INT64")
    constant = call.value(i).constant
    if constant is None or constant.ndim != 1:
        raise Mismatch(f"{what} must be a short list of constants")
    numbers: list[int] = constant.tolist()
    return numbers


def _arithmetic(call: Call) -> list[Shape | Result]:
    call.arity(2)
    a, b = call.typed(0, "FLOAT", "INT64"), call.typed(1, "FLOAT", "INT64")
    call.require("type of input 1", call.value(1).dtype, call.value(0).dtype)
    return [Result(_broadcast(a, b), call.value(0).dtype)]


def _float_arithmetic(call: Call) -> list[Shape | Result]:
    call.arity(2)
    return [_broadcast(call.typed(0, "FLOAT"), call.typed(1, "FLOAT"))]


def _compare(call: Call) -> list[Shape | Result]:
    call.arity(2)
    return [Result(_broadcast(call.typed(0, "INT64"), call.typed(1, "INT64")), "BOOL")]


def _where(call: Call) -> list[Shape | Result]:
    call.arity(3)
    shapes = call.typed(0, "BOOL"), call.typed(1, "FLOAT"), call.typed(2, "FLOAT")
    return [_broadcast(*shapes)]


def _cast(call: Call) -> list[Shape | Result]:
    call.arity(1)
    value = call.value(0)
    to = call.integer("to")
    if (value.dtype, to) == ("FLOAT", 1):
        return [value.shape]
    if value.dtype in ("INT32", "INT64") and to == 7:
        size = "T" if value.name == "total_sequence_length" else value.size
        return [Result(value.shape, "INT64", size)]
    raise Mismatch(f"it casts {value.dtype} to the type {to}, which no model needs")


def _shape(call: Call) -> list[Shape | Result]:
    call.arity(1)
    shape = call.value(0).shape
    call.require("start", call.integer("start", 0), 1)
    call.require("end", call.integer("end", 0), 2)
    call.require("size that is asked for", shape[1:2], ("S",))
    return [Result((1,), "INT64", "S")]


def _squeeze(call: Call) -> list[Shape | Result]:
    call.arity(2)
    call.require("axes", _constant(call, 1, "axes"), [0])
    call.require("shape", call.typed(0, "INT64"), (1,))
    return [Result((), "INT64", call.value(0).size)]


def _unsqueeze(call: Call) -> list[Shape | Result]:
    call.arity(2)
    value = call.value(0)
    call.typed(0, "FLOAT", "INT64")
    axes = _constant(call, 1, "axes")
    rank = len(value.shape) + len(axes)
    if sorted(set(axes)) != axes or not all(0 <= axis < rank <= MAX_RANK for axis in axes):
        raise Mismatch(f"axes {axes} do not fit {value.shape}")
    rest = iter(value.shape)
    shape = tuple(1 if axis in axes else next(rest) for axis in range(rank))
    return [Result(shape, value.dtype, value.size)]


def _range(call: Call) -> list[Shape | Result]:
    call.arity(3)
    for i, expected in ((0, 0), (2, 1)):
        call.require(f"shape of input {i}", call.typed(i, "INT64"), ())
        constant = call.value(i).constant
        call.require(f"input {i}", None if constant is None else constant.item(), expected)
    call.require("shape of the limit", call.typed(1, "INT64"), ())
    size = call.value(1).size
    if size is None:
        raise Mismatch("its limit must be the number of new positions, or of all")
    return [Result((size,), "INT64")]


def _gather(call: Call) -> list[Shape | Result]:
    call.arity(2)
    data, indices = call.typed(0, "FLOAT"), call.typed(1, "INT64")
    axis = call.integer("axis", 0)
    if axis == 0 and len(data) == 2 and indices == ("B", "S"):  # an embedding, rotary tables
        if data[0] not in (call.config.vocab_size, call.config.context_length):
            raise Mismatch(f"number of rows is {data[0]}, expected the vocabulary's or context's")
        return [(*indices, data[1])]
    if axis == 1 and len(data) == 3 and data[:2] == ("B", "S") and indices == ("P",):
        return [("B", "P", data[2])]
    raise Mismatch(f"it takes {indices} of {data} along axis {axis}, which no model needs")


def _split(call: Call) -> list[Shape | Result]:
    shape = call.typed(0, "FLOAT")
    call.require_last(shape, 0)
    sizes = _constant(call, 1, "sizes")
    call.arity(2, outputs=len(sizes))
    if min(sizes, default=0) < 1 or sum(sizes) != last(shape):
        raise Mismatch(f"{last(shape)} cannot be split into {sizes}")
    return [(*shape[:-1], size) for size in sizes]


def _reshape(call: Call) -> list[Shape | Result]:
    call.arity(2)
    shape = call.typed(0, "FLOAT")
    wanted = _constant(call, 1, "shape")
    known = [size for size in shape[2:] if isinstance(size, int)]
    if shape[:2] != ("B", "S") or len(known) != len(shape) - 2 or not 3 <= len(wanted) <= MAX_RANK:
        raise Mismatch(f"{shape} cannot become {wanted}")
    call.require("axes that are kept", wanted[:2], [0, 0])
    *sizes, end = wanted[2:]
    if end == -1 and min(sizes, default=1) > 0 and math.prod(known) % math.prod(sizes) == 0:
        end = math.prod(known) // math.prod(sizes)
    if min(*sizes, end, end) < 1 or math.prod((*sizes, end)) != math.prod(known):
        raise Mismatch(f"{shape} cannot become {wanted}")
    return [("B", "S", *sizes, end)]


def _expand(call: Call) -> list[Shape | Result]:
    call.arity(2)
    shape, wanted = call.typed(0, "INT64"), _constant(call, 1, "shape")
    if min(wanted, default=0) < 1 or len(wanted) > MAX_RANK:
        raise Mismatch(f"{shape} cannot become {wanted}")
    return [Result(_broadcast(shape, tuple(wanted)), "INT64")]


def _transpose(call: Call) -> list[Shape | Result]:
    call.arity(1)
    shape, order = call.typed(0, "FLOAT"), call.attributes.get("perm", ())
    if sorted(order) != list(range(len(shape))):
        raise Mismatch(f"the axes of {shape} cannot take the order {order}")
    return [tuple(shape[axis] for axis in order)]


def _matmul(call: Call) -> list[Shape | Result]:
    call.arity(2)
    a, b = call.typed(0, "FLOAT"), call.typed(1, "FLOAT")
    if len(a) < 2 or len(b) < 2 or (len(b) > 2 and a[:-2] != b[:-2]) or a[-1] != b[-2]:
        raise Mismatch(f"shapes {a} and {b} do not go together")
    return [(*a[:-1], b[-1])]


def _softmax(call: Call) -> list[Shape | Result]:
    call.arity(1)
    shape = call.typed(0, "FLOAT")
    call.require_last(shape, -1)
    return [shape]


def _write_cache(call: Call) -> list[Shape | Result]:
    config = call.config
    heads, size = config.num_key_value_heads, config.head_dim
    call.arity(3)
    call.require("axis", call.integer("axis", 0), 2)
    cache: Shape = ("B", heads, "C", size)
    call.require("shape of the cache", call.typed(0, "FLOAT"), cache)
    past = call.value(0).name
    call.require("name of the cache", past.split(".")[0], "past_key_values")
    # It writes where it reads: the keys or the values of one layer.
    call.require("output", call.outputs[0], past.replace("past_key_values", "present"))
    call.require("shape of the entries", call.typed(2, "FLOAT"), ("B", heads, "S", size))
    call.require("shape of their places", call.typed(1, "INT64"), ("B", heads, "S", size))
    return [cache]


def _read_cache(call: Call) -> list[Shape | Result]:
    config = call.config
    call.arity(4)
    cache = ("B", config.num_key_value_heads, "C", config.head_dim)
    call.require("shape of the cache", call.typed(0, "FLOAT"), cache)
    call.require("start", _constant(call, 1, "start"), [0])
    call.require("axes", _constant(call, 3, "axes"), [2])
    call.require("shape of the end", call.typed(2, "INT64"), (1,))
    call.require("end", call.value(2).size, "T")
    return [("B", config.num_key_value_heads, "T", config.head_dim)]


PORTABLE: dict[tuple[str, str], Operator] = {
    ("", "Add"): operator(_arithmetic),
    ("", "Cast"): operator(_cast, "to"),
    ("", "Concat"): operator(concat, "axis"),
    ("", "Div"): operator(_float_arithmetic),
    ("", "Expand"): operator(_expand),
    ("", "Gather"): operator(_gather, "axis"),
    ("", "LessOrEqual"): operator(_compare),
    ("", "MatMul"): operator(_matmul),
    ("", "Mul"): operator(_float_arithmetic),
    ("", "Pow"): operator(_float_arithmetic),
    ("", "Range"): operator(_range),
    ("", "ReduceL2"): operator(reduce, "keepdims"),
    ("", "ReduceMean"): operator(reduce, "keepdims"),
    ("", "Reshape"): operator(_reshape),
    ("", "ScatterElements"): operator(_write_cache, "axis"),
    ("", "Shape"): operator(_shape, "start end"),
    ("", "Sigmoid"): operator(unary),
    ("", "Slice"): operator(_read_cache),
    ("", "Softmax"): operator(_softmax, "axis"),
    ("", "Split"): operator(_split, "axis"),
    ("", "Sqrt"): operator(unary),
    ("", "Squeeze"): operator(_squeeze),
    ("", "Sub"): operator(_arithmetic),
    ("", "Transpose"): operator(_transpose, lists="perm"),
    ("", "Unsqueeze"): operator(_unsqueeze),
    ("", "Where"): operator(_where),
}
