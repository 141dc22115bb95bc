"""GGUF files from strangers: tokenizers and other texts, and the memory that refusing takes."""

import struct
import subprocess
import sys
import textwrap

import pytest
from gguf_file import (
    ARRAY,
    F32,
    I32,
    STRING,
    U8,
    U32,
    U64,
    File,
    array,
    at,
    counts,
    put,
    refuse,
    string,
)

from rdlite.loader import open_bundle

WHOLE, PIECES = "tokenizer.huggingface.json", "tokenizer.ggml."


def pieces(**arrays):
    """Leave a tokenizer in the pieces that other programs write, some of them changed."""

    def change(file):
        file.drop(WHOLE, "rdlite.generation_config", "rdlite.special_tokens")
        file.set(PIECES + "pre", STRING, "gpt-2")
        file.set(PIECES + "merges", ARRAY, array(STRING, []))
        for name, raw in arrays.items():
            if raw is None:
                file.drop(PIECES + name)
            else:
                file.set(PIECES + name, ARRAY if isinstance(raw, bytes) else U32, raw)

    return change


MANY = [f"t{i}" for i in range(288)]
TEXTS = {
    "tokenizer not UTF-8": (put(WHOLE, STRING, string(b"\xff" * 2000)), rf"'{WHOLE}': the text at"),
    "tokenizer no JSON": (put(WHOLE, STRING, "{"), f"'{WHOLE}': tokenizer.json is not valid JSON"),
    "tokenizer nested": (put(WHOLE, STRING, "[" * 10**5), "tokenizer.json is not valid JSON"),
    "tokenizer empty": (put(WHOLE, STRING, ""), f"'{WHOLE}': tokenizer.json is not valid JSON"),
    "tokenizer a list": (put(WHOLE, STRING, "[]"), f"'{WHOLE}': tokenizer.json cannot be used"),
    "tokenizer panics": (
        put(WHOLE, STRING, '{"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}'),
        f"'{WHOLE}': tokenizer.json cannot be used",
    ),
    "tokenizer too large": (
        put(WHOLE, STRING, '{"model":{"vocab":{}},"x":"%s"}' % ("x" * 2**21)),
        rf"'{WHOLE}' has a text of 2097181 bytes, at most 1196032 go",
    ),
    "tokenizer of objects": (
        put(WHOLE, STRING, '{"model":{"vocab":{}},"x":[%s{}]}' % ("{}," * 2**17)),
        "tokenizer.json has .* at most .* 131072 are read for 288 tokens",
    ),
    "tokens too many": (
        pieces(tokens=array(STRING, [*MANY, "x"]), token_type=array(I32, [1] * 289)),
        r"'tokenizer\.ggml\.tokens' has 289 texts, at most 288 are read",
    ),
    "token too long": (
        pieces(tokens=array(STRING, ["x" * 1025, *MANY[1:]])),
        r"'tokenizer\.ggml\.tokens' has a text of 1025 bytes at offset \d+, at most 1024",
    ),
    "tokens all the same": (
        pieces(tokens=array(STRING, ["a"] * 288), merges=array(STRING, ["a b"])),
        r"'tokenizer\.ggml\.tokens': tokenizer\.json cannot be used",
    ),
    "tokens not UTF-8": (
        pieces(tokens=array(STRING, [b"\xff", *MANY[1:]])),
        r"tokenizer\.ggml\.tokens: the text at offset \d+ is not UTF-8",
    ),
    "tokens of numbers": (
        pieces(tokens=array(U32, [0] * 288)),
        r"'tokenizer\.ggml\.tokens' must be an array of texts",
    ),
    "types of another length": (
        pieces(token_type=array(I32, [1] * 287)),
        r"differ in length: tokenizer\.ggml\.tokens 288 and tokenizer\.ggml\.token_type 287",
    ),
    "scores of another length": (
        put(PIECES + "scores", ARRAY, array(F32, [0.0])),
        r"differ in length: .*tokenizer\.ggml\.scores 1",
    ),
    "types of texts": (
        pieces(token_type=array(STRING, MANY)),
        r"'tokenizer\.ggml\.token_type' must be an array of numbers",
    ),
    "no merges": (pieces(merges=None), r"'tokenizer\.ggml\.merges' must be an array of texts"),
    "merges too many": (
        pieces(merges=array(STRING, [""] * (8 * 288 + 1))),
        r"'tokenizer\.ggml\.merges' has 2305 texts, at most 2304 are read",
    ),
    "merge of one": (pieces(merges=array(STRING, ["a"])), "tokenizer.json cannot be used"),
    "merge unknown": (pieces(merges=array(STRING, ["no thing"])), "tokenizer.json cannot be used"),
    "end out of range": (
        put(PIECES + "eos_token_id", U32, 288),
        r"'tokenizer\.ggml\.eos_token_id' is 288, token ids go from 0 to 287",
    ),
    "start below 0": (put(PIECES + "bos_token_id", I32, -1), "'tokenizer.ggml.bos_token_id' is -1"),
    "turn out of range": (pieces(eot_token_id=2**32 - 1), "eot_token_id' is 4294967295, token ids"),
    "end a text": (put(PIECES + "eos_token_id", STRING, "1"), "must be a whole number"),
    "template broken": (
        put("tokenizer.chat_template", STRING, "{% if %}"),
        r"'tokenizer\.chat_template': the chat template cannot be used",
    ),
    "template nested": (
        put("tokenizer.chat_template", STRING, "{{ " + "(" * 10**4),
        r"'tokenizer\.chat_template': the chat template cannot be used",
    ),
    "template computes": (
        put("tokenizer.chat_template", STRING, "{{ 9**9**9**9 }}"),
        r"'tokenizer\.chat_template': the chat template cannot be used",
    ),
    "template too long": (
        put("tokenizer.chat_template", STRING, "x" * (64 * 1024 + 1)),
        r"'tokenizer\.chat_template': the chat template has 65537 characters",
    ),
    "template much too long": (
        put("tokenizer.chat_template", STRING, "x" * 2**19),
        r"'tokenizer\.chat_template' has a text of 524288 bytes, at most 262144 go",
    ),
    "stop out of range": (
        put("rdlite.generation_config", STRING, '{"stop_ids": [288]}'),
        r"'rdlite\.generation_config': generation_config\.json: stop id 288 is outside",
    ),
    "generation nested": (
        put("rdlite.generation_config", STRING, '{"stop_ids": %s}' % ("[" * 980 + "]" * 980)),
        r"'rdlite\.generation_config': generation_config\.json",
    ),
    "generation too long": (
        put("rdlite.generation_config", STRING, " " * (2**20 + 1)),
        r"'rdlite\.generation_config' has a text of 1048577 bytes, at most 1048576",
    ),
    "special a list": (
        put("rdlite.special_tokens", STRING, "[]"),
        r"'rdlite\.special_tokens' must hold a JSON object",
    ),
    "special a number": (
        put("rdlite.special_tokens", STRING, '{"bos_token": 1}'),
        r"'rdlite\.special_tokens' must hold texts",
    ),
    "special twice": (
        put("rdlite.special_tokens", STRING, '{"a": "", "a": ""}'),
        r"'rdlite\.special_tokens': it names a key twice",
    ),
    "exit unknown": (
        put("rdlite.exit", STRING, '{"rule": "kl", "extra": 1}'),
        r"'rdlite\.exit': exit has an unknown key 'extra'",
    ),
    "exit of two lines": (
        put(
            "rdlite.exit",
            STRING,
            '{"rule": "kl", "steps": 2, "loss": 0, "measured_on": "", "thresholds": {"a\\nb": ""}}',
        ),
        r"'rdlite\.exit': exit\.thresholds\.a b must be float",
    ),
    "exit not finite": (
        put("rdlite.exit", STRING, '{"rule": "kl", "thresholds": {"kl": NaN}}'),
        r"'rdlite\.exit': it contains NaN",
    ),
    "scales without steps": (
        put("rdlite.cache_scales", ARRAY, array(U8, [0] * 16)),
        r"'rdlite\.cache_scales\.steps' is missing",
    ),
    "scales of 0 steps": (
        lambda file: (
            file.set("rdlite.cache_scales", ARRAY, array(U8, [0] * 16)),
            file.set("rdlite.cache_scales.steps", U32, 0),
        ),
        r"'rdlite\.cache_scales\.steps' is 0, expected 1 to 1024",
    ),
    "scales broken": (
        lambda file: (
            file.set("rdlite.cache_scales", ARRAY, array(U8, [255] * 16)),
            file.set("rdlite.cache_scales.steps", U32, 2),
        ),
        r"'rdlite\.cache_scales': the file in it is not a whole safetensors file",
    ),
    "scales too many": (
        lambda file: (
            file.set("rdlite.cache_scales", ARRAY, array(U64, [0] * 2**13)),
            file.set("rdlite.cache_scales.steps", U32, 2),
        ),
        r"'rdlite\.cache_scales' has 65536 bytes, 2 steps need \d+",
    ),
    "scales a text": (
        lambda file: (
            file.set("rdlite.cache_scales", STRING, "x"),
            file.set("rdlite.cache_scales.steps", U32, 2),
        ),
        r"'rdlite\.cache_scales' must be an array of numbers",
    ),
}


