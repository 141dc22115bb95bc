"""llama.cpp, exact: float32 caches, and no flash attention, which rounds."""

import ctypes

import numpy as np
import pytest

llama_cpp = pytest.importorskip("llama_cpp")


@llama_cpp.llama_log_callback
def _silent(level, text, data):
    pass


class Llama:
    """A GGUF file as llama.cpp runs it."""

    def __init__(self, path, context=64, vocab_only=False):
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        options = llama_cpp.llama_model_default_params()
        options.vocab_only = vocab_only
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        assert self._model, f"llama.cpp refuses {path}"
        self._words = llama_cpp.llama_model_get_vocab(self._model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(self._words)
        if vocab_only:
            return
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = context
        options.n_threads = options.n_threads_batch = 1
        options.flash_attn_type = options.type_k = options.type_v = 0
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        assert self._context

    def logits(self, ids, sizes=None):
        """Float32 [S, V], the text read in pieces of so many tokens, or at once."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        rows, start = [], 0
        for size in sizes or [len(ids)]:
            batch = llama_cpp.llama_batch_init(size, 0, 1)
            batch.n_tokens = size
            for i in range(size):
                batch.token[i], batch.pos[i] = ids[start + i], start + i
                batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
            assert llama_cpp.llama_decode(self._context, batch) == 0
            found = llama_cpp.llama_get_logits(self._context)
            rows.append(np.ctypeslib.as_array(found, (size, self.vocab_size)).copy())
            llama_cpp.llama_batch_free(batch)
            start += size
        return np.concatenate(rows)

    def greedy(self, ids, count):
        """The likeliest continuation."""
        ids = list(ids)
        for _ in range(count):
            ids.append(int(self.logits(ids)[-1].argmax()))
        return ids[-count:]

    def encode(self, text):
        """Token ids of a text, special tokens in it as such, none added."""
        data = text.encode()
        room = (ctypes.c_int32 * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self._words, data, len(data), room, len(room), False, True)
        assert count >= 0
        return list(room[:count])


def quantize(source, out, kind):
    """Write a GGUF file with llama.cpp's quantizer; `kind` like "MOSTLY_Q4_K_M"."""
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{kind}")
    options.nthread = 1
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), options)
    assert code == 0
    return out
