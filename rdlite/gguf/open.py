"""Opens a GGUF file as if it were a bundle: graphs are built, weights stay where they are."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rdlite.architectures.assemble import build_graphs
from rdlite.architectures.registry import Family
from rdlite.bundle.cache_scales import most_bytes, unpack
from rdlite.bundle.check.graph import check_graph
from rdlite.bundle.manifest import CONTRACT_VERSION, PARTS, FileEntry, Manifest
from rdlite.bundle.reader import Bundle
from rdlite.config.exit_defaults import ExitDefaults
from rdlite.config.generation import GenerationConfig, read_generation_config
from rdlite.config.model import ModelConfig
from rdlite.config.quantization import Quantization
from rdlite.errors import BundleError
from rdlite.gguf.external_data import DATA, Layout
from rdlite.gguf.header import MAX_STRING_BYTES
from rdlite.gguf.metadata import CARRIED, read_config, read_family
from rdlite.gguf.reader import GGUFFile, read_gguf
from rdlite.gguf.requantize import warn_of_rounding
from rdlite.gguf.tokenizer import TEMPLATE, TOKENS, WHOLE, read_tokenizer, special_tokens, token_id
from rdlite.gguf.weights import GGUFWeights
from rdlite.graphs.serialize import serialize
from rdlite.tokenizer.chat_template import MAX_TEMPLATE_CHARACTERS, ChatTemplate
from rdlite.tokenizer.stops import Stops, find_stops
from rdlite.tokenizer.tokenizer import Tokenizer
from rdlite.utils.schema import decode, read_json
from rdlite.weights.source_model import SourceModel, Tuned, describe_weights

#: Of JSON other than a tokenizer's: it takes many times its size when it is parsed.
MAX_JSON_BYTES = 2**20


def read_original(
    path: str | Path, requantized: bool = False
) -> tuple[GGUFFile, SourceModel, GGUFWeights]:
    """Read a file and hold it against its family.

    With `requantized`, matrices of types that rdlite does not compute with are rounded again, and a
    RoundingWarning says what that costs; without, they are given as floats.

    Raises:
        GGUFError: the file breaks a rule of GGUF, or of what rdlite reads; names offset or key.
    """
    file = read_gguf(path)
    _, family = read_family(file)
    config = read_config(file)
    with file.blame("its weights"):
        source = GGUFWeights(file, family, config, requantized)
        if source.requantized:
            warn_of_rounding(file.path.name, source.rounding())
    texts = _texts(file, family, config)
    quantization = None
    if source.bits:
        scheme = file.value("rdlite.scheme", str, "gguf")
        level = file.value("rdlite.accuracy_level", int, 4)
        with file.blame("the keys 'rdlite.scheme' and 'rdlite.accuracy_level'"):
            quantization = Quantization(scheme, source.bits, 32, level)
    name = file.value("general.name", str, file.path.stem)
    special = special_tokens(file, config.vocab_size)
    if "rdlite.special_tokens" in file.metadata:
        special = _object(file, "rdlite.special_tokens")
        if not all(isinstance(text, str) for text in special.values()):
            raise file.fail("the key 'rdlite.special_tokens' must hold texts")
    original = SourceModel(
        "".join(c for c in name if c.isprintable())[:200] or "model",
        family,
        config,
        source.weights,
        source,
        texts,
        special,
        file.path,
        quantization,
        _tuned(file, config),
        _trained_length(file),
    )
    return file, original, source


def open_gguf(path: str | Path) -> Bundle:
    """Open a GGUF file as a bundle.

    onnxruntime maps data files. Integers lie in another order in a GGUF file, so a part's data is
    written to a temporary file when the part is loaded, and that is as large as it is here.

    Raises:
        GGUFError: the file breaks a rule; the message names the offset, the tensor or the key.
    """
    file, original, source = read_original(path, requantized=True)
    quantization, config = original.quantization, original.config
    with file.blame("its graphs"):
        graphs = build_graphs(original.family, config, quantization)
        layout = Layout(source, graphs)
        serialized = serialize(graphs, layout.places)
        for part in PARTS:
            check_graph(serialized[part], part, config, {DATA: 2**62})

    tuned = original.tuned
    manifest = Manifest(
        contract_version=CONTRACT_VERSION,
        producer="GGUF",
        name=original.name,
        model=config,
        weights=describe_weights(original, quantization),
        parameters=original.count_parameters(),
        files={file.path.name: FileEntry(file.size, "")},
        special_tokens=original.special_tokens,
        quantization=quantization,
        cache_scales=tuned.entry if tuned else None,
        exit=tuned.exit if tuned else None,
        trained_length=original.trained_length,
    )
    texts = dict(original.text_files)
    if manifest.cache_scales and tuned and tuned.cache_scales:
        texts[manifest.cache_scales.file] = tuned.cache_scales
    return Bundle(file.path, manifest, serialized, (), texts, layout.write)


def _texts(file: GGUFFile, family: Family, config: ModelConfig) -> dict[str, bytes]:
    """Return the text files of a bundle, checked as those of a checkpoint are."""
    texts: dict[str, bytes] = {}
    for name, key in CARRIED.items():
        if key in file.metadata:
            most = MAX_JSON_BYTES if name.endswith(".json") else MAX_STRING_BYTES
            texts[name] = file.text(key, most).encode()
    data = read_tokenizer(file, config.vocab_size)
    tokenizer = None
    if data is not None:
        with file.blame(f"the key {WHOLE if WHOLE in file.metadata else TOKENS!r}"):
            tokenizer, texts["tokenizer.json"] = Tokenizer(data, config.vocab_size), data
    template = None
    if TEMPLATE in file.metadata:
        source = file.text(TEMPLATE, 4 * MAX_TEMPLATE_CHARACTERS)
        named = special_tokens(file, config.vocab_size)
        with file.blame(f"the key {TEMPLATE!r}"):
            template = ChatTemplate(source, named)
        texts["chat_template.jinja"] = source.encode()
    if "generation_config.json" not in texts:
        stops = _stops(file, family, config, tokenizer, template)
        generation = GenerationConfig(
            stop_ids=tuple(sorted(stops.ids)),
            stop_strings=tuple(stops.strings),
            stop_sources=stops.sources(),
            stops_ignored=stops.ignored,
        )
        texts["generation_config.json"] = json.dumps(asdict(generation)).encode()
    with file.blame(f"the key {CARRIED['generation_config.json']!r}"):
        read_generation_config(texts["generation_config.json"], config.vocab_size)
    return texts


def _stops(
    file: GGUFFile,
    family: Family,
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    template: ChatTemplate | None,
) -> Stops:
    """Return where answers end by a file that another program wrote."""
    kinds = {kind: token_id(file, kind, config.vocab_size) for kind in ("eos", "eot")}
    ids = [(f"tokenizer.ggml.{kind}_token_id", id) for kind, id in kinds.items() if id is not None]
    tokens = [("the family", text) for text in family.STOP_TOKENS]
    named = special_tokens(file, config.vocab_size)
    return find_stops(ids, tokens, tokenizer, template, config.vocab_size, named)


def _object(file: GGUFFile, key: str) -> dict[str, Any]:
    with file.blame(f"the key {key!r}"):
        value = read_json(file.text(key, MAX_JSON_BYTES).encode(), "it", BundleError)
    if not isinstance(value, dict):
        raise file.fail(f"the key {key!r} must hold a JSON object")
    return value


def _trained_length(file: GGUFFile) -> int | None:
    if "rdlite.trained_length" not in file.metadata:
        return None
    length: int = file.value("rdlite.trained_length", int)
    if not 1 <= length <= 2**22:
        raise file.fail("the key 'rdlite.trained_length' must be 1 to 2^22")
    return length


def _tuned(file: GGUFFile, config: ModelConfig) -> Tuned | None:
    exit, scales, steps = None, None, 0
    if "rdlite.exit" in file.metadata:
        data = _object(file, "rdlite.exit")
        with file.blame("the key 'rdlite.exit'"):
            exit = decode(ExitDefaults, data, "exit", BundleError)
    key = "rdlite.cache_scales"
    if key in file.metadata:
        steps = file.value(f"{key}.steps", int)
        if not 1 <= steps <= 1024:
            raise file.fail(f"the key '{key}.steps' is {steps}, expected 1 to 1024")
        stored, most = file.numbers(key), most_bytes(config, steps)
        if stored.nbytes > most:
            raise file.fail(f"the key {key!r} has {stored.nbytes} bytes, {steps} steps need {most}")
        scales = stored.tobytes()
        with file.blame(f"the key {key!r}"):
            unpack(scales, config, steps, "the file in it")
    return Tuned(exit, scales, steps) if exit or scales else None
