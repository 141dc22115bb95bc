"""A checked graph, changed so that its attention keeps int8 keys and values.

Bundles hold graphs with float32 caches. The int8 ones follow from them when a model is loaded:
every cache input and output becomes int8, and each layer gets two inputs more, the scales of its
channels. They are inputs and no constants because every core step has scales of its own.
"""

from typing import Any

from rdlite.errors import GraphError

PAST, PRESENT, SCALE = "past_key_values.", "present.", "cache_scale."
#: Where GroupQueryAttention takes past keys and values, and their scales.
PASTS, SCALES = (3, 4), (12, 13)


def with_int8_cache(graph: bytes) -> bytes:
    """Return the graph with an int8 cache.

    Args:
        graph: a serialized model that `check_graph` has checked.

    Returns:
        The same graph, but `past_key_values.{i}.key|value` and `present.{i}.key|value` are int8
        [B, K, C, D], and `cache_scale.{i}.key|value` are further inputs, float32 [1, K, 1, D]: an
        entry is the int8 number times its channel's scale. onnxruntime rounds new entries before
        it attends to them, so what a position sees does not depend on how a text is cut.

    Raises:
        GraphError: a value of the graph has the name of such an input.
    """
    import onnx

    model = onnx.ModelProto.FromString(graph)
    taken = {name for node in model.graph.node for name in node.output}
    taken |= {tensor.name for tensor in model.graph.initializer}
    shapes = {}
    for value in (*model.graph.input, *model.graph.output):
        if value.name.startswith((PAST, PRESENT)):
            shapes[value.name] = value.type.tensor_type.shape.dim
            value.type.tensor_type.elem_type = onnx.TensorProto.INT8
    for node in model.graph.node:
        if node.op_type != "GroupQueryAttention":
            continue
        inputs = [*node.input, *[""] * SCALES[1]][: SCALES[1] + 1]
        for past, scale in zip(PASTS, SCALES, strict=True):
            name = inputs[past].replace(PAST, SCALE)
            if name in taken:
                raise GraphError(f"{name} is the name of an input, and of a value of the graph")
            _, heads, _, size = (dim.dim_value for dim in shapes[inputs[past]])
            model.graph.input.append(_scale_input(name, heads, size))
            inputs[scale] = name
        del node.input[:]
        node.input.extend(inputs)
        for key, setting in (
            ("k_quant_type", "PER_CHANNEL"),
            ("v_quant_type", "PER_CHANNEL"),
            ("kv_cache_bit_width", 8),
        ):
            node.attribute.append(onnx.helper.make_attribute(key, setting))
    changed: bytes = model.SerializeToString(deterministic=True)
    return changed


def _scale_input(name: str, heads: int, size: int) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, heads, 1, size])
