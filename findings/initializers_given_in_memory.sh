#!/usr/bin/env bash
# onnxruntime 1.32.0: a weight given from memory with add_initializer is used in place, but not behind a
# Cast: there the session takes, without a word, what the graph's external data file holds.
#
# One would guess: where SessionOptions is given an OrtValue of a weight's name, that is the weight,
# whatever kernel or optimizer comes to it, and the file that the graph names for it is never looked at.
# Seen, with a file of zeros and an array of ones that is set to twos once the session is made:
# add_initializer gives 2 (in place) where the Add takes the weight itself, and 0 (the file) where a Cast
# stands between, as constant folding reads the file; add_external_initializers gives 1 both times: it
# is heeded everywhere, and it makes a copy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip -q install onnxruntime==1.32.0 onnx==1.22.0 numpy
cd "$folder"
ORT_DISABLE_TELEMETRY=1 "$folder/venv/bin/python" - <<'PY'
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper as h

ROWS = 64


def model(cast):
    """y = x + w, w being external data in a file of zeros, float32 or cast to it."""
    kind = T.FLOAT16 if cast else T.FLOAT
    weight = T(name="w", data_type=kind, dims=[ROWS], data_location=T.EXTERNAL)
    size = ROWS * (2 if cast else 4)
    for key, value in (("location", "zeros.bin"), ("offset", "0"), ("length", str(size))):
        weight.external_data.add(key=key, value=value)
    nodes = [h.make_node("Cast", ["w"], ["v"], to=T.FLOAT)] if cast else []
    nodes.append(h.make_node("Add", ["x", "v" if cast else "w"], ["y"]))
    ends = [[h.make_tensor_value_info(n, T.FLOAT, [ROWS])] for n in "xy"]
    graph = h.make_graph(nodes, "g", *ends, initializer=[weight])
    made = h.make_model(graph, opset_imports=[h.make_opsetid("", 21)], ir_version=10)
    return made.SerializeToString()


def session(cast, way, array):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    value = ort.OrtValue.ortvalue_from_numpy(array)
    if way == "add_initializer":
        options.add_initializer("w", value)
    else:
        options.add_external_initializers(["w"], [value])
    made = ort.InferenceSession(model(cast), options, providers=["CPUExecutionProvider"])
    return made, value


def outcome(cast, way):
    array = np.ones(ROWS, np.float16 if cast else np.float32)
    made, value = session(cast, way, array)
    array[:] = 2  # the OrtValue is still alive, and with it the array
    result = made.run(None, {"x": np.zeros(ROWS, np.float32)})[0]
    return {0.0: "the file", 1.0: "a copy of the array", 2.0: "the array"}[float(result[0])]


Path("zeros.bin").write_bytes(bytes(4 * ROWS))
seen = {(way, cast): outcome(cast, way)
        for way in ("add_initializer", "add_external_initializers") for cast in (False, True)}
for (way, cast), said in seen.items():
    print(f"{way:26} {'behind a Cast' if cast else 'taken itself':14} {said}")
expected = ["the array", "the file", "a copy of the array", "a copy of the array"]
sys.exit(list(seen.values()) != expected)
PY
