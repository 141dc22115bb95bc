"""Makes a checkpoint with random weights in the hub's format: for trying, tests and benchmarks.

    python -m rdlite.export.random_checkpoint FOLDER --width 128 --heads 4

It has what Huginn-0125 has on the hub (config, safetensors, tokenizer, chat template, generation
config), with a byte-level tokenizer. Its answers are noise.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import ml_dtypes
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from rdlite.graphs.builder import Weights

SPECIAL_TOKENS = (
    "<|begin_text|>",
    "<|end_text|>",
    "<|begin_header|>",
    "<|end_header|>",
    "<|end_turn|>",
    "<|pad|>",
)
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- set role = "Huginn" if message["role"] == "assistant" else message["role"] -%}
{{- "<|begin_header|>" ~ role ~ "<|end_header|>\\n\\n" -}}
{%- if message["role"] == "assistant" -%}
{%- generation -%}{{- message["content"] | trim ~ "<|end_turn|>" -}}{%- endgeneration -%}
{%- else -%}
{{- message["content"] | trim ~ "<|end_turn|>" -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- "<|begin_header|>Huginn<|end_header|>\\n\\n" -}}
{%- endif -%}
"""
DTYPES: dict[str, tuple[npt.DTypeLike, str]] = {
    "float32": (np.float32, "F32"),
    "float16": (np.float16, "F16"),
    "bfloat16": (ml_dtypes.bfloat16, "BF16"),
}


def hub_config(
    width: int,
    heads: int,
    inner: int,
    vocabulary: int,
    context: int,
    mean_steps: int,
    layers: tuple[int, int, int] = (2, 4, 2),
) -> dict[str, Any]:
    """Return a config.json with the keys that Huginn-0125's has."""
    std = math.sqrt(2 / (5 * width))
    return {
        "model_type": "huginn_raven",
        "architectures": ["RavenForCausalLM"],
        "architecture_class_name": "RecurrentGPT",
        "block_class_name": "SandwichBlock",
        "norm_class_name": "RMSNorm_llama",
        "mlp_class_name": "GatedMLP",
        "nonlin_name": "SiLU",
        "injection_type": "linear",
        "state_init": "like-init",
        "init_strategy": "takase",
        "bias": False,
        "qk_bias": True,
        "tie_embeddings": True,
        "n_embd": width,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": width // heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "padded_vocab_size": vocabulary,
        "block_size": context,
        "n_layers_in_prelude": layers[0],
        "n_layers_in_recurrent_block": layers[1],
        "n_layers_in_coda": layers[2],
        "mean_recurrence": mean_steps,
        "norm_eps": 1e-6,
        "rope_base": 50000,
        "init_values": {"std": std, "embedding": std, "embed_scale": math.sqrt(width)},
        "torch_dtype": "float32",
    }


