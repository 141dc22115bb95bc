"""Looks through a tokenizer.json before the tokenizers library gets it.

The library trusts its input: some files make it panic, abort the process, or work for minutes. So
only the kinds of components that language models use are let through, with bounds on their
parameters.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from rdlite.errors import BundleError
from rdlite.utils.schema import read_json

#: Python takes many times the size of a file to parse it.
MAX_OTHER_BYTES, MAX_BYTES_PER_TOKEN, MAX_OBJECTS = 2**20, 512, 2**17
MAX_COMPONENTS = 32
MAX_PATTERN_CHARACTERS = 4096
MAX_INSERTED_CHARACTERS = 64
MAX_TOKEN_CHARACTERS = 256
MAX_GROWTH = 4  # of a text, by all replacements together
MAX_REPETITION, MAX_NESTING = 1000, 50  # in a pattern
_REPETITION = re.compile(r"\{(\d*),?(\d*)\}")
#: Kinds of normalizers, pre-tokenizers, post-processors and decoders.
COMPONENTS = frozenset(
    """BertNormalizer ByteFallback ByteLevel Digits Fuse Lowercase Metaspace NFC NFD NFKC NFKD Nmt
    Prepend Punctuation Replace Sequence Split Strip StripAccents TemplateProcessing Whitespace
    WhitespaceSplit""".split()
)
LISTS = ("normalizers", "pretokenizers", "processors", "decoders")


def most_bytes(vocab_size: int) -> int:
    """Return the largest size of the file for a model of that vocabulary."""
    return MAX_OTHER_BYTES + MAX_BYTES_PER_TOKEN * vocab_size


def check_tokenizer(data: bytes, vocab_size: int) -> None:
    """Raise BundleError unless the file holds what is let through, in bounds.

    Args:
        data: tokenizer.json.
        vocab_size: the model's vocabulary.
    """
    where = "tokenizer.json"
    most = most_bytes(vocab_size)
    if len(data) > most or data.count(b"{") > MAX_OBJECTS:
        raise BundleError(
            f"{where} has {len(data)} bytes and {data.count(b'{')} objects, at most {most} and "
            f"{MAX_OBJECTS} are read for {vocab_size} tokens"
        )
    tokenizer = read_json(data, where, BundleError)
    model = tokenizer.get("model") if isinstance(tokenizer, dict) else None
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise BundleError(f"{where} cannot be used: only byte-pair encodings (BPE) are supported")
    vocabulary, added = model.get("vocab"), tokenizer.get("added_tokens") or []
    if not isinstance(vocabulary, dict) or not isinstance(added, list):
        raise BundleError(f"{where} cannot be used: it has no vocabulary")
    contents = {str(token.get("content")) for token in added if isinstance(token, dict)}
    size = len(vocabulary.keys() | contents)
    if size > vocab_size:
        raise BundleError(
            f"{where} has {size} tokens, the model only {vocab_size}; they do not belong together"
        )
    if model.get("continuing_subword_prefix"):
        # The library cuts as many bytes off merged tokens, wherever that falls.
        raise BundleError(f"{where} cannot be used: it has a continuing_subword_prefix")
    if max(map(len, contents), default=0) > MAX_TOKEN_CHARACTERS:
        raise BundleError(f"{where} cannot be used: an added token is too long")
    count, growth = 0, 1
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        for component in _components(tokenizer.get(part)):
            count += 1
            if component.get("type") == "Replace":
                growth *= max(1, len(str(component.get("content"))))
            _check_component(component, f"{where} cannot be used: its {part}")
    if count > MAX_COMPONENTS:
        raise BundleError(f"{where} cannot be used: it has {count} components")
    if growth > MAX_GROWTH:
        raise BundleError(f"{where} cannot be used: its replacements make texts too long")


def _components(part: Any) -> Iterator[dict[str, Any]]:
    """A component and those it is a sequence of."""
    if part is None:
        return
    if not isinstance(part, dict):
        part = {}
    yield part
    for name in LISTS:
        items = part.get(name)
        for item in items if isinstance(items, list) else ():
            yield from _components(item or {})


def _check_component(component: dict[str, Any], what: str) -> None:
    kind = component.get("type")
    if not isinstance(kind, str) or kind not in COMPONENTS:
        raise BundleError(f"{what} has a component of the kind {kind!r:.40}, which is not read")
    for name in ("content", "prepend", "replacement"):
        value = component.get(name)
        if value is not None and not _short(value, MAX_INSERTED_CHARACTERS):
            raise BundleError(f"{what} inserts a text that is too long ({name} of {kind})")
    pattern = component.get("pattern")
    texts = pattern.values() if isinstance(pattern, dict) else ()
    if not all(text and _short(text, MAX_PATTERN_CHARACTERS) for text in texts):
        raise BundleError(f"{what} has a pattern that is empty or too long")
    for text in texts:
        repetition = math.prod(
            max(int(number[:9] or 1) for number in found.groups())
            for found in _REPETITION.finditer(text)
        )
        if repetition > MAX_REPETITION or text.count("(") > MAX_NESTING:
            raise BundleError(f"{what} has a pattern that repeats or nests too much")
    for name in ("start", "stop"):
        value = component.get(name)
        if kind == "Strip" and value is not None and value not in range(MAX_INSERTED_CHARACTERS):
            raise BundleError(f"{what} strips too much")
    for name in ("single", "pair"):
        value = component.get(name)
        items = value if isinstance(value, list) else []
        sequences = [item for item in items if isinstance(item, dict) and "Sequence" in item]
        if len(items) > MAX_COMPONENTS or len(sequences) > 2:
            raise BundleError(f"{what} adds more than {MAX_COMPONENTS} tokens or repeats the text")


def _short(value: object, limit: int) -> bool:
    return isinstance(value, str) and len(value) <= limit
