"""A model's sizes and constants as keys of a GGUF file, and back.

The keys are llama.cpp's where it has one. The recurrence has keys of our own under the same
architecture; a file without them, as other programs write of Ouro, is read with the family's
defaults.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from rdlite.architectures.registry import FAMILIES, Family
from rdlite.config.model import LayerCounts, ModelConfig, Recurrence, Rotary, RotaryScaling
from rdlite.gguf.reader import GGUFFile
from rdlite.gguf.tensor_names import architecture

ARCHITECTURE = "general.architecture"
LLAMA3 = "llama3"


class Item(NamedTuple):
    """A key, the name of its value's type as GGUF has it, and the value."""

    key: str
    type: str
    value: Any


def config_items(config: ModelConfig) -> Iterator[Item]:
    """Yield the keys of a config, without the architecture itself."""
    arch, layers = architecture(config.family), config.layers
    recurrence, rotary = config.recurrence, config.rotary
    whole: dict[str, int | None] = {
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "block_count": layers.prelude + layers.core + layers.coda,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.head_dim,
        "prelude_block_count": layers.prelude,
        "recurrent_block_count": layers.core,
        "coda_block_count": layers.coda,
        "mean_recurrence": recurrence.mean_steps,
        "num_loops": recurrence.mean_steps,
        "max_recurrence": recurrence.max_steps,
    }
    for key, number in whole.items():
        if number is not None:
            yield Item(f"{arch}.{key}", "UINT32", number)
    yield Item(f"{arch}.attention.layer_norm_rms_epsilon", "FLOAT32", config.norm_eps)
    yield Item(f"{arch}.rope.freq_base", "FLOAT32", rotary.base)
    if (scaling := rotary.scaling) is not None:
        yield Item(f"{arch}.rope.scaling.type", "STRING", LLAMA3)
        yield Item(f"{arch}.rope.scaling.factor", "FLOAT32", scaling.factor)
        yield Item(f"{arch}.rope.scaling.low_freq_factor", "FLOAT32", scaling.low_frequency)
        yield Item(f"{arch}.rope.scaling.high_freq_factor", "FLOAT32", scaling.high_frequency)
        length = scaling.original_context
        yield Item(f"{arch}.rope.scaling.original_context_length", "UINT32", length)
    yield Item(f"{arch}.rope.interleaved", "BOOL", rotary.interleaved)
    yield Item(f"{arch}.skip_loop_final_norm", "BOOL", not recurrence.norm_each_step)
    yield Item(f"{arch}.attention.qk_bias", "BOOL", config.qk_bias)
    yield Item(f"{arch}.embedding_scale", "FLOAT64", config.embedding_scale)
    yield Item(f"{arch}.state_init", "STRING", recurrence.initial_state)
    yield Item(f"{arch}.state_init_std", "FLOAT64", recurrence.initial_std)
    if recurrence.exit_threshold is not None:
        yield Item(f"{arch}.exit_threshold", "FLOAT64", recurrence.exit_threshold)


def read_family(file: GGUFFile) -> tuple[str, Family]:
    """Return the family of a file by its name in rdlite; raises GGUFError."""
    found = file.value(ARCHITECTURE, str)
    for name, family in FAMILIES.items():
        if architecture(name) == found:
            return name, family
    known = ", ".join(map(architecture, FAMILIES))
    raise file.fail(
        f"the key {ARCHITECTURE!r} is {found!r:.60}; rdlite runs the looped architectures {known}, "
        "and llama.cpp runs others"
    )


def read_config(file: GGUFFile) -> ModelConfig:
    """Return a file's sizes and constants; raises GGUFError."""
    name, family = read_family(file)
    with file.blame(f"the keys of {architecture(name)!r}"):
        return _read_config(file, name, family)


def _read_config(file: GGUFFile, name: str, family: Family) -> ModelConfig:
    arch, defaults = architecture(name), family.GGUF_DEFAULTS

    def whole(key: str, default: int | None = None) -> int:
        value: int = file.value(f"{arch}.{key}", int, defaults.get(key, default))
        return value

    def number(key: str, default: float | None = None) -> float:
        value = file.value(f"{arch}.{key}", float, defaults.get(key, default))
        return float(str(np.float32(value))) if _is_single(value) else float(value)

    def has(key: str) -> bool:
        return f"{arch}.{key}" in file.metadata or key in defaults

    heads, width = whole("attention.head_count"), whole("embedding_length")
    size = whole("attention.key_length", width // max(heads, 1))
    for key in ("attention.value_length", "rope.dimension_count"):
        if whole(key, size) != size:
            raise file.fail(f"the key '{arch}.{key}' is {whole(key)}, the heads have {size}")
    skips = file.value(f"{arch}.skip_loop_final_norm", bool, False)
    if skips and "skip_loop_final_norm" not in defaults:
        raise file.fail(f"the key '{arch}.skip_loop_final_norm' is true, which is not run")
    blocks, prelude = whole("block_count"), whole("prelude_block_count")
    coda = whole("coda_block_count")
    core = whole("recurrent_block_count", blocks - prelude - coda)
    if prelude + core + coda != blocks:
        raise file.fail(
            f"the key '{arch}.block_count' is {blocks}, but prelude, recurrent and coda blocks are "
            f"{prelude}, {core} and {coda}"
        )
    steps = whole("mean_recurrence" if has("mean_recurrence") else "num_loops")
    most = whole("max_recurrence") if has("max_recurrence") else None
    if most == 0:  # as deep as it was trained
        most = steps
    threshold: float | None = None
    if has("exit_threshold"):
        threshold = file.value(f"{arch}.exit_threshold", float)
    embedding = file.tensors.get("token_embd.weight")
    rows = embedding.shape[0] if embedding is not None else None
    return ModelConfig(
        family=name,
        vocab_size=whole("vocab_size", rows),
        hidden_size=width,
        intermediate_size=whole("feed_forward_length"),
        num_attention_heads=heads,
        num_key_value_heads=whole("attention.head_count_kv", heads),
        head_dim=size,
        context_length=whole("context_length"),
        norm_eps=number("attention.layer_norm_rms_epsilon"),
        embedding_scale=number("embedding_scale"),
        qk_bias=file.value(f"{arch}.attention.qk_bias", bool, False),
        tied_embedding="output.weight" not in file.tensors,
        layers=LayerCounts(prelude, core, coda),
        rotary=Rotary(
            number("rope.freq_base"),
            file.value(f"{arch}.rope.interleaved", bool, False),
            _read_scaling(file, arch, number),
        ),
        recurrence=Recurrence(
            file.value(f"{arch}.state_init", str, defaults.get("state_init")),
            number("state_init_std"),
            steps,
            most,
            threshold,
            not skips,
        ),
    )


def _is_single(value: float) -> bool:
    """Whether a float32 says all of it; then its shortest decimals are what was meant."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        return float(np.float32(value)) == value


def _read_scaling(file: GGUFFile, arch: str, number: Any) -> RotaryScaling | None:
    kind = file.value(f"{arch}.rope.scaling.type", str, "none")
    if kind == "none":
        return None
    if kind != LLAMA3:
        raise file.fail(
            f"the key '{arch}.rope.scaling.type' is {kind!r:.40}, known are none and {LLAMA3}"
        )
    return RotaryScaling(
        number("rope.scaling.factor"),
        number("rope.scaling.low_freq_factor"),
        number("rope.scaling.high_freq_factor"),
        file.value(f"{arch}.rope.scaling.original_context_length", int),
    )


#: Files of a bundle that go along as they are.
CARRIED = {"generation_config.json": "rdlite.generation_config", "README.md": "rdlite.readme"}
