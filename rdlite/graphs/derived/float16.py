"""A checked graph, changed so that its activations are float16, as GPUs run it fast.

Bundles hold graphs with float32 activations. Those for CUDA follow from them when a model is
loaded: the weights are the same bytes, so one bundle serves both. Sums over whole states, which
float16 could not hold, stay float32, and so do the logits; norms sum up in float32 anyway.
"""

from typing import Any

#: Outputs that stay float32, see the graph contract.
FULL_OUTPUTS = ("change", "exit_probability", "logits")
#: What sums over many numbers; what follows from it stays float32 too.
SUMS = ("ReduceL2", "ReduceSum")
#: What takes any float type, so that it follows its inputs.
FOLLOWS = ("Add", "Sub", "Mul", "Div", "Sigmoid")
FLOAT, FLOAT16, BFLOAT16 = 1, 10, 16
FLOATS = (FLOAT, FLOAT16, BFLOAT16)


def with_float16(graph: bytes) -> bytes:
    """Return the graph with float16 activations.

    Args:
        graph: a serialized model that `check_graph` has checked.

    Returns:
        The same graph, but `embeds`, `state`, `next_state` and the cache are float16; `change`,
        `exit_probability` and `logits` stay float32. Float32 weights are narrowed once, when
        onnxruntime loads the graph; packed ones are as they were.
    """
    import onnx

    model = onnx.ModelProto.FromString(graph)
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.tensor_type
        if kind.elem_type == FLOAT and value.name not in FULL_OUTPUTS:
            kind.elem_type = FLOAT16
    writer = _Writer(model.graph)
    for node in model.graph.node:
        writer.convert(node)
    del model.graph.node[:]
    model.graph.node.extend(writer.nodes)
    changed: bytes = model.SerializeToString(deterministic=True)
    return changed


class _Writer:
    """Goes through the nodes in their order, and casts where types would not go together."""

    def __init__(self, graph: Any) -> None:
        self.nodes: list[Any] = []
        #: What the values have become that the nodes read: other values, or themselves.
        self._now: dict[str, str] = {}
        self._types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
        self._types |= self._stored
        self._wanted = {value.name: value.type.tensor_type.elem_type for value in graph.output}
        self._casts: dict[tuple[str, int], str] = {}
        self._taken = {name for node in graph.node for name in node.output} | set(self._types)

    def convert(self, node: Any) -> None:
        """Add a node that reads float16, or float32 if it sums or goes on from a sum."""
        if node.op_type == "Cast":  # whoever reads it casts as it needs
            self._now[node.output[0]] = self._now.get(node.input[0], node.input[0])
            return
        inputs = [self._now.get(name, name) for name in node.input]
        sums = node.op_type in SUMS or (
            node.op_type in FOLLOWS
            and any(self._types[name] == FLOAT for name in inputs if name not in self._stored)
        )
        kind = FLOAT if sums else FLOAT16
        changed = type(node)()
        changed.CopyFrom(node)
        changed.input[:] = [self._as(name, kind) for name in inputs]
        for attribute in [a for a in changed.attribute if a.name == "accuracy_level"]:
            changed.attribute.remove(attribute)  # int8 activations, which are for CPUs
        self.nodes.append(changed)
        for index, name in enumerate(node.output):
            if self._wanted.get(name, kind) != kind:
                self._now[name] = changed.output[index] = self._new(f"{name}.{kind}")
                self._add_cast(changed.output[index], name, self._wanted[name])
            self._types[changed.output[index]] = kind

    def _as(self, name: str, kind: int) -> str:
        """Return a value as float16 or float32, if it holds such numbers at all."""
        if not name or self._types[name] not in FLOATS or self._types[name] == kind:
            return name
        if (name, kind) not in self._casts:
            self._casts[name, kind] = self._new(f"{name}.{kind}")
            self._add_cast(name, self._casts[name, kind], kind)
        return self._casts[name, kind]

    def _add_cast(self, source: str, target: str, kind: int) -> None:
        import onnx

        self.nodes.append(onnx.helper.make_node("Cast", [source], [target], to=kind))

    def _new(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name
