"""A tokenizer as GGUF's keys: the whole tokenizer.json, and what llama.cpp makes its own of.

Reading takes the whole file where there is one. A file of another program has only the pieces; from
those a byte-level encoding can be put together, if the way it cuts words is known.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from rdlite.config.model import ModelConfig
from rdlite.gguf.header import StoredArray
from rdlite.gguf.metadata import Item
from rdlite.gguf.reader import GGUFFile
from rdlite.gguf.sentencepiece import from_pieces, prefixes
from rdlite.tokenizer.validate import most_bytes

WHOLE, TEMPLATE = "tokenizer.huggingface.json", "tokenizer.chat_template"
NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6
TOKENS = "tokenizer.ggml.tokens"
#: Arrays with a value for every token.
BY_TOKEN = ("tokens", "token_type", "scores")
#: Llama 3 has two, so that every way to a token is there.
MERGES_PER_TOKEN = 8
#: Looking for all ways to put a token together takes time by the square of its length.
MOST_CHARACTERS, LONG_TOKEN = 2**16, 16
IDS = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
_SPLIT = {"pattern": {"Regex": LLAMA3_WORDS}, "behavior": "Isolated", "invert": False}
#: tokenizer.ggml.pre -> how a tokenizer.json says the same.
WORDS: dict[str, dict[str, Any]] = {
    "gpt-2": {**_BYTES, "use_regex": True},
    "smollm": {"type": "Sequence", "pretokenizers": [_DIGITS, {**_BYTES, "use_regex": True}]},
    "llama-bpe": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Split", **_SPLIT}, {**_BYTES, "use_regex": False}],
    },
}


def tokenizer_items(
    data: bytes, special_tokens: Mapping[str, str], config: ModelConfig
) -> Iterator[Item]:
    """Yield the keys of a checked tokenizer.json."""
    tokenizer = json.loads(data)
    model, added = tokenizer["model"], tokenizer.get("added_tokens") or []
    tokens: dict[int, str] = {id: token for token, id in model["vocab"].items()}
    kinds = dict.fromkeys(tokens, NORMAL)
    by_bytes = bool(model.get("byte_fallback"))
    for id, token in tokens.items():
        if by_bytes and len(token) == 6 and token.startswith("<0x"):
            kinds[id] = BYTE
    for token in added:
        tokens[token["id"]] = token["content"]
        kinds[token["id"]] = CONTROL if token.get("special") else USER_DEFINED
    ids = range(config.vocab_size)
    yield Item("tokenizer.ggml.model", "STRING", "llama" if by_bytes else "gpt2")
    yield Item("tokenizer.ggml.pre", "STRING", _words(tokenizer.get("pre_tokenizer")))
    names = [tokens.get(id, f"[PAD{id}]") for id in ids]
    yield Item(TOKENS, "STRING[]", names)
    yield Item("tokenizer.ggml.token_type", "INT32[]", [kinds.get(id, UNUSED) for id in ids])
    merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges") or []]
    if by_bytes:
        yield Item("tokenizer.ggml.scores", "FLOAT32[]", [-float(id) for id in ids])
        yield Item("tokenizer.ggml.add_space_prefix", "BOOL", prefixes(tokenizer))
    if merges:
        yield Item("tokenizer.ggml.merges", "STRING[]", merges)
    known = {token: id for id, token in tokens.items()}
    for ours, theirs in IDS.items():
        if special_tokens.get(ours) in known:
            id = known[special_tokens[ours]]
            yield Item(f"tokenizer.ggml.{theirs}_token_id", "UINT32", id)
    yield Item("tokenizer.ggml.add_bos_token", "BOOL", False)
    yield Item(WHOLE, "STRING", data.decode())


def _words(pre_tokenizer: Any) -> str:
    """Return llama.cpp's name of a way to cut words; "default" if it has none."""
    text = json.dumps(pre_tokenizer)
    if LLAMA3_WORDS in text or json.dumps(LLAMA3_WORDS)[1:-1] in text:
        return "llama-bpe"
    if "Digits" in text and "ByteLevel" in text:
        return "smollm"
    return "gpt-2" if '"use_regex": true' in text else "default"


