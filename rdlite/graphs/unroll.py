"""A checked core graph, unrolled: several core steps in one call over the same weights.

Where a call costs as much as what it computes, as in runtimes of other languages, several steps
in one call cost one call. Every step's results are outputs, so that an exit rule sees each of them
and leaves at the step it would have left at.
"""

from typing import Any

from rdlite.errors import GraphError, InputError

#: More steps than this in one graph gain nothing.
MOST_STEPS = 64
STATE, NEXT_STATE, EMBEDS = "state", "next_state", "embeds"
CACHE = ("past_key_values.", "present.", "cache_scale.")


def unrolled_core(graph: bytes, steps: int) -> bytes:
    """Return the core graph with several steps in a row.

    Args:
        graph: a serialized core that `check_graph` has checked, with an int8 cache or without.
        steps: how many, 1 to 64.

    Returns:
        A graph that takes `state`, `embeds` and the lengths as before. What each step t from 0 on
        gives is an output of its own: `next_state.{t}`, `change.{t}` and, where the model has a
        gate, `exit_probability.{t}`; the state of a step is the `next_state` of the one before.
        Each step has a cache of its own, `past_key_values.{t}.{i}.key|value` and
        `present.{t}.{i}.key|value` (and `cache_scale.{t}.{i}.key|value`), so steps must not share
        a slot. Weights are there once in the file; a runtime that packs them does so for each step.

    Raises:
        InputError: `steps` is out of bounds.
        GraphError: a value of the graph has the name of such an output.
    """
    import onnx

    if not 1 <= steps <= MOST_STEPS:
        raise InputError(f"steps must lie between 1 and {MOST_STEPS}, got {steps}")
    model = onnx.ModelProto.FromString(graph)
    body = model.graph
    # Whatever follows from weights alone, such as widened scales, is there once.
    fixed = {tensor.name for tensor in body.initializer}
    inputs, outputs, nodes = [*body.input], [*body.output], [*body.node]
    once = []
    for node in nodes:
        if all(not name or name in fixed for name in node.input):
            fixed |= set(node.output)
            once.append(node)
    repeated = [node for node in nodes if not fixed & set(node.output)]
    shared = fixed | {value.name for value in inputs if not value.name.startswith(CACHE)}
    shared.remove(STATE)
    taken = fixed | {value.name for value in inputs}
    for field in (body.node, body.input, body.output):
        del field[:]
    body.node.extend(once)
    body.input.extend(value for value in inputs if not value.name.startswith(CACHE))
    for step in range(steps):

        def renamed(name: str, step: int = step) -> str:
            if not name or name in shared:
                return name
            if name == STATE:
                return STATE if step == 0 else numbered(NEXT_STATE, step - 1)
            return numbered(name, step)

        for value in inputs:
            if value.name.startswith(CACHE):
                body.input.append(_named(value, renamed(value.name)))
        for value in outputs:
            name = renamed(value.name)
            if name in taken:
                raise GraphError(f"{name} is the name of an output, and of a value of the graph")
            body.output.append(_named(value, name))
        for node in repeated:
            copy = body.node.add()
            copy.CopyFrom(node)
            copy.name = numbered(node.name, step) if node.name else ""
            copy.input[:] = [renamed(name) for name in node.input]
            copy.output[:] = [renamed(name) for name in node.output]
    changed: bytes = model.SerializeToString(deterministic=True)
    return changed


def numbered(name: str, step: int) -> str:
    """Return the name that a value of the core has in the unrolled graph at a step."""
    prefix = next((each for each in CACHE if name.startswith(each)), None)
    if prefix is not None:
        return f"{prefix}{step}.{name.removeprefix(prefix)}"
    return f"{name}.{step}"


def _named(value: Any, name: str) -> Any:
    copy = type(value)()
    copy.CopyFrom(value)
    copy.name = name
    return copy
