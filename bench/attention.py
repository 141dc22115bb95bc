"""onnxruntime's attention alone: one new position behind 64, 1,000 and 4,000 of a cache.

    .venv/bin/python bench/attention.py

One GroupQueryAttention node with Huginn's 55 heads of 96 numbers, with a cache of float32 and of
int8, and of float32 without its flash path. They take turns; milliseconds, medians.
"""

import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from core_step import timed
from onnx import TensorProto, helper
from report import finish, spread

from rdlite.ort.session import Session

HEADS, SIZE, CAPACITY, CONTEXTS, TURNS = 55, 96, 4096, (64, 1000, 4000), 15
NO_FLASH = "ORT_GQA_DISABLE_FLASH_ATTENTION"  # read when a session is made


def graph(int8: bool) -> bytes:
    """Return a model of one attention node."""
    kind = TensorProto.INT8 if int8 else TensorProto.FLOAT
    cache, width = [1, HEADS, CAPACITY, SIZE], HEADS * SIZE
    value = helper.make_tensor_value_info
    inputs = [
        value("qkv", TensorProto.FLOAT, [1, 1, 3 * width]),
        value("past.key", kind, cache),
        value("past.value", kind, cache),
        value("seqlens_k", TensorProto.INT32, [1]),
        value("total_sequence_length", TensorProto.INT32, []),
    ]
    names = ["qkv", "", "", *(each.name for each in inputs[1:])]
    settings: dict[str, Any] = {"num_heads": HEADS, "kv_num_heads": HEADS, "scale": SIZE**-0.5}
    if int8:
        scales = [value(f"scale.{part}", TensorProto.FLOAT, [1, HEADS, 1, SIZE]) for part in "kv"]
        inputs += scales
        names += ["", "", "", "", "", *(each.name for each in scales)]
        settings |= {"kv_cache_bit_width": 8}
        settings |= dict.fromkeys(("k_quant_type", "v_quant_type"), "PER_CHANNEL")
    outputs = [value("attended", TensorProto.FLOAT, [1, 1, width])]
    outputs += [value(f"present.{part}", kind, cache) for part in ("key", "value")]
    node = helper.make_node(
        "GroupQueryAttention",
        names,
        [each.name for each in outputs],
        domain="com.microsoft",
        **settings,
    )
    body = helper.make_graph([node], "attention", inputs, outputs)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    made: bytes = helper.make_model(body, ir_version=10, opset_imports=opsets).SerializeToString()
    return made


def attention(context: int, threads: int, int8: bool = False) -> Callable[[], None]:
    """Return a call of one position behind so many."""
    rng = np.random.default_rng(0)
    caches = rng.normal(0, 30 if int8 else 1, (2, 1, HEADS, CAPACITY, SIZE))
    keys, values = caches.astype(np.int8 if int8 else np.float32)
    inputs: dict[str, Any] = {
        "qkv": rng.standard_normal((1, 1, 3 * HEADS * SIZE)).astype(np.float32),
        "past.key": keys,
        "past.value": values,
        "seqlens_k": np.full(1, context, np.int32),
        "total_sequence_length": np.array(context + 1, np.int32),
    }
    if int8:
        scale = np.full((1, HEADS, 1, SIZE), 0.03, np.float32)
        inputs |= {"scale.k": scale, "scale.v": scale}
    outputs = {"attended": np.zeros((1, 1, HEADS * SIZE), np.float32)}
    outputs |= {"present.key": keys, "present.value": values}
    return Session("attention", graph(int8), Path.cwd(), threads).bind(inputs, outputs)


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 256))
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(threads: int, out: Path | None) -> None:
    rows = []
    for context in CONTEXTS:
        calls = {
            "float32": attention(context, threads),
            "int8": attention(context, threads, int8=True),
        }
        os.environ[NO_FLASH] = "1"
        calls["float32, without flash"] = attention(context, threads)
        del os.environ[NO_FLASH]
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(TURNS + 2):
            for name, call in calls.items():
                times[name].append(1e3 * timed(call))
        read = 2 * HEADS * SIZE * 4 * context / 1e6
        rows.append(
            {"positions before": context}
            | {name: spread(took[2:], 2) for name, took in times.items()}
            | {"float32, GB/s": f"{read / statistics.median(times['float32'][2:]):.1f}"}
        )
    finish("attention", rows, out)


if __name__ == "__main__":
    main()
