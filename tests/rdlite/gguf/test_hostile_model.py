"""GGUF files from strangers: keys and tensors that make no model."""

import numpy as np
import pytest
from gguf_file import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I32,
    I64,
    INFINITE,
    NAN,
    STRING,
    U8,
    U32,
    U64,
    File,
    array,
    at,
    put,
    refuse,
)
from rdlite.export.from_gguf import import_gguf

from rdlite import BundleError

pytestmark = pytest.mark.filterwarnings("ignore::rdlite.errors.RoundingWarning")

NEEDED = """general.architecture huginn.context_length huginn.embedding_length
    huginn.feed_forward_length huginn.block_count huginn.attention.head_count
    huginn.prelude_block_count huginn.coda_block_count huginn.embedding_scale huginn.state_init
    huginn.state_init_std huginn.attention.layer_norm_rms_epsilon huginn.rope.freq_base""".split()
WHOLE_NUMBERS = """context_length embedding_length feed_forward_length block_count
    attention.head_count attention.head_count_kv attention.key_length attention.value_length
    rope.dimension_count prelude_block_count recurrent_block_count coda_block_count
    mean_recurrence vocab_size max_recurrence""".split()
NUMBERS = """embedding_scale state_init_std attention.layer_norm_rms_epsilon rope.freq_base
    exit_threshold""".split()
TRUTHS = "rope.interleaved attention.qk_bias skip_loop_final_norm".split()


@pytest.mark.parametrize("key", NEEDED)
def test_a_key_that_is_needed_is_missing(small, path, key):
    file = File(small["f32"])
    file.drop(key)
    refuse(path, rf"the key '{key}' is missing", file.join())


def test_the_number_of_loops_is_needed(small, path):
    file = File(small["f32"])
    file.drop("huginn.mean_recurrence", "huginn.num_loops")
    refuse(path, r"the key 'huginn\.num_loops' is missing", file.join())
    file.set("huginn.num_loops", F32, 2.0)
    refuse(path, r"'huginn\.num_loops' must be a whole number", file.join())
    file.set("huginn.num_loops", ARRAY, array(U32, [2]))
    refuse(path, r"'huginn\.num_loops' is an array, expected a whole number", file.join())


@pytest.mark.parametrize(
    ("key", "kinds"),
    [(f"huginn.{key}", (F32, BOOL, STRING, ARRAY)) for key in WHOLE_NUMBERS]
    + [(f"huginn.{key}", (BOOL, STRING, ARRAY)) for key in NUMBERS]
    + [(f"huginn.{key}", (U8, F32, STRING, ARRAY)) for key in TRUTHS]
    + [
        (key, (U8, F32, BOOL, ARRAY))
        for key in """general.architecture general.name huginn.state_init huginn.rope.scaling.type
            tokenizer.huggingface.json tokenizer.chat_template rdlite.generation_config
            rdlite.special_tokens rdlite.exit""".split()
    ],
)
def test_a_key_of_another_type_is_refused(small, path, key, kinds):
    values = {U8: 1, F32: 1.0, BOOL: 1, STRING: "1", ARRAY: array(U32, [1])}
    for kind in kinds:
        file = File(small["f32"])
        file.set(key, kind, values[kind])
        refuse(path, rf"'{key}' (must be|is an array, expected)", file.join())
    if STRING in kinds:
        file.set(key, STRING, "1" * 1025)
        refuse(path, rf"'{key}' is a text of 1025 bytes, expected", file.join())


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("kind", [F32, F64])
def test_numbers_that_are_none_or_huge(small, path, key, kind):
    for number in (NAN, INFINITE, -INFINITE):
        file = File(small["f32"])
        file.set(f"huginn.{key}", kind, number)
        refuse(path, rf"'huginn\.{key}' is -?(nan|inf), which is no finite number", file.join())
    huge = 3.4e38 if kind == F32 else 1.7e308
    for number in (huge, -huge, -1.0):
        file.set(f"huginn.{key}", kind, number)
        refuse(path, "the keys of 'huginn': config: .* must lie between", file.join())


