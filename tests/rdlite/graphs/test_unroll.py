"""An unrolled core takes the very steps that single calls take."""

import numpy as np
import onnx
import pytest

from rdlite import Cache, InputError
from rdlite.engine.engine import Engine
from rdlite.engine.sequence import Sequence
from rdlite.errors import GraphError
from rdlite.graphs.int8_kv import with_int8_cache
from rdlite.graphs.unroll import numbered, unrolled_core
from rdlite.loader import open_bundle
from rdlite.ort.session import Session

STEPS = 4


@pytest.mark.parametrize("bits", [None, 8])
def test_several_steps_in_a_call_are_those_steps(bits):
    bundle = open_bundle("nano")
    sequence = Sequence(Engine(bundle, Cache(bits=bits), 1), 64)
    runner = sequence.begin([5, 6, 7], STEPS)
    runner.fill_state(
        lambda rows: np.copyto(rows, np.linspace(-1, 1, rows.size).reshape(rows.shape))
    )
    start = runner.states[0].copy()
    inputs, outputs, wanted = {}, {}, {}
    for step in range(STEPS):
        takes, _ = runner.core_arrays(step)
        runner.step(step)
        for name, array in {
            "next_state": runner.states[(step + 1) % 2],
            "change": runner.change,
        }.items():
            wanted[numbered(name, step)] = array.copy()
            outputs[numbered(name, step)] = np.zeros_like(array)
        for name, array in takes.items():
            if name.startswith("past_key_values."):
                other = np.zeros_like(array)
                inputs[numbered(name, step)] = other
                present = name.replace("past_key_values", "present")
                outputs[numbered(present, step)] = other
                wanted[numbered(present, step)] = array
            elif name.startswith("cache_scale."):
                inputs[numbered(name, step)] = np.ascontiguousarray(array)
            elif name != "state":
                inputs[name] = array
    graph = bundle.graphs["core"] if bits is None else with_int8_cache(bundle.graphs["core"])
    with bundle.data_folder("core") as folder:
        session = Session("core", unrolled_core(graph, STEPS), folder, 1)
    session.bind({"state": start, **inputs}, outputs)()
    for name, array in wanted.items():
        ours = outputs[name]
        if name.startswith("present"):
            ours, array = ours[..., :3, :], array[..., :3, :]
        assert (ours == array).all(), name


def test_weights_are_there_once():
    graph = open_bundle("nano").graphs["core"]
    one, many = (onnx.ModelProto.FromString(g).graph for g in (graph, unrolled_core(graph, 8)))
    assert len(many.initializer) == len(one.initializer)
    casts = [sum(node.op_type == "Cast" for node in each.node) for each in (one, many)]
    assert casts[0] == casts[1] > 0


@pytest.mark.parametrize("steps", [0, 65])
def test_steps_have_bounds(steps):
    with pytest.raises(InputError, match=f"steps must lie between 1 and 64, got {steps}"):
        unrolled_core(open_bundle("nano").graphs["core"], steps)


def test_a_name_that_is_taken_is_refused():
    model = onnx.ModelProto.FromString(open_bundle("nano").graphs["core"])
    model.graph.initializer[0].name = "change.1"
    with pytest.raises(GraphError, match=r"change\.1 is the name of an output"):
        unrolled_core(model.SerializeToString(), 2)
