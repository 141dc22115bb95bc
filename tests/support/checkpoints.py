"""Checkpoints as the world has them, cut down: tiny weights, a byte tokenizer, any text files."""

import json
import shutil
from pathlib import Path

DATA = Path(__file__).parent.parent / "data"


def alphabet():
    """The characters that a byte-level encoding writes bytes with."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    result, more = {}, 256
    for byte in range(256):
        result[byte] = chr(byte if byte in plain else more)
        more += byte not in plain
    return [result[byte] for byte in range(256)]


def byte_tokenizer(special=(), added=(), first=False):
    """A tokenizer.json of all bytes, with tokens before or after them."""
    at = 0 if first else 256
    tokens = [(text, text in special) for text in (*special, *added)]
    ids = {text: at + i for i, (text, _) in enumerate(tokens)}
    vocab = {c: i + (len(ids) if first else 0) for i, c in enumerate(alphabet())} | ids
    base = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": ids[text], "content": text, **base, "special": mark} for text, mark in tokens
        ],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }


def make_checkpoint(folder, base, *, config=None, special=(), first=False, added=(), files=None):
    """Write a checkpoint with the weights of a tiny one; returns its folder."""
    folder.mkdir()
    shutil.copy(DATA / base / "model.safetensors", folder)
    given = json.loads((DATA / base / "config.json").read_text()) | (config or {})
    (folder / "config.json").write_text(json.dumps(given))
    if special or added:
        tokenizer = byte_tokenizer(special, added, first)
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name, value in (files or {}).items():
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return folder
