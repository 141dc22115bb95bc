"""The operators of fused graphs, as `rdlite export` builds them: onnxruntime's own among them."""

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
from rdlite.config.quantization import ACCURACY_LEVELS, BITS, BLOCK_SIZES


def _elementwise(call: Call) -> list[Shape | Result]:
    call.arity(2)
    a, b = call.input(0), call.input(1)
    small, large = sorted((a, b), key=len)
    # A scalar, a row along the last axis, or the same shape: nothing that makes a value grow.
    if small not in ((), (1,), large[-1:], large):
        raise Mismatch(f"shapes {a} and {b} do not go together")
    return [large]


def _cast(call: Call) -> list[Shape | Result]:
    if call.integer("to") not in (1, 10, 16):  # FLOAT, FLOAT16, BFLOAT16
        raise Mismatch("it must cast to a floating-point type")
    return unary(call)


def _gather(call: Call) -> list[Shape | Result]:
    call.arity(2)
    data, indices = call.input(0), call.typed(1, "INT64")
    axis = call.integer("axis", 0)
    if axis == 0 and len(data) == 2 and indices == ("B", "S"):  # rows of an embedding
        call.require("number of rows", data[0], call.config.vocab_size)
        return [(*indices, data[1])]
    if axis == 1 and len(data) == 3 and data[:2] == ("B", "S") and indices == ("P",):
        return [("B", "P", data[2])]
    raise Mismatch(f"it takes {indices} of {data} along axis {axis}, which no model needs")


def _split(call: Call) -> list[Shape | Result]:
    shape = call.input(0)
    call.require_last(shape, 0)
    if len(call.inputs) < 2:  # in halves
        call.arity(1, outputs=2)
        call.require("num_outputs", call.attributes.get("num_outputs"), 2)
        call.require(f"remainder of {last(shape)} in two", last(shape) % 2, 0)
        return [(*shape[:-1], last(shape) // 2)] * 2
    call.arity(2, outputs=3)
    call.require("num_outputs", call.attributes.get("num_outputs"), None)
    call.require("shape of the sizes", call.typed(1, "INT64"), (3,))
    constant = call.value(1).constant
    sizes = [] if constant is None else constant.tolist()
    if min(sizes, default=0) < 1 or sum(sizes) != last(shape):
        raise Mismatch(f"{last(shape)} cannot be split into {sizes}")
    return [(*shape[:-1], size) for size in sizes]


def _fused_matmul(call: Call) -> list[Shape | Result]:
    call.arity(2)
    a, b = call.input(0), call.input(1)
    call.require("transB", call.integer("transB", 0), 1)
    call.require("dimensions of the weight", len(b), 2)
    call.require("inner size of the weight", b[1], last(a))
    return [(*a[:-1], b[0])]


def _norm(call: Call) -> list[Shape | Result]:
    call.arity(2)
    x = call.input(0)
    call.require("shape of the weight", call.input(1), (last(x),))
    call.require_last(x, -1)
    return [x]


def _skip_norm(call: Call) -> list[Shape | Result]:
    # Outputs 1 and 2 are for training; the fourth is the sum.
    if tuple(map(bool, call.outputs)) not in ((True,), (True, False, False, True)):
        raise Mismatch("it may have its first output, and its fourth")
    call.arity(3, outputs=len(call.outputs))
    x = call.input(0)
    call.require("shape of the second input", call.input(1), x)
    call.require("shape of the weight", call.input(2), (last(x),))
    return [x, (), (), x]


def _attention(call: Call) -> list[Shape | Result]:
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
        table = (config.rotary_positions, size // 2)
        for i in (7, 8):
            call.require("shape of a rotary table", call.input(i), table)
    return [("B", "S", heads * size), cache, cache]


def _block_layout(call: Call) -> tuple[int, int]:
    bits, block = call.integer("bits", 4), call.integer("block_size")
    if bits not in BITS or block not in BLOCK_SIZES:
        raise Mismatch(f"bits {bits} with block_size {block} is not supported")
    return bits, block


def _matmul_nbits(call: Call) -> list[Shape | Result]:
    call.arity(4)
    bits, block = _block_layout(call)
    if call.integer("accuracy_level", 0) not in (0, *ACCURACY_LEVELS):
        raise Mismatch(f"accuracy_level {call.integer('accuracy_level')} is not supported")
    k, n = call.integer("K"), call.integer("N")
    a = call.input(0)
    blocks = -(-last(a) // block)
    call.require("K", k, last(a))
    packed = call.typed(1, "UINT8")
    call.require("shape of the packed weight", packed, (n, blocks, block * bits // 8))
    if call.input(2) not in ((n, blocks), (n * blocks,)):
        raise Mismatch(f"shape of the scales is {call.input(2)}, expected {(n, blocks)}")
    if len(call.inputs) > 3 and call.inputs[3] is not None:
        size = -(-blocks * bits // 8)
        if call.typed(3, "UINT8") not in ((n, size), (n * size,)):
            raise Mismatch(f"shape of the zero points is {call.value(3).shape}")
    return [(*a[:-1], n)]


def _gather_block_quantized(call: Call) -> list[Shape | Result]:
    call.arity(3)
    bits, block = _block_layout(call)
    data, indices, scales = call.typed(0, "UINT8"), call.typed(1, "INT64"), call.input(2)
    call.require("gather_axis", call.integer("gather_axis", 0), 0)
    call.require("quantize_axis", call.integer("quantize_axis", 1), 1)
    call.require("dimensions of the packed rows", len(data), 2)
    call.require("number of rows", data[0], call.config.vocab_size)
    call.require("shape of the indices", indices, ("B", "S"))
    width = last(data) * 8 // bits
    call.require("shape of the scales", scales, (data[0], -(-width // block)))
    return [(*indices, width)]


FUSED: dict[tuple[str, str], Operator] = {
    ("", "Add"): operator(_elementwise),
    ("", "Cast"): operator(_cast, "to"),
    ("", "Concat"): operator(concat, "axis"),
    ("", "Div"): operator(_elementwise),
    ("", "Gather"): operator(_gather, "axis"),
    ("", "Mul"): operator(_elementwise),
    ("", "ReduceL2"): operator(reduce, "keepdims"),
    ("", "ReduceSum"): operator(reduce, "keepdims"),
    ("", "Sigmoid"): operator(unary),
    ("", "SimplifiedLayerNormalization"): operator(_norm, "axis stash_type", "epsilon"),
    ("", "Split"): operator(_split, "axis num_outputs"),
    ("", "Sub"): operator(_elementwise),
    ("com.microsoft", "FusedMatMul"): operator(_fused_matmul, "transB"),
    ("com.microsoft", "GatherBlockQuantized"): operator(
        _gather_block_quantized, "bits block_size gather_axis quantize_axis"
    ),
    ("com.microsoft", "GroupQueryAttention"): operator(
        _attention, "num_heads kv_num_heads do_rotary rotary_interleaved", "scale"
    ),
    ("com.microsoft", "MatMulNBits"): operator(_matmul_nbits, "K N bits block_size accuracy_level"),
    ("com.microsoft", "QuickGelu"): operator(unary, floats="alpha"),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): operator(_skip_norm, floats="epsilon"),
}