def read_tokenizer(file: GGUFFile, vocab_size: int) -> bytes | None:
    """Return a tokenizer.json, or None if the file has none that can be used; GGUFError."""
    arrays = {name: file.metadata.get(f"tokenizer.ggml.{name}") for name in BY_TOKEN}
    counts = {name: a.count for name, a in arrays.items() if isinstance(a, StoredArray)}
    if len(set(counts.values())) > 1:
        lengths = " and ".join(f"tokenizer.ggml.{name} {count}" for name, count in counts.items())
        raise file.fail(f"arrays of a value for every token differ in length: {lengths}")
    if WHOLE in file.metadata:
        return file.text(WHOLE, most_bytes(vocab_size)).encode()
    kind = file.metadata.get("tokenizer.ggml.model")
    words = WORDS.get(file.metadata.get("tokenizer.ggml.pre", ""))
    if kind != "llama" and (kind != "gpt2" or words is None):
        return None
    if not isinstance(file.metadata.get("tokenizer.ggml.token_type"), StoredArray):
        return None
    tokens = file.strings(TOKENS, vocab_size)
    kinds = file.numbers("tokenizer.ggml.token_type").tolist()
    special = [id for id, kind in enumerate(kinds) if kind in (CONTROL, USER_DEFINED)]
    skipped = {id for id, kind in enumerate(kinds) if kind == UNUSED}
    if kind == "llama":
        parts = _pieces(file, tokens, kinds, skipped, vocab_size)
    else:
        merges = file.strings("tokenizer.ggml.merges", MERGES_PER_TOKEN * vocab_size)
        vocabulary = {token: id for id, token in enumerate(tokens) if id not in skipped}
        parts = {
            "normalizer": None,
            "pre_tokenizer": words,
            "decoder": {**_BYTES, "use_regex": True},
            "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
        }
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [
                {
                    "id": id,
                    "content": tokens[id],
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": kinds[id] == CONTROL,
                }
                for id in special
            ],
            "post_processor": _beginning(file, tokens, vocab_size),
            **parts,
        }
    ).encode()


def _pieces(
    file: GGUFFile, tokens: list[str], kinds: list[int], skipped: set[int], vocab_size: int
) -> dict[str, Any]:
    scores = file.numbers("tokenizer.ggml.scores").tolist()
    if len(scores) != len(tokens):
        raise file.fail(f"tokenizer.ggml.scores has {len(scores)} numbers for {len(tokens)} tokens")
    if not all(map(math.isfinite, scores)):
        raise file.fail("tokenizer.ggml.scores holds numbers that are not finite")
    if sum(map(len, tokens)) > MOST_CHARACTERS + LONG_TOKEN * len(tokens):
        raise file.fail(f"the {len(tokens)} tokens have more characters than those of any language")
    unknown = token_id(file, "unknown", vocab_size)
    apart = {id for id, kind in enumerate(kinds) if kind != NORMAL}
    return from_pieces(
        tokens,
        scores,
        skipped,
        apart,
        tokens[unknown] if unknown is not None and unknown not in skipped else None,
        file.value("tokenizer.ggml.add_space_prefix", bool, True),
    )


def _beginning(file: GGUFFile, tokens: list[str], vocab_size: int) -> dict[str, Any] | None:
    """Return what puts the first token before a text, if the file says that one is put there."""
    first = token_id(file, "bos", vocab_size)
    if first is None or not file.value("tokenizer.ggml.add_bos_token", bool, False):
        return None
    text = tokens[first]
    sequence: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    special: dict[str, Any] = {"SpecialToken": {"id": text, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [special, *sequence],
        "pair": [special, *sequence, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {text: {"id": text, "ids": [first], "tokens": [text]}},
    }


def token_id(file: GGUFFile, kind: str, vocab_size: int) -> int | None:
    """Return the id that a file gives for a kind of token, like "eos", if any; GGUFError."""
    key = f"tokenizer.ggml.{kind}_token_id"
    if key not in file.metadata:
        return None
    id: int = file.value(key, int)
    if not 0 <= id < vocab_size:
        raise file.fail(f"the key {key!r} is {id}, token ids go from 0 to {vocab_size - 1}")
    return id


def special_tokens(file: GGUFFile, vocab_size: int) -> dict[str, str]:
    """Return the special tokens that a file names by their ids; raises GGUFError."""
    ids = {ours: token_id(file, theirs, vocab_size) for ours, theirs in IDS.items()}
    if TOKENS not in file.metadata:
        return {}
    tokens = file.strings(TOKENS, vocab_size)
    return {ours: tokens[id] for ours, id in ids.items() if id is not None and id < len(tokens)}
