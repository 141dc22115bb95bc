"""A checked core graph, changed so that one call takes several core steps.

What a call costs besides its work, in onnxruntime and in Python, small models notice. The steps
stand one behind the other, on the same weights, and each has the bits that it has alone.
"""

from collections.abc import Container
from typing import Any

#: Core steps of a call.
STEPS = 4
#: What is there for each layer of each step. As if all steps were layers of one core, so that what
#: takes graphs apart by layer need not know of steps.
LAYERED = ("past_key_values.", "present.", "cache_scale.")
#: What all steps read.
SHARED = ("embeds", "seqlens_k", "total_sequence_length")


def layer_name(name: str, more: int) -> str:
    """Return what "past_key_values.{i}.key" and the like are called for layer i + `more`."""
    kind, layer, which = name.split(".")
    return f"{kind}.{int(layer) + more}.{which}"


def step_name(name: str, step: int) -> str:
    """Return what an output that each step has, such as "change", is called for one of them."""
    return f"step.{step}.{name}"


def with_steps(graph: bytes, steps: int = STEPS) -> bytes:
    """Return the core's graph, taking several steps.

    Args:
        graph: a serialized model that `check_graph` has checked, with an int8 cache or without.
        steps: how many.

    Returns:
        A graph in which `next_state`, `change` and `exit_probability` are there for each step,
        under the names that `step_name` gives, and what belongs to a layer under those of
        `layer_name`, step k's layers coming after those of the steps before it.
    """
    import onnx

    model = onnx.ModelProto.FromString(graph)
    body = model.graph
    layers = sum(value.name.startswith(LAYERED[0]) for value in body.input) // 2
    kept = {*SHARED, *(tensor.name for tensor in body.initializer)}
    nodes, inputs, outputs = [*body.node], [*body.input], [*body.output]
    layered = [value for value in inputs if value.name.startswith(LAYERED)]
    for values in (body.node, body.input, body.output, body.value_info):
        del values[:]
    body.input.extend(value for value in inputs if not value.name.startswith(LAYERED))
    for step in range(steps):
        for node in nodes:
            copy = body.node.add()
            copy.CopyFrom(node)
            copy.name = step_name(node.name or node.output[0], step)
            for names in (copy.input, copy.output):
                for index, name in enumerate(names):
                    names[index] = _named(name, step, layers, kept)
        for values, added in ((body.input, layered), (body.output, outputs)):
            for value in added:
                copy = values.add()
                copy.CopyFrom(value)
                copy.name = _named(value.name, step, layers, kept)
    changed: bytes = model.SerializeToString(deterministic=True)
    return changed


def _named(name: Any, step: int, layers: int, kept: Container[str]) -> str:
    if not name or name in kept:
        return str(name)
    if name == "state":
        return step_name("next_state", step - 1) if step else "state"
    if name.startswith(LAYERED):
        return layer_name(name, step * layers)
    return step_name(name, step)
