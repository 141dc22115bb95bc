"""The text side of a bundle: tokenizer, chat template, generation defaults, special tokens."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rdlite.config import ModelConfig
from rdlite.errors import CheckpointError, RdliteError
from rdlite.generation_config import GenerationConfig, read_generation_config
from rdlite.schema import encode
from rdlite.tokenizer import Tokenizer

from .checkpoint import Checkpoint

SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True, slots=True)
class TextFiles:
    """Files for the bundle by name, and the special tokens that templates ask for by name."""

    files: Mapping[str, bytes]
    special_tokens: Mapping[str, str]


def collect_text_files(
    checkpoint: Checkpoint, stop_tokens: tuple[str, ...], config: ModelConfig
) -> TextFiles:
    """Read and check a checkpoint's text files; each may be absent.

    Raises:
        CheckpointError: a file is there and cannot be used.
    """
    tokenizer_config = checkpoint.read_json("tokenizer_config.json") or {}
    if not isinstance(tokenizer_config, dict):
        raise CheckpointError("tokenizer_config.json must hold an object")
    files: dict[str, bytes] = {}
    tokenizer = None
    if (checkpoint.folder / "tokenizer.json").exists():
        files["tokenizer.json"] = (checkpoint.folder / "tokenizer.json").read_bytes()
        tokenizer = _checked(Tokenizer, files["tokenizer.json"], config.vocab_size)
    template = _chat_template(checkpoint, tokenizer_config)
    if template is not None:
        files["chat_template.jinja"] = template
    generation = _generation_config(checkpoint, tokenizer, stop_tokens, config)
    files["generation_config.json"] = (json.dumps(encode(generation), indent=1) + "\n").encode()
    return TextFiles(files, _special_tokens(tokenizer_config))


def _checked(make: Any, *arguments: Any) -> Any:
    try:
        return make(*arguments)
    except RdliteError as problem:
        raise CheckpointError(str(problem)) from None


def _chat_template(checkpoint: Checkpoint, tokenizer_config: Mapping[str, Any]) -> bytes | None:
    file = checkpoint.folder / "chat_template.jinja"
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):  # several by name; "default" is the one for chatting
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    if file.exists():
        template = file.read_text("utf-8", errors="strict")
    if not isinstance(template, str):
        return None
    from rdlite.chat_template import ChatTemplate

    _checked(ChatTemplate, template)
    return template.encode()


def _generation_config(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer | None,
    stop_tokens: tuple[str, ...],
    config: ModelConfig,
) -> GenerationConfig:
    raw = checkpoint.read_json("generation_config.json") or {}
    if not isinstance(raw, dict):
        raise CheckpointError("generation_config.json must hold an object")
    eos = raw.get("eos_token_id", checkpoint.config.get("eos_token_id"))
    stop_ids = {token for token in (eos if isinstance(eos, list) else [eos]) if token is not None}
    stop_strings = raw.get("stop_strings") or []
    stop_strings = [stop_strings] if isinstance(stop_strings, str) else stop_strings
    texts = []
    for text in (*stop_tokens, *stop_strings):
        token = tokenizer.special_token_id(text) if tokenizer else None
        if token is not None:
            stop_ids.add(token)
        elif text in stop_strings:
            texts.append(text)
    sampled = raw.get("do_sample", False) is True
    wanted = {"stop_ids": sorted(stop_ids), "stop_strings": texts}
    if sampled:
        wanted["temperature"] = raw.get("temperature", 1.0)
        for key in ("top_k", "top_p", "min_p"):
            if raw.get(key) is not None:
                wanted[key] = raw[key]
    if raw.get("repetition_penalty") is not None:
        wanted["repetition_penalty"] = raw["repetition_penalty"]
    result: GenerationConfig = _checked(
        read_generation_config, json.dumps(wanted).encode(), config.vocab_size
    )
    return result


def _special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    result = {}
    for name in SPECIAL_TOKENS:
        token = tokenizer_config.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str):
            result[name] = token
    return result