def tensor_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of a Huginn checkpoint's tensors, as on the hub."""
    width, inner = config["n_embd"], config["intermediate_size"]
    yield "transformer.wte.weight", (config["padded_vocab_size"], width)
    yield "transformer.adapter.weight", (width, 2 * width)
    yield "transformer.ln_f.weight", (width,)
    for part, key in (
        ("prelude", "n_layers_in_prelude"),
        ("core_block", "n_layers_in_recurrent_block"),
        ("coda", "n_layers_in_coda"),
    ):
        for i in range(config[key]):
            block = f"transformer.{part}.{i}"
            for n in (1, 2, 3, 4):
                yield f"{block}.norm_{n}.weight", (width,)
            heads = config["num_attention_heads"]
            yield f"{block}.attn.qk_bias", (2, 1, heads, width // heads)
            yield f"{block}.attn.Wqkv.weight", (3 * width, width)
            yield f"{block}.attn.proj.weight", (width, width)
            yield f"{block}.mlp.fc.weight", (2 * inner, width)
            yield f"{block}.mlp.proj.weight", (width, inner)


def tensor_shapes_of(weights: "Weights") -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the tensors that a family's weights are made of.

    Where several make one weight, each has as many of its rows, unless the weight says otherwise.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for weight in weights.values():
        rows, *rest = weight.source_shape or weight.shape
        count = len(weight.sources)
        each = weight.source_rows or (rows // max(count, 1),) * count
        shapes |= {source: (n, *rest) for source, n in zip(weight.sources, each, strict=True)}
    return shapes


def write_random_checkpoint(
    folder: str | Path,
    config: dict[str, Any],
    dtype: str = "float32",
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    drawn: int | None = None,
) -> Path:
    """Write a checkpoint folder, one tensor at a time; returns its path.

    Args:
        folder: made if missing; its files are overwritten.
        config: what `hub_config` returns, or another family's; the vocabulary must hold 262 tokens
            or more.
        dtype: "float32", "float16" or "bfloat16".
        seed: the same seed gives the same files.
        shapes: of the tensors; None: those of Huginn.
        drawn: numbers of a tensor that are drawn, and then repeated; None: all of them.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    kind, name = DTYPES[dtype]
    shapes = dict(tensor_shapes(config)) if shapes is None else shapes
    header, end = {}, 0
    for key, shape in shapes.items():
        size = math.prod(shape) * np.dtype(kind).itemsize
        header[key] = {"dtype": name, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key, shape in shapes.items():
            size = math.prod(shape)
            some = (size,) if drawn is None else (min(size, drawn),)
            values = _random_tensor(rng, key, some, config).astype(kind)
            for first in range(0, size, len(values)):
                values[: size - first].tofile(file)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    write_text_files(folder, byte_tokenizer())
    return folder


def _random_tensor(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], config: dict[str, Any]
) -> npt.NDArray[np.float32]:
    values = rng.standard_normal(shape, np.float32)
    if "norm" in name or "ln_f" in name:
        return 1 + np.float32(0.1) * values
    if name.endswith("qk_bias"):
        return np.float32(0.1) * values
    values *= np.float32(config["init_values"]["std"] if "init_values" in config else 0.02)
    return values


def byte_tokenizer() -> "Tokenizer":
    """Return a tokenizer of bytes and the special tokens, without merges."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    return tokenizer


def write_text_files(folder: Path, tokenizer: "Tokenizer", temperature: float = 0.7) -> None:
    """Write tokenizer, chat template and generation config as Huginn-0125 has them.

    Args:
        folder: an existing folder.
        tokenizer: has SPECIAL_TOKENS.
        temperature: of the model's own sampling; 0 is greedy.
    """
    tokenizer.save(str(folder / "tokenizer.json"))
    bos, eos, end_turn = map(
        tokenizer.token_to_id, ("<|begin_text|>", "<|end_text|>", "<|end_turn|>")
    )
    _write_json(
        folder / "tokenizer_config.json",
        {
            "bos_token": "<|begin_text|>",
            "eos_token": "<|end_text|>",
            "pad_token": "<|pad|>",
            "chat_template": CHAT_TEMPLATE,
        },
    )
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {}
    _write_json(
        folder / "generation_config.json",
        {"bos_token_id": bos, "eos_token_id": [bos, eos, end_turn], **sampling},
    )


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1))


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--width", default=128, show_default=True, type=click.IntRange(4, 2**17))
@click.option("--heads", default=4, show_default=True, type=click.IntRange(1, 4096))
@click.option("--inner", default=384, show_default=True, type=click.IntRange(1, 2**19))
@click.option("--vocabulary", default=288, show_default=True, type=click.IntRange(262, 2**22))
@click.option("--context", default=1024, show_default=True, type=click.IntRange(1, 2**22))
@click.option("--steps", default=8, show_default=True, type=click.IntRange(1, 1024))
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(list(DTYPES)))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
def main(
    folder: Path,
    width: int,
    heads: int,
    inner: int,
    vocabulary: int,
    context: int,
    steps: int,
    dtype: str,
    seed: int,
) -> None:
    """Write a random checkpoint."""
    if width % heads or (width // heads) % 8:
        raise click.UsageError("width must be heads times a multiple of 8")
    config = hub_config(width, heads, inner, vocabulary, context, steps)
    write_random_checkpoint(folder, config, dtype, seed)
    click.echo(f"{folder}: random weights, {width} wide; 'rdlite export' makes a bundle of it")


if __name__ == "__main__":
    main()
