"""Gathers what goes into each matrix product while the loop runs, over all of its steps.

A looped model applies the same weights to states that are random at first and settled later, and to
what its own errors make of them. So the second moments are taken over every step, from random
starts on, and with the quantized core in the loop where there is one already.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import onnx

from rdlite.bundle.manifest import PARTS
from rdlite.bundle.reader import Bundle
from rdlite.config.cache import Cache
from rdlite.engine.engine import Engine
from rdlite.engine.sequence import Sequence as EngineSequence
from rdlite.ort.initial_state import start_at
from rdlite.ort.runner import Runner
from rdlite.ort.session import Array, Run
from rdlite.utils.progress import Progress, meter

Floats = npt.NDArray[np.float32]
PRODUCTS = ("FusedMatMul", "MatMulNBits")


def second_moments(
    bundle: Bundle,
    texts: Sequence[Sequence[int]],
    steps: int,
    names: Iterable[str],
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Floats]:
    """Run texts through a model and sum the outer products of what its matrices are applied to.

    Args:
        bundle: the model, quantized or not.
        texts: token ids, each read at once and from its start.
        steps: core steps; every one counts.
        names: of the weights [N, K] that are looked at.
        seed: selects random initial states.
        threads: for onnxruntime; the result does not depend on it.
        progress: called with (texts done, texts in all).

    Returns:
        float32 [K, K] for each weight, the mean over all positions (and steps, in the core); not
        finite where the model's numbers are not.
    """
    graphs, taps = {}, {}
    for part in PARTS:
        graphs[part], taps[part] = _tapped(bundle.graphs[part], set(names))
    tapped = dataclasses.replace(bundle, graphs=graphs)
    engine = Engine(tapped, Cache(), threads)
    sums = {
        name: np.zeros((size, size), np.float32)
        for found in taps.values()
        for name, size in found.items()
    }
    start = start_at(bundle.config, "random", seed)
    advance = meter(len(texts), progress)
    for ids in texts:
        sequence = EngineSequence(engine, bundle.config.context_length)
        runner = sequence.begin(list(ids), steps)
        start(runner, 0)
        with np.errstate(over="ignore", invalid="ignore"):  # it shows in the sums
            _run(engine, runner, taps, sums, steps)
        advance(1)
    counts = {"prelude": 1, "core": steps, "coda": 1}
    positions = sum(map(len, texts))
    for part, found in taps.items():
        for name in found:
            sums[name] /= np.float32(counts[part] * positions)
    return sums


def _tapped(graph: bytes, names: set[str]) -> tuple[bytes, dict[str, int]]:
    """Add outputs `tap.NAME` for the inputs of products; returns those weights and their widths."""
    model = onnx.ModelProto.FromString(graph)
    widths = {}
    for node in [*model.graph.node]:
        if node.op_type not in PRODUCTS:
            continue
        name = node.input[1].removesuffix(".packed")
        if name not in names or name in widths:
            continue
        shape = next(
            tensor.dims for tensor in model.graph.initializer if tensor.name == node.input[1]
        )
        packed = {a.name: a.i for a in node.attribute}
        widths[name] = packed.get("K", shape[-1])
        tap = onnx.helper.make_node("Identity", [node.input[0]], [f"tap.{name}"])
        model.graph.node.append(tap)
        value = onnx.helper.make_tensor_value_info(
            f"tap.{name}", onnx.TensorProto.FLOAT, ["B", "S", widths[name]]
        )
        model.graph.output.append(value)
    return model.SerializeToString(), widths


def _run(
    engine: Engine,
    runner: Runner,
    taps: dict[str, dict[str, int]],
    sums: dict[str, Floats],
    steps: int,
) -> None:
    """Read the runner's positions once more, part by part, adding up what the taps give."""
    rows = {
        name: np.zeros((1, runner.size, width), np.float32)
        for found in taps.values()
        for name, width in found.items()
    }

    def tapped(part: str, inputs: dict[str, Array], outputs: dict[str, Array]) -> None:
        more = {f"tap.{name}": rows[name] for name in taps[part]}
        run: Run = engine.sessions[part].bind(inputs, {**outputs, **more})
        run()
        for name in taps[part]:
            x = rows[name][0]
            sums[name] += x.T @ x

    tapped("prelude", *runner.prelude_arrays())
    for step in range(steps):
        tapped("core", *runner.core_arrays(step))
    tapped("coda", *runner.coda_arrays(steps, runner.size))
