"""llama.cpp beside us: dense Llama models with random Q4_0 weights, of the sizes that we want."""

import ctypes
from pathlib import Path

import click
import gguf
import llama_cpp
import numpy as np
from tokenizers import pre_tokenizers


def write_llama(
    path: Path,
    width: int,
    heads: int,
    inner: int,
    layers: int,
    vocabulary: int,
    text: bool = False,
) -> int:
    """Write a random Q4_0 Llama; returns how many weights a token's products read.

    With `text` it has a tokenizer, of bytes; its vocabulary is then 258 at least.
    """
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    if text:
        _add_tokenizer(writer, vocabulary)
    else:
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

    matrix("token_embd.weight", vocabulary, width)
    matrix("output.weight", vocabulary, width)
    norm("output_norm.weight")
    for layer in range(layers):
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
    return weights + vocabulary * width


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: int) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, "th", "<end>"]
    tokens += [f"<unused {number}>" for number in range(vocabulary - len(tokens))]
    kinds = [gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL] * (vocabulary - 257)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(257)
    writer.add_add_bos_token(False)


class Llama:
    """A loaded GGUF that decodes rows of tokens over a context."""

    def __init__(self, path: Path, threads: int, context: int = 512, batch: int = 64) -> None:
        self._log = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        self._model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = context, batch, batch
        options.n_threads = options.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        if not self._context:
            raise click.ClickException("llama.cpp cannot load the model")

    def step(self, size: int) -> None:
        """Decode `size` tokens that follow what is in the cache."""
        tokens = (llama_cpp.llama_token * size)(*[1] * size)
        if llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(tokens, size)):
            raise click.ClickException("llama.cpp failed")

    def keep(self, positions: int) -> None:
        """Forget all but the first positions of the cache."""
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_seq_rm(memory, 0, positions, -1)

    def reset(self) -> None:
        """Empty the cache."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
