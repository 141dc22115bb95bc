"""A checked graph, changed so that positions of one call may be of different texts and depths.

GroupQueryAttention gives several positions of one call other bits than each alone, and one cache
for all. By rows, products and norms see all positions as before, and attention is a node for each:
of one position, with lengths and a cache of its own. So a row has the bits that it has alone,
whoever its neighbours are. Rows of one text, in order, are given the same cache: the nodes run in
the order of the rows, which the session must hold to.
"""

from typing import Any

#: What each row has of its own.
OWN = ("past_key_values.", "present.", "cache_scale.", "seqlens_k", "total_sequence_length")
ATTENTION = "GroupQueryAttention"
PICK, PLACE = "pick", "place"


def own_name(row: int, name: str) -> str:
    """Return what an input or output that each row has of its own is called for a row."""
    return f"row.{row}.{name}"


def has_attention(graph: bytes) -> bool:
    """Whether rows of the graph need nodes of their own."""
    import onnx

    return any(node.op_type == ATTENTION for node in onnx.ModelProto.FromString(graph).graph.node)


def with_rows(graph: bytes, width: int, picked: bool) -> bytes:
    """Return the graph by rows.

    Args:
        graph: a serialized model that `check_graph` has checked, with an int8 cache or without.
        width: attention nodes a layer.
        picked: let the graph take any number of positions. Node i then reads those that the input
            `pick.{i}`, int64 [n], says: one, or for a chunk of one text several of one node.
            The input `place`, int64 [S], says where in the row of what the nodes give, one after
            the other, each position's result is. Otherwise it takes `width` positions.

    Returns:
        A graph in which `past_key_values.{i}.key|value`, `seqlens_k` and so on are there for each
        node, under the names that `own_name` gives.
    """
    import onnx

    model = onnx.ModelProto.FromString(graph)
    body = model.graph
    nodes = [*body.node]
    for values in (body.input, body.output):
        kept = [value for value in values if not value.name.startswith(OWN)]
        own = [value for value in values if value.name.startswith(OWN)]
        del values[:]
        values.extend(kept)
        for row in range(width):
            values.extend(_renamed(value, row) for value in own)
    if picked:
        for name, size in [*((f"{PICK}.{row}", None) for row in range(width)), (PLACE, "S")]:
            body.input.append(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [size])
            )
    del body.node[:]
    for node in nodes:
        if node.op_type != ATTENTION:
            body.node.append(node)
            continue
        split = [_split(body, node.input[index], width, picked) for index in range(3)]
        attended = f"rows.{node.output[0]}"
        for row in range(width):
            copy = body.node.add()
            copy.CopyFrom(node)
            copy.name = f"{node.name or node.output[0]}.row.{row}"
            for index, name in enumerate(node.input):
                if index < 3:
                    copy.input[index] = split[index][row] if name else ""
                elif name.startswith(OWN):
                    copy.input[index] = own_name(row, name)
            copy.output[0] = f"{attended}.{row}"
            copy.output[1:] = [own_name(row, name) for name in node.output[1:]]
        parts = [f"{attended}.{row}" for row in range(width)]
        whole = attended if picked else node.output[0]
        body.node.append(onnx.helper.make_node("Concat", parts, [whole], axis=1))
        if picked:
            gather = onnx.helper.make_node("Gather", [whole, PLACE], [node.output[0]], axis=1)
            body.node.append(gather)
    changed: bytes = model.SerializeToString(deterministic=True)
    return changed


def _split(body: Any, name: str, width: int, picked: bool) -> list[str]:
    """Add what gives each node its positions of a value; returns their names."""
    import onnx

    if not name:
        return []
    parts = [f"rows.{name}.{row}" for row in range(width)]
    if picked:
        for row, part in enumerate(parts):
            inputs = [name, f"{PICK}.{row}"]
            body.node.append(onnx.helper.make_node("Gather", inputs, [part], axis=1))
    else:
        body.node.append(onnx.helper.make_node("Split", [name], parts, axis=1, num_outputs=width))
    return parts


def _renamed(value: Any, row: int) -> Any:
    copy = type(value)()
    copy.CopyFrom(value)
    copy.name = own_name(row, value.name)
    for dim in copy.type.tensor_type.shape.dim:
        if dim.dim_param:  # rows have caches of different sizes
            dim.dim_param = f"{dim.dim_param}.{row}"
    return copy
