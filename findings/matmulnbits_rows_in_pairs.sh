#!/usr/bin/env bash
# onnxruntime 1.32.0 (CPU, x86 with AVX-512 VNNI): whether a row of MatMulNBits has the bits that it has
# alone depends on the block size.
#
# One would guess: the product of a row does not depend on how many rows the call has, or it does for all
# block sizes alike. Seen, 4 bits, accuracy_level 4: with blocks of 32, rows of 2, 4 and 8 are equal to
# single calls to the last bit; with blocks of 64, 128 and 256 they are not. But rows of calls of 2, 4, 8
# and 16 are equal to each other there: to that row in a call of two, beside a row of zeros. So
# verification and batching can be exact with wide blocks too, if every call has an even number of rows.
# On another kind of processor the kernels are others; there the script says so and ends with 2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
grep -q avx512_vnni /proc/cpuinfo 2>/dev/null || { echo "this needs AVX-512 VNNI"; exit 2; }
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip -q install onnxruntime==1.32.0 onnx==1.22.0 numpy
ORT_DISABLE_TELEMETRY=1 "$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

N, K = 512, 1024
rng = np.random.default_rng(0)
found, even = {}, {}
for block in (32, 64, 128, 256):
    packed = rng.integers(0, 256, (N, K // block, block // 2), np.uint8)
    scales = rng.uniform(0.001, 0.003, (N, K // block)).astype(np.float32)
    node = h.make_node("MatMulNBits", ["a", "b", "s"], ["y"], domain="com.microsoft",
                       K=K, N=N, bits=4, block_size=block, accuracy_level=4)
    graph = h.make_graph(
        [node], "g", [h.make_tensor_value_info("a", T.FLOAT, ["M", K])],
        [h.make_tensor_value_info("y", T.FLOAT, ["M", N])],
        [numpy_helper.from_array(packed, "b"), numpy_helper.from_array(scales, "s")])
    model = h.make_model(graph, ir_version=10, opset_imports=[
        h.make_opsetid("", 21), h.make_opsetid("com.microsoft", 1)])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = rng.standard_normal((16, K)).astype(np.float32)
    alone = np.concatenate([session.run(None, {"a": rows[i:i+1]})[0] for i in range(16)])
    zero = np.zeros((1, K), np.float32)
    pairs = np.concatenate([session.run(None, {"a": np.concatenate([rows[i:i+1], zero])})[0][:1] for i in range(16)])
    even[block] = all((session.run(None, {"a": rows[:m]})[0] == pairs[:m]).all() for m in (2, 4, 8, 16))
    found[block] = [bool((session.run(None, {"a": rows[:m]})[0] == alone[:m]).all()) for m in (2, 4, 8)]
print("onnxruntime", ort.__version__, "2, 4, 8 rows equal to single ones, by block:", found)
print("2, 4, 8, 16 rows equal to rows beside zeros, by block:", even)
sys.exit(not (all(found[32]) and not any(any(found[b]) for b in (64, 128, 256)) and all(even.values())))
PY
echo "as described"