@pytest.mark.parametrize(("change", "message"), TEXTS.values(), ids=TEXTS)
def test_texts_and_tokens_that_do_not_fit_are_refused(small, path, change, message):
    file = File(small["f32"])
    change(file)
    refuse(path, message, file.join())


def test_the_tokenizer_in_pieces_is_one_otherwise(small, path):
    file = File(small["f32"])
    pieces()(file)
    path.write_bytes(file.join())
    assert open_bundle(path).read_text("tokenizer.json")


def test_refusing_takes_little_memory_and_comes_to_an_end(small, tmp_path):
    """Each in a process of its own, whose peak is what the system says it was."""
    pytest.importorskip("resource")

    def texts(text, count):
        return struct.pack("<IQ", STRING, count) + string(text) * count

    wide = "\U0001f600" * 2**22
    large = {
        "architecture": put("general.architecture", STRING, wide),
        "name": put("general.name", STRING, wide),
        "template": put("tokenizer.chat_template", STRING, wide),
        "generation": put("rdlite.generation_config", STRING, "[%s{}]" % ("{}," * 300_000)),
        "special": put("rdlite.special_tokens", STRING, '{"a":[%s0]}' % ("[]," * 300_000)),
        "tokenizer": put(WHOLE, STRING, "[%s0]" % ("1," * 2**23)),
        "objects": put(WHOLE, STRING, "[%s0]" % ("{}," * 300_000)),
        "tokens": pieces(
            tokens=texts("ab", 2**19), token_type=struct.pack("<IQ", U8, 2**19) + bytes(2**19)
        ),
        "merges": pieces(merges=texts("a b", 2**19)),
        "scales": lambda file: (
            file.set(
                "rdlite.cache_scales",
                ARRAY,
                struct.pack("<IQ", U8, 2**26) + bytes(2**26),
            ),
            file.set("rdlite.cache_scales.steps", U32, 2),
        ),
        "texts": lambda file: (
            file.set("x", ARRAY, texts("ab", 2**20 - 288)),
            file.drop("general.architecture"),
        ),
        "keys": lambda file: (
            file.keys.extend(
                (b"%d" % i, struct.pack("<I", STRING) + string("\U0001f600" * 250))
                for i in range(2**14 - 100)
            ),
            file.drop("general.architecture"),
        ),
        "tensors": lambda file: (
            file.tensors.extend(
                [b"%0256d" % i, [8, 1, 1, 1], 0, len(file.data) + 32 * i] for i in range(4000)
            ),
            file.data.extend(bytes(32 * 4001)),
        ),
        "product": at(0, shape=[2**64 - 1] * 4),
        "counts": counts(lambda t, k: (2**64 - 1, 2**64 - 1)),
    }
    paths = []
    for name, change in large.items():
        file = File(small["f32"])
        change(file)
        paths.append(tmp_path / f"{name}.gguf")
        paths[-1].write_bytes(file.join())
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(small["f32"])
    program = """
        import os, resource, sys
        import rdlite
        from rdlite.loader import open_bundle

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

        unit = 1 if sys.platform == "darwin" else 1024
        whole, *paths = sys.argv[1:]
        open_bundle(whole)  # what is imported on the way does not count
        for path in paths:
            child = os.fork()
            if child:
                assert os.waitpid(child, 0)[1] == 0, path
                continue
            before = peak()
            try:
                open_bundle(path)
            except rdlite.RdliteError as problem:
                beyond = (peak() - before - os.path.getsize(path)) / 2**20
                print(f"{beyond:.1f} MiB {problem}", flush=True)
                os._exit(beyond > 64)
            os._exit(2)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), whole, *paths],
        capture_output=True,
        text=True,
        timeout=120,  # they take a second; this is for what would never end
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == len(large)
