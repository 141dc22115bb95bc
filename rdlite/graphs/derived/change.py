"""How far a step moved a state, apart from the core: GPUs work it out when it is looked at.

There each of a step's small operators costs as much as a hundredth of its weights, and without an
exit rule nobody looks.
"""

from typing import Any

FLOAT, FLOAT16, INT64 = 1, 10, 7
#: So small that it changes no length that float16 can hold.
EPSILON = 1e-30


def without_change(graph: bytes) -> bytes:
    """Return a core graph without its output `change` and what only that needs."""
    import onnx

    model = onnx.ModelProto.FromString(graph)
    body = model.graph
    outputs = [value for value in body.output if value.name != "change"]
    nodes = [*body.node]
    wanted = {value.name for value in outputs}
    kept: list[Any] = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    del body.output[:], body.node[:]
    body.output.extend(outputs)
    body.node.extend(reversed(kept))
    tensors = [tensor for tensor in body.initializer if tensor.name in wanted]
    del body.initializer[:]
    body.initializer.extend(tensors)
    changed: bytes = model.SerializeToString(deterministic=True)
    return changed


def change_graph(hidden_size: int) -> bytes:
    """Return a graph of `change` alone.

    It takes `state` and `next_state`, float16 [B, S, E], and gives `change`, float32 [B, S]:
    `||next_state - state|| / ||next_state||`. A norm's second result is one over the root of the
    mean square, summed up in float32 by one kernel, where a reduction takes several.
    """
    from onnx import helper

    def tensor(name: str, kind: int, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    def length(name: str) -> list[Any]:
        norm = helper.make_node(
            "SimplifiedLayerNormalization",
            [name, "ones"],
            [f"{name}.normed", f"{name}.inverse"],
            axis=-1,
            epsilon=EPSILON,
            stash_type=FLOAT,
        )
        row = helper.make_node("Squeeze", [f"{name}.inverse", "last_axis"], [f"{name}.row"])
        return [norm, row]

    wide = ["B", "S", hidden_size]
    graph = helper.make_graph(
        [
            helper.make_node("Sub", ["next_state", "state"], ["moved"]),
            *length("moved"),
            *length("next_state"),
            helper.make_node("Div", ["next_state.row", "moved.row"], ["change"]),
        ],
        "change",
        [tensor("state", FLOAT16, wide), tensor("next_state", FLOAT16, wide)],
        [tensor("change", FLOAT, ["B", "S"])],
        [
            helper.make_tensor("ones", FLOAT16, [hidden_size], [1.0] * hidden_size),
            helper.make_tensor("last_axis", INT64, [1], [-1]),
        ],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    made: bytes = helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()
    return made