CONFIGS = {
    "unknown architecture": (
        put("general.architecture", STRING, "llama"),
        r"'general\.architecture' is 'llama'; rdlite runs the looped architectures huginn",
    ),
    "endless architecture": (
        put("general.architecture", STRING, "x" * 10**6),
        r"'general\.architecture' is a text of 1000000 bytes, expected a text of at most 1024",
    ),
    "architecture with escapes": (put("general.architecture", STRING, "\x1b[2J\n"), r"'\\x1b\[2J"),
    "blocks do not add up": (
        put("huginn.block_count", U32, 4),
        r"'huginn\.block_count' is 4, but prelude, recurrent and coda blocks are 1, 1 and 1",
    ),
    "blocks below 0": (put("huginn.prelude_block_count", I32, -1), r"'huginn\.block_count' is 3"),
    "blocks 2^64-1": (put("huginn.block_count", U64, 2**64 - 1), r"'huginn\.block_count' is 1844"),
    "no core": (put("huginn.recurrent_block_count", U32, 0), "'huginn.block_count' is 3, but"),
    "heads 0": (put("huginn.attention.head_count", U32, 0), "num_attention_heads must lie"),
    "heads -1": (put("huginn.attention.head_count", I32, -1), "num_attention_heads must lie"),
    "shared heads 0": (put("huginn.attention.head_count_kv", U32, 0), "num_key_value_heads must"),
    "shared heads 3": (put("huginn.attention.head_count_kv", U32, 3), "must be a multiple of"),
    "head size 24": (
        lambda file: [
            file.set(f"huginn.{key}", U32, 24)
            for key in ("attention.key_length", "attention.value_length", "rope.dimension_count")
        ],
        "head_dim must be a multiple of 16",
    ),
    "part of a head rotates": (
        put("huginn.rope.dimension_count", U32, 8),
        r"'huginn\.rope\.dimension_count' is 8, the heads have 16",
    ),
    "values of another size": (
        put("huginn.attention.value_length", U32, 32),
        r"'huginn\.attention\.value_length' is 32, the heads have 16",
    ),
    "the last norm is skipped": (
        put("huginn.skip_loop_final_norm", BOOL, 1),
        r"'huginn\.skip_loop_final_norm' is true, which is not run",
    ),
    "vocabulary 0": (put("huginn.vocab_size", U32, 0), "vocab_size must lie between"),
    "vocabulary 2^62": (put("huginn.vocab_size", U64, 2**62), "vocab_size must lie between"),
    "vocabulary of another size": (
        put("huginn.vocab_size", U32, 289),
        r"the tensor 'token_embd\.weight' at offset \d+ has the shape \[288, 32\]",
    ),
    "context 0": (put("huginn.context_length", U32, 0), "context_length must lie between"),
    "context 2^63": (put("huginn.context_length", U64, 2**63), "context_length must lie between"),
    "context -1": (put("huginn.context_length", I64, -1), "context_length must lie between"),
    "width 64": (put("huginn.embedding_length", U32, 64), "has the shape"),
    "width 2^40": (put("huginn.embedding_length", U64, 2**40), "hidden_size must lie between"),
    "inner width 0": (put("huginn.feed_forward_length", U32, 0), "intermediate_size must lie"),
    "loops 0": (put("huginn.mean_recurrence", U32, 0), "mean_steps must lie between"),
    "loops 2^32-1": (put("huginn.mean_recurrence", U32, 2**32 - 1), "mean_steps must lie between"),
    "most loops -7": (put("huginn.max_recurrence", I32, -7), "max_steps must lie between"),
    "threshold 2": (put("huginn.exit_threshold", F32, 2.0), "exit_threshold must lie between"),
    "a gate without weights": (
        put("huginn.exit_threshold", F32, 0.5),
        "its graphs: core.onnx .*exit_probability",
    ),
    "start": (put("huginn.state_init", STRING, "ones"), "initial_state must be one of"),
    "scaling unknown": (
        put("huginn.rope.scaling.type", STRING, "yarn"),
        r"'huginn\.rope\.scaling\.type' is 'yarn', known are none and llama3",
    ),
    "scaling without a factor": (
        put("huginn.rope.scaling.type", STRING, "llama3"),
        r"'huginn\.rope\.scaling\.factor' is missing",
    ),
    "tensor missing": (lambda file: file.tensors.pop(), "the tensor '.*' is missing"),
    "tensor renamed": (at(0, name=b"x"), "the tensor '.*' is missing"),
    "tensor added": (
        lambda file: file.tensors.append([b"x", [32], 0, len(file.data) - 128]),
        "lies over|holds 1 tensors that its architecture",
    ),
    "tensor added behind": (
        lambda file: (
            file.tensors.append([b"lora.weight", [8], 0, -(-len(file.data) // 32) * 32]),
            file.data.extend(bytes(64)),
        ),
        "holds 1 tensors that its architecture and sizes do not account for, the first 'lora",
    ),
    "matrix turned": (
        lambda file: file.tensor("adapter.weight")[1].reverse(),
        r"'adapter\.weight' at offset \d+ has the shape \[64, 32\], its sizes call for \[32, 64\]",
    ),
    "matrix flat": (
        lambda file: file.tensor("adapter.weight").__setitem__(1, [32 * 64]),
        r"'adapter\.weight' at offset \d+ has the shape \[2048\]",
    ),
    "matrix of integers": (
        lambda file: file.tensor("adapter.weight").__setitem__(2, 24),
        r"the tensor 'adapter\.weight' is I8, which is not read",
    ),
    "vector in blocks": (
        lambda file: file.tensor("output_norm.weight").__setitem__(2, 8),
        r"the tensor 'output_norm\.weight' is Q8_0, expected F32",
    ),
}


@pytest.mark.parametrize(("change", "message"), CONFIGS.values(), ids=CONFIGS)
def test_sizes_and_tensors_that_do_not_fit_are_refused(small, path, change, message):
    file = File(small["f32"])
    change(file)
    refuse(path, message, file.join())


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("rdlite.scheme", "'rdlite.scheme' and 'rdlite.accuracy_level': quantization: scheme"),
        ("rdlite.accuracy_level", "quantization: accuracy_level must be one of 1, 4, got 2"),
    ],
)
def test_how_it_is_quantized_is_checked(small, path, key, message):
    file = File(small["q4_0"])
    file.set(key, *((STRING, "\x1b[31m") if key == "rdlite.scheme" else (U32, 2)))
    refuse(path, message, file.join())


@pytest.mark.parametrize("number", [NAN, INFINITE, -INFINITE])
@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("f32", "<f"),
        ("f16", "<e"),
        ("bf16", "bf16"),
        ("q4_1", "<e"),
        ("q4_0", "<e"),
        ("q8_0", "<e"),
    ],
)
def test_weights_that_are_not_finite_are_refused(small, path, tmp_path, kind, form, number):
    place = {"f32": 4, "f16": 2, "bf16": 2}.get(kind, 0)
    for name, weight in (
        ("token_embd.weight", "embedding"),
        ("blk.1.attn_k.weight", "core.0.attn"),
    ):
        file = File(small[kind])
        if form == "bf16":
            half = np.array(number, np.float32).view(np.uint32) >> 16
            file.spoil(name, "<H", int(half), place)
        else:
            file.spoil(name, form, number, place)
        refuse(path, rf"the weight '{weight}.*' holds NaN or infinite", file.join())
        with pytest.raises(BundleError, match="holds NaN or infinite"):
            import_gguf(path, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_norm_and_a_gate_that_are_not_finite_are_refused(small, path):
    file = File(small["f32"])
    file.spoil("output_norm.weight", "<f", NAN, 4 * 31)
    refuse(path, r"the weight 'norm\.weight' holds NaN or infinite values", file.join())
    gate = "ouro.exit_gate.weight"
    width = len(dict(File(small["ouro"]).keys)[gate.encode()]) // 4 - 4
    for kind, contents, message in (
        (F32, [NAN] * width, r"the weight 'core\.gate\.weight' holds NaN or infinite values"),
        (F32, [0.0] * (width + 1), rf"'{gate}' must hold {width} floats"),
        (F32, [], rf"'{gate}' must hold {width} floats"),
        (U32, [0] * width, rf"'{gate}' must hold {width} floats"),
        (STRING, ["0"] * width, rf"'{gate}' must be an array of numbers"),
    ):
        file = File(small["ouro"])
        file.set(gate, ARRAY, array(kind, contents))
        refuse(path, message, file.join())
    file.drop(gate)
    refuse(path, rf"'{gate}' must be an array of numbers", file.join())
