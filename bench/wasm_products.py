"""One product of a row and a matrix in onnxruntime-web's WebAssembly, by the ways a weight is kept.

    .venv/bin/python bench/wasm_products.py [--size 1024]

Milliseconds in Node, one thread: medians of three rounds in turn.
"""

import json
import statistics
import subprocess
import tempfile
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

JS = Path(__file__).parents[1] / "js"
SCRIPT = """
import * as ort from "onnxruntime-web";
ort.env.wasm.numThreads = 1;
const [folder, size, ...names] = process.argv.slice(1);
const times = {};
const x = new ort.Tensor("float32", new Float32Array(Number(size)).fill(0.5), [1, Number(size)]);
const sessions = {};
for (const name of names) {
  sessions[name] = await ort.InferenceSession.create(`${folder}/${name}.onnx`);
}
for (let round = 0; round < 3; round++) {
  for (const name of names) {
    const all = [];
    for (let turn = 0; turn < 80; turn++) {
      const clock = performance.now();
      await sessions[name].run({ x });
      all.push(performance.now() - clock);
    }
    (times[name] ??= []).push(all.sort((a, b) => a - b)[40]);
  }
}
console.log(JSON.stringify(times));
process.exit(0);
"""


def write(
    folder: Path, name: str, size: int, nodes: list[onnx.NodeProto], **weights: object
) -> str:
    """Write a graph that multiplies x, float32 [1, size]; returns its name."""
    tensors = [numpy_helper.from_array(np.asarray(value), key) for key, value in weights.items()]
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, [1, size]) for end in ("x", "y")]
    graph = helper.make_graph(nodes, name, ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(
        helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / f"{name}.onnx"
    )
    return name


@click.command(help=__doc__)
@click.option("--size", default=1024, show_default=True)
def main(size: int) -> None:
    draw = np.random.default_rng(0)
    node = helper.make_node
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        names = [
            write(
                folder,
                "float32",
                size,
                [node("MatMul", ["x", "w"], ["y"])],
                w=draw.normal(size=(size, size)).astype(np.float32),
            ),
            write(
                folder,
                "MatMulInteger",
                size,
                [
                    node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
                    node("MatMulInteger", ["q", "w", "zero"], ["sum"]),
                    node("Cast", ["sum"], ["float"], to=TensorProto.FLOAT),
                    node("Mul", ["scale", "columns"], ["both"]),
                    node("Mul", ["float", "both"], ["y"]),
                ],
                w=draw.integers(-127, 128, (size, size), dtype=np.int8),
                columns=np.full(size, 0.01, np.float32),
            ),
        ]
        for bits in (8, 4):
            attributes = {"K": size, "N": size, "bits": bits, "block_size": 32, "accuracy_level": 4}
            product = node(
                "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", **attributes
            )
            names.append(
                write(
                    folder,
                    f"MatMulNBits-{bits}",
                    size,
                    [product],
                    w=draw.integers(0, 256, (size, size // 32, 4 * bits), dtype=np.uint8),
                    s=np.full((size, size // 32), 0.01, np.float32),
                )
            )
        command = ["node", "--input-type=module", "-e", SCRIPT, place, str(size), *names]
        said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=JS).stdout
    print(f"| weights, {size} x {size} | ms | of float32 |")
    print("|---|---|---|")
    times = {name: statistics.median(each) for name, each in json.loads(said).items()}
    for name, value in times.items():
        print(f"| {name} | {value:.3f} | {value / times['float32']:.1f}x |")


if __name__ == "__main__":
    main()
