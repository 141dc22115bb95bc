"""The text side of a bundle: tokenizer, chat template, defaults, special tokens, model card."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rdlite.config.generation import GenerationConfig, read_generation_config
from rdlite.config.model import ModelConfig
from rdlite.errors import CheckpointError, RdliteError
from rdlite.tokenizer.chat_template import ChatTemplate
from rdlite.tokenizer.stops import Stops, find_stops
from rdlite.tokenizer.tokenizer import Tokenizer

from .safetensors import Checkpoint

MODEL_CARD = "README.md"
GENERATION, TOKENIZER = "generation_config.json", "tokenizer_config.json"
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
    tokenizer_config = checkpoint.read_object(TOKENIZER)
    files: dict[str, bytes] = {}
    tokenizer = None
    data = checkpoint.read_file("tokenizer.json")
    if data is not None:
        tokenizer = _checked(Tokenizer, data, config.vocab_size)
        files["tokenizer.json"] = data
    special_tokens = _special_tokens(checkpoint, tokenizer_config)
    source = _chat_template(checkpoint, tokenizer_config)
    template = None
    if source is not None:
        try:
            template = ChatTemplate(source.decode(errors="replace"), special_tokens)
        except RdliteError as problem:
            raise CheckpointError(
                f"{problem}; take it out of the folder to export the model without chat"
            ) from None
        files["chat_template.jinja"] = source
    card = checkpoint.read_file(MODEL_CARD)
    if card is not None:
        files[MODEL_CARD] = card
    stops = _stops(checkpoint, tokenizer, template, stop_tokens, config, special_tokens)
    generation = _generation_config(checkpoint, stops, config)
    files["generation_config.json"] = (json.dumps(asdict(generation), indent=1) + "\n").encode()
    return TextFiles(files, special_tokens)


def _checked(make: Any, *arguments: Any) -> Any:
    try:
        return make(*arguments)
    except RdliteError as problem:
        raise CheckpointError(str(problem)) from None


def _chat_template(checkpoint: Checkpoint, tokenizer_config: Mapping[str, Any]) -> bytes | None:
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):  # several by name; "default" is the one for chatting
        named = [entry for entry in template if isinstance(entry, dict)]
        template = next((e.get("template") for e in named if e.get("name") == "default"), None)
    data = checkpoint.read_file("chat_template.jinja")
    if data is None:
        if not isinstance(template, str):
            template = checkpoint.read_object("chat_template.json").get("chat_template")
        if not isinstance(template, str):
            return None
        data = template.encode(errors="replace")
    return data


def _stops(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer | None,
    template: ChatTemplate | None,
    stop_tokens: tuple[str, ...],
    config: ModelConfig,
    special_tokens: Mapping[str, str],
) -> Stops:
    """Return where answers end, by all that the checkpoint says of it."""
    raw = checkpoint.read_object(GENERATION)
    ids = [(GENERATION, id) for id in _list_of(int, "eos_token_id", raw)]
    ids += [("config.json", id) for id in _list_of(int, "eos_token_id", checkpoint.config)]
    tokens = [(TOKENIZER, special_tokens["eos_token"])] if "eos_token" in special_tokens else []
    tokens += [("the family", text) for text in stop_tokens]
    stops = find_stops(ids, tokens, tokenizer, template, config.vocab_size, special_tokens)
    for text in _list_of(str, "stop_strings", raw):
        id = tokenizer.special_token_id(text) if tokenizer else None
        if id is not None:
            stops.add(id, GENERATION)
        else:
            stops.strings.setdefault(text, []).append(GENERATION)
    return stops


def _generation_config(
    checkpoint: Checkpoint, stops: Stops, config: ModelConfig
) -> GenerationConfig:
    raw = checkpoint.read_object(GENERATION)
    wanted: dict[str, Any] = {
        "stop_ids": sorted(stops.ids),
        "stop_strings": list(stops.strings),
        "stop_sources": stops.sources(),
        "stops_ignored": stops.ignored,
    }
    # transformers ignores the other numbers unless do_sample is set.
    names = ["repetition_penalty"]
    if raw.get("do_sample") is True:
        wanted["temperature"] = 1.0
        names += ["temperature", "top_k", "top_p", "min_p"]
    wanted |= {name: raw[name] for name in names if raw.get(name) is not None}
    data = json.dumps(wanted).encode()
    result: GenerationConfig = _checked(read_generation_config, data, config.vocab_size)
    return result


def _list_of(kind: type, name: str, *places: Mapping[str, Any]) -> list[Any]:
    """Return the first value of `name` in `places` that is there, one or a list, as a list."""
    value: Any = next((place[name] for place in places if place.get(name) is not None), [])
    values = value if isinstance(value, list) else [value]
    if not all(type(item) is kind for item in values):
        raise CheckpointError(f"{name} must be of type {kind.__name__}, got {value!r:.60}")
    return list(values)


def _special_tokens(checkpoint: Checkpoint, tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    result = {}
    older = checkpoint.read_object("special_tokens_map.json")
    for name in SPECIAL_TOKENS:
        token = tokenizer_config.get(name) or older.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str):
            result[name] = token
    return result
