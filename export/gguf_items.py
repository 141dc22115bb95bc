"""The metadata of a GGUF file that is written: what a model says of itself there."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from rdlite.gguf.metadata import CARRIED, Item, config_items
from rdlite.gguf.tensor_names import IN_METADATA, architecture
from rdlite.gguf.tokenizer import TEMPLATE, tokenizer_items
from rdlite.weights.source_model import SourceModel
from rdlite.weights.storage import Storage

if TYPE_CHECKING:
    import gguf


def metadata_items(
    original: SourceModel,
    file_type: int,
    storage: Storage | None,
    licence: str | None,
    url: str | None,
) -> Iterator[Item]:
    """Yield all metadata but the architecture, which the writer adds.

    `file_type` is GGUF's number for how most matrices are stored.
    """
    config, texts = original.config, original.text_files
    yield Item("general.name", "STRING", original.name)
    yield Item("general.type", "STRING", "model")
    yield Item("general.description", "STRING", "A looped language model, to be run by rdlite")
    licence = licence or _licence(texts.get("README.md", b""))
    for key, text in (("general.license", licence), ("general.source.url", url)):
        if text:
            yield Item(key, "STRING", text)
    yield Item("general.file_type", "UINT32", file_type)
    yield Item("general.quantization_version", "UINT32", 2)
    yield from config_items(config)
    arch = architecture(config.family)
    for name, key in IN_METADATA.items():
        if name in original.weights:
            numbers = np.concatenate([*original.source.pieces(name)]).tolist()
            yield Item(f"{arch}.{key}", "FLOAT32[]", numbers)
    if "tokenizer.json" in texts:
        yield from tokenizer_items(texts["tokenizer.json"], original.special_tokens, config)
    else:  # llama.cpp wants to be told
        yield Item("tokenizer.ggml.model", "STRING", "no_vocab")
    if "chat_template.jinja" in texts:
        yield Item(TEMPLATE, "STRING", texts["chat_template.jinja"].decode(errors="replace"))
    for name, key in CARRIED.items():
        if name in texts:
            yield Item(key, "STRING", texts[name].decode(errors="replace"))
    if original.trained_length is not None:
        yield Item("rdlite.trained_length", "UINT32", original.trained_length)
    yield Item("rdlite.special_tokens", "STRING", json.dumps(dict(original.special_tokens)))
    if storage is not None:
        plain = asdict(storage.quantization)
        yield Item("rdlite.scheme", "STRING", plain["scheme"])
        yield Item("rdlite.accuracy_level", "UINT32", plain["accuracy_level"])
    tuned = original.tuned
    if tuned is not None and tuned.exit is not None:
        yield Item("rdlite.exit", "STRING", json.dumps(asdict(tuned.exit)))
    if tuned is not None and tuned.cache_scales is not None:
        yield Item("rdlite.cache_scales.steps", "UINT32", tuned.cache_scales_steps)
        yield Item("rdlite.cache_scales", "UINT8[]", tuned.cache_scales)


def _licence(card: bytes) -> str | None:
    """Return the licence that the head of a model card names, as cards on the hub do."""
    head = re.match(rb"---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    named = head and re.search(rb"^license:[ \t]*[\"']?([\w.+-]{1,60})", head[1], re.MULTILINE)
    return named[1].decode() if named else None


def add_item(writer: "gguf.GGUFWriter", item: Item) -> None:
    """Tell the writer one item."""
    import gguf

    kind, value = item.type, item.value
    if kind.endswith("[]"):
        inner = gguf.GGUFValueType[kind.removesuffix("[]")]
        writer.add_key_value(item.key, value, gguf.GGUFValueType.ARRAY, inner)
    else:
        writer.add_key_value(item.key, value, gguf.GGUFValueType[kind])
