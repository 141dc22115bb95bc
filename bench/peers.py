"""A core step against llama.cpp: the same layer sizes, random 4-bit weights, one run, in turn.

    .venv/bin/pip install -e '.[cpu,bench]'
    .venv/bin/python bench/peers.py

llama.cpp has no looped models of Huginn's kind, so it gets a plain Llama of four layers of width
5280 in Q4_0 with next to no vocabulary; rdlite gets Huginn's core, which has an adapter more.
"ms per GB" compares them: time over the bytes of the weights that a step reads, 4.5 bits a weight
for both (what rdlite holds as float32 scales in memory makes its own bytes 5).
"""

import ctypes
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import gguf
import llama_cpp
import numpy as np
from core_step import timed
from random_huginn import SHAPE, write_random_bundle
from report import finish, spread

from rdlite import Cache
from rdlite.bandwidth import read_bandwidth
from rdlite.bundle import open_bundle
from rdlite.engine import Engine, Sequence

LAYERS, VOCABULARY, ROUNDS = 4, 288, 9
SIZES = (1, 2, 4, 8)


def write_llama(path: Path) -> int:
    """Write a random Q4_0 Llama of Huginn's layer sizes; returns the matrices' weights."""
    width, heads, inner, _, context, _ = SHAPE
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_tokenizer_model("none")
    rng, weights = np.random.default_rng(0), 0

    def matrix(name: str, rows: int, columns: int) -> None:
        blocks = np.empty((rows, columns // 32, 18), np.uint8)
        blocks[..., :2] = np.full((1,), 0.002, np.float16).view(np.uint8)
        blocks[..., 2:] = rng.integers(0, 256, (1, 1, 16), np.uint8)
        kind = gguf.GGMLQuantizationType.Q4_0
        writer.add_tensor(name, blocks.reshape(rows, -1), raw_dtype=kind)

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(width, np.float32))

    matrix("token_embd.weight", VOCABULARY, width)
    matrix("output.weight", VOCABULARY, width)
    norm("output_norm.weight")
    for layer in range(LAYERS):
        for name, rows, columns in (
            ("attn_q", width, width),
            ("attn_k", width, width),
            ("attn_v", width, width),
            ("attn_output", width, width),
            ("ffn_gate", inner, width),
            ("ffn_up", inner, width),
            ("ffn_down", width, inner),
        ):
            matrix(f"blk.{layer}.{name}.weight", rows, columns)
            weights += rows * columns
        norm(f"blk.{layer}.attn_norm.weight")
        norm(f"blk.{layer}.ffn_norm.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights + VOCABULARY * width


class Llama:
    """A loaded GGUF that decodes rows of tokens over a context."""

    def __init__(self, path: Path, threads: int) -> None:
        self._log = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        self._model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = 512, 64, 64
        options.n_threads = options.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        if not self._context:
            raise click.ClickException("llama.cpp cannot load the model")

    def step(self, size: int) -> None:
        """Decode `size` tokens that follow what is in the cache, and forget them."""
        tokens = (llama_cpp.llama_token * size)(*[1] * size)
        if llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(tokens, size)):
            raise click.ClickException("llama.cpp failed")

    def reset(self) -> None:
        """Empty the cache."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 256))
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(threads: int, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = {"llama.cpp Q4_0": write_llama(folder / "llama.gguf")}
        bundle = open_bundle(write_random_bundle(folder / "core", 4, (0, 4, 0), 262))
        weights["rdlite int4"] = bundle.manifest.parameters["core"]
        llama = Llama(folder / "llama.gguf", threads)
        sequence = Sequence(Engine(bundle, Cache(1), threads), 4096)
        times: dict[tuple[str, int], list[float]] = {}
        rates = []
        for turn in range(ROUNDS + 1):
            rates.append(read_bandwidth(threads, repeats=1))
            for size in SIZES:
                lane = sequence.begin([1] * size, 1)
                llama.reset()
                llama.step(size)
                for peer, step in (
                    ("rdlite int4", lambda lane=lane: lane.step(0)),
                    ("llama.cpp Q4_0", lambda size=size: llama.step(size)),
                ):
                    time.sleep(0.02)  # threads that spin after a call have ended
                    found = [timed(step) for _ in range(2)]
                    if turn:
                        times.setdefault((peer, size), []).extend(found)
    rows: list[dict[str, Any]] = []
    for (peer, size), found in times.items():
        size_bytes = weights[peer] * 4.5 / 8
        middle = statistics.median(found)
        rows.append(
            {
                "runtime": peer,
                "positions": size,
                "ms": spread([1e3 * t for t in found], 1),
                "GB": round(size_bytes / 1e9, 3),
                "ms per GB": round(1e3 * middle / (size_bytes / 1e9), 1),
                "read bandwidth GB/s": round(statistics.median(rates) / 1e9, 1),
            }
        )
    finish("peers", rows, out)


if __name__ == "__main__":
    main()
