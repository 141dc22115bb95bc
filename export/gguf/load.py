"""Opens a GGUF file as if it were a bundle: graphs are built, weights stay where they are."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rdlite.bundle import CONTRACT_VERSION, PARTS, Bundle, FileEntry, Manifest
from rdlite.chat_template import ChatTemplate
from rdlite.config import ModelConfig
from rdlite.errors import BundleError, GGUFError, RdliteError
from rdlite.exit_defaults import ExitDefaults
from rdlite.generation_config import GenerationConfig, read_generation_config
from rdlite.graph_check import check_graph
from rdlite.progress import Progress
from rdlite.quantization import Quantization
from rdlite.schema import decode, read_json
from rdlite.tokenizer import Tokenizer

from ..exporter import describe_weights, write_bundle
from ..families import Family
from ..graphs import build_graphs
from ..original import Original, Tuned
from ..write import serialize
from .layout import DATA, Layout
from .metadata import read_config, read_family
from .reader import GGUFFile, read_gguf
from .source import GGUFWeights
from .tokenizer import TEMPLATE, read_tokenizer, special_tokens
from .write import CARRIED


def read_original(path: str | Path) -> tuple[GGUFFile, Original, GGUFWeights]:
    """Read a file and hold it against its family.

    Raises:
        GGUFError: the file breaks a rule of GGUF, or of what rdlite reads; names offset or key.
        BundleError: a size is out of bounds.
    """
    file = read_gguf(path)
    _, family = read_family(file)
    try:
        config = read_config(file)
    except GGUFError:
        raise
    except BundleError as problem:
        raise file.fail(str(problem)) from None
    source = GGUFWeights(file, family, config)
    texts = _texts(file, family, config)
    quantization = None
    if source.bits:
        quantization = Quantization(
            file.value("rdlite.scheme", str, "gguf")[:200],
            source.bits,
            32,
            file.value("rdlite.accuracy_level", int, 4),
        )
    name = file.value("general.name", str, file.path.stem)
    special = special_tokens(file)
    if "rdlite.special_tokens" in file.metadata:
        special = _object(file, "rdlite.special_tokens")
    original = Original(
        "".join(c for c in name if c.isprintable())[:200] or "model",
        family,
        config,
        source.weights,
        source,
        texts,
        {str(key): str(value) for key, value in special.items()},
        file.path,
        quantization,
        _tuned(file),
    )
    return file, original, source


def open_gguf(path: str | Path) -> Bundle:
    """Open a GGUF file as a bundle.

    onnxruntime maps data files. Integers lie in another order in a GGUF file, so a part's data is
    written to a temporary file when the part is loaded, and that is as large as it is here.

    Raises:
        GGUFError: the file breaks a rule; the message names the offset, the tensor or the key.
    """
    file, original, source = read_original(path)
    quantization, config = original.quantization, original.config
    graphs = build_graphs(original.family, config, quantization)
    layout = Layout(source, graphs)
    serialized = serialize(graphs, layout.places)
    for part in PARTS:
        sizes = {DATA: 2**62, file.path.name: file.size}
        check_graph(serialized[part], part, config, sizes)

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
    )
    texts = dict(original.text_files)
    if manifest.cache_scales and tuned and tuned.cache_scales:
        texts[manifest.cache_scales.file] = tuned.cache_scales
    return Bundle(file.path, manifest, serialized, (), texts, layout.write)


def import_gguf(
    path: str | Path, out: str | Path, *, force: bool = False, progress: Progress | None = None
) -> Path:
    """Write a GGUF file's model as a bundle; returns its path.

    Args:
        path: the file.
        out: the bundle folder to make. It appears whole or not at all.
        force: replace `out` if it is a bundle already.
        progress: called with (bytes read, bytes in all), counted as float32.

    Raises:
        GGUFError: the file breaks a rule.
        OutputError: `out` exists, or cannot be written.
    """
    _, original, _ = read_original(path)
    return write_bundle(original, out, force=force, progress=progress)


def _texts(file: GGUFFile, family: Family, config: ModelConfig) -> dict[str, bytes]:
    """Return the text files of a bundle, checked as those of a checkpoint are."""
    texts: dict[str, bytes] = {}
    for name, key in CARRIED.items():
        if key in file.metadata:
            texts[name] = file.value(key, str).encode()
    try:
        data = read_tokenizer(file)
        tokenizer = None
        if data is not None:
            tokenizer, texts["tokenizer.json"] = Tokenizer(data, config.vocab_size), data
        if TEMPLATE in file.metadata:
            template = file.value(TEMPLATE, str)
            ChatTemplate(template)
            texts["chat_template.jinja"] = template.encode()
        if "generation_config.json" not in texts:
            generation = GenerationConfig(tuple(sorted(_stops(file, family, config, tokenizer))))
            texts["generation_config.json"] = json.dumps(asdict(generation)).encode()
        read_generation_config(texts["generation_config.json"], config.vocab_size)
    except GGUFError:
        raise
    except RdliteError as problem:
        raise file.fail(str(problem)) from None
    return texts


def _stops(
    file: GGUFFile, family: Family, config: ModelConfig, tokenizer: Tokenizer | None
) -> set[int]:
    """Return the ids that end an answer in a file that another program wrote."""
    found = set()
    for kind in ("eos", "eot"):
        id = file.value(f"tokenizer.ggml.{kind}_token_id", int, -1)
        if 0 <= id < config.vocab_size:
            found.add(id)
    for text in family.STOP_TOKENS:
        token = tokenizer.special_token_id(text) if tokenizer else None
        if token is not None:
            found.add(token)
    return found


def _object(file: GGUFFile, key: str) -> dict[str, Any]:
    value = read_json(file.value(key, str).encode(), f"{file.path}: {key}", GGUFError)
    if not isinstance(value, dict):
        raise file.fail(f"the key {key!r} must hold a JSON object")
    return value


def _tuned(file: GGUFFile) -> Tuned | None:
    exit, scales, steps = None, None, 0
    if "rdlite.exit" in file.metadata:
        data = _object(file, "rdlite.exit")
        exit = decode(ExitDefaults, data, f"{file.path}: rdlite.exit", GGUFError)
    if "rdlite.cache_scales" in file.metadata:
        scales = file.numbers("rdlite.cache_scales").tobytes()
        steps = file.value("rdlite.cache_scales.steps", int)
        if not 1 <= steps <= 1024:
            raise file.fail(f"the key 'rdlite.cache_scales.steps' is {steps}, expected 1 to 1024")
    return Tuned(exit, scales, steps) if exit or scales else None
