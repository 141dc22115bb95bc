"""Checkpoints that other tools quantized: read where the numbers are exact, else refused by name.

Read are float8 and int8 weights with scales (one for a tensor, a row or a block), and mlx's affine
groups. What is yielded is the stored number times its scale, in float32.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from rdlite.errors import CheckpointError

from .safetensors import DTYPES, PIECE_BYTES, Checkpoint, Floats, StoredTensor

KEYS = ("quantization_config", "quantization", "compression_config")
#: Methods of transformers' quantization_config, and who writes them.
TOOLS = {
    "aqlm": "AQLM",
    "auto-round": "AutoRound",
    "awq": "AWQ",
    "bitnet": "BitNet",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors (llm-compressor)",
    "eetq": "EETQ",
    "exl2": "ExLlamaV2",
    "exl3": "ExLlamaV3",
    "fbgemm_fp8": "FBGEMM (fp8)",
    "fp8": "fp8",
    "gptq": "GPTQ",
    "higgs": "HIGGS",
    "hqq": "HQQ",
    "mlx": "mlx",
    "modelopt": "ModelOpt",
    "mxfp4": "MXFP4",
    "mxfp8": "MXFP8",
    "quanto": "Quanto",
    "quark": "Quark",
    "spqr": "SpQR",
    "torchao": "torchao",
    "vptq": "VPTQ",
}
#: Ends of tensors' names that only one tool's checkpoints have, for configs that keep silent.
MARKS = {
    ".qweight": "gptq",
    ".weight.absmax": "bitsandbytes",
    ".SCB": "bitsandbytes",
    ".weight_packed": "compressed-tensors",
    ".W_q": "hqq",
    ".trellis": "exl3",
    ".q_weight": "exl2",
}
SCALED = ("F8_E4M3", "F8_E5M2", "I8")
SCALES = ("_scale_inv", "_scale")
#: Scales of activations and caches, which are not rounded here.
UNUSED = (".input_scale", ".output_scale", ".k_scale", ".v_scale", ".activation_scale")
BITS = (2, 3, 4, 5, 6, 8)


def decoded(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with float tensors alone; the same one if nobody quantized it.

    Raises:
        CheckpointError: it is quantized in a way that is not read; the message names the tool and
            the way out.
    """
    config = checkpoint.config
    said = next((config[key] for key in KEYS if isinstance(config.get(key), Mapping)), None)
    method = _method(checkpoint, said)
    if method is None:
        return checkpoint
    if said is None:
        said = {}
    tensors = dict(checkpoint.tensors)
    if method == "mlx":
        found = _affine_groups(checkpoint, said, tensors)
    else:
        found = _scaled(checkpoint, said, tensors)
        tensors = {name: t for name, t in tensors.items() if not name.endswith(UNUSED)}
    if any(name.endswith(tuple(MARKS)) for name in tensors):
        raise _refused(checkpoint, method, said)
    if not found:
        if any(not tensor.dtype.startswith(("F", "BF")) for tensor in tensors.values()):
            raise _refused(checkpoint, method, said)
        raise CheckpointError(
            f"{checkpoint.folder}: config.json says that {_tool(method)} quantized it"
            f"{_details(said)}, but no tensor is quantized; take config.json and weights of one "
            "revision, or, if the weights are meant to be whole, config.json without "
            f"{' and '.join(key for key in KEYS if key in config)}"
        )
    plain = {key: value for key, value in config.items() if key not in KEYS}
    return Checkpoint(checkpoint.folder, plain, tensors)


def _method(checkpoint: Checkpoint, said: Mapping[str, Any] | None) -> str | None:
    """Return who quantized a checkpoint, by its config or its tensors; None: nobody."""
    if said is not None:
        method = said.get("quant_method")
        if isinstance(method, str):
            return method.lower()
        if "group_size" in said and ("mode" in said or "bits" in said):
            return "mlx"
        return "compressed-tensors" if "config_groups" in said else "a tool that does not say"
    for name, tensor in checkpoint.tensors.items():
        for mark, method in MARKS.items():
            if name.endswith(mark):
                return method
        if tensor.dtype in SCALED and any(name + end in checkpoint.tensors for end in SCALES):
            return "fp8" if tensor.dtype != "I8" else "compressed-tensors"
        if tensor.dtype == "U32" and name.removesuffix("weight") + "scales" in checkpoint.tensors:
            return "mlx"
    return None


def _tool(method: str) -> str:
    return TOOLS.get(method, method[:40])


def _details(said: Mapping[str, Any]) -> str:
    bits, group = said.get("bits"), said.get("group_size")
    told = [f"{bits} bits"] if type(bits) is int else []
    told += [f"groups of {group}"] if type(group) is int and group > 0 else []
    told += [str(said[key])[:20] for key in ("mode", "format", "quant_algo") if key in said]
    return f" ({', '.join(told)})" if told else ""


def _refused(checkpoint: Checkpoint, method: str, said: Mapping[str, Any]) -> CheckpointError:
    card = (checkpoint.read_file("README.md") or b"").decode(errors="replace")
    base = re.search(r"^base_model:\s*(?:\n\s*- *)?[\"']?([\w.-]+/[\w.-]+)", card, re.MULTILINE)
    made_from = f", {base[1]}," if base else ""
    return CheckpointError(
        f"{checkpoint.folder} was quantized by {_tool(method)}{_details(said)}, which is not read; "
        f"export the checkpoint that it was made from{made_from} and quantize that: "
        "'rdlite export --quant int4'"
    )


def _scaled(
    checkpoint: Checkpoint, said: Mapping[str, Any], tensors: dict[str, StoredTensor]
) -> bool:
    """Replace weights that have scales; returns whether there are any."""
    found = False
    for name, tensor in list(tensors.items()):
        if tensor.dtype not in SCALED:
            continue
        end = next((end for end in SCALES if name + end in tensors), None)
        if end is None or name + "_zero_point" in tensors:
            raise CheckpointError(
                f"tensor {name!r} is {tensor.dtype} "
                f"{'with a zero point' if end else 'without a scale'}, which is not read; export "
                "the checkpoint that it was quantized from"
            )
        scale = checkpoint.read(name + end)
        rows, columns = tensor.shape if len(tensor.shape) == 2 else (1, math.prod(tensor.shape))
        blocks = _block_size(said, scale, rows, columns)
        if blocks is None:
            raise CheckpointError(
                f"tensor {name + end!r} has the shape {list(scale.shape)}, which does not fit "
                f"{name!r} {list(tensor.shape)}: scales are read for a tensor, its rows or blocks"
            )
        tensors[name] = replace(tensor, dtype="F32", decode=_scaled_rows(tensor, scale, blocks))
        del tensors[name + end]
        found = True
    return found


def _block_size(
    said: Mapping[str, Any], scale: Floats, rows: int, columns: int
) -> tuple[int, int] | None:
    """Return the rows and columns that share a scale; None if the shapes do not fit."""
    if scale.size == 1:
        return rows, columns
    if scale.shape in ((rows, 1), (rows,)):
        return 1, columns
    given = said.get("weight_block_size")
    if not isinstance(given, list):
        groups = said.get("config_groups")
        group = next(iter(groups.values()), None) if isinstance(groups, Mapping) and groups else {}
        weights = group.get("weights") if isinstance(group, Mapping) else {}
        given = weights.get("block_structure") if isinstance(weights, Mapping) else None
    high, wide = given if isinstance(given, list) and len(given) == 2 else (128, 128)
    if type(high) is not int or type(wide) is not int or min(high, wide) < 1:
        return None
    fits = scale.shape == (-(-rows // high), -(-columns // wide))
    return (high, wide) if fits else None


def _scaled_rows(tensor: StoredTensor, scale: Floats, block: tuple[int, int]) -> Any:
    rows, columns = tensor.shape if len(tensor.shape) == 2 else (1, math.prod(tensor.shape))
    table = scale.reshape(-1, 1) if block[0] != rows and scale.ndim == 1 else scale
    table = table.reshape(-(-rows // block[0]), -(-columns // block[1]))
    dtype = np.dtype(np.int8 if tensor.dtype == "I8" else DTYPES[tensor.dtype])

    def pieces() -> Iterator[Floats]:
        step = max(1, PIECE_BYTES // max(1, 4 * columns))
        for first in range(0, rows, step):
            last = min(first + step, rows)
            stored = tensor.rows(dtype, first, last, columns).astype(np.float32)
            scales = np.repeat(table, block[1], axis=1)[:, :columns] if block[1] > 1 else table
            yield (stored * scales[np.arange(first, last) // block[0]]).reshape(-1)

    return pieces


def _affine_groups(
    checkpoint: Checkpoint, said: Mapping[str, Any], tensors: dict[str, StoredTensor]
) -> bool:
    """Replace mlx's packed weights; returns whether there are any."""
    found = False
    for name, tensor in list(tensors.items()):
        base = name.removesuffix(".weight")
        if f"{base}.scales" not in tensors or tensor.dtype != "U32":
            continue
        own = said.get(base)
        settings = own if isinstance(own, Mapping) else said
        bits, group = settings.get("bits"), settings.get("group_size")
        mode = settings.get("mode", said.get("mode", "affine"))
        if mode != "affine" or f"{base}.biases" not in tensors:
            raise _refused(checkpoint, "mlx", {**said, "mode": mode})
        scales, biases = checkpoint.read(f"{base}.scales"), checkpoint.read(f"{base}.biases")
        if bits not in BITS or type(group) is not int or len(tensor.shape) != 2:
            raise CheckpointError(
                f"config.json: quantization gives {base!r} {bits!r:.20} bits in groups of "
                f"{group!r:.20}; mlx writes {', '.join(map(str, BITS))} bits"
            )
        rows, words = tensor.shape
        columns = words * 32 // bits
        if columns * bits != words * 32 or scales.shape != (rows, columns // group):
            raise CheckpointError(
                f"tensor {name!r} has the shape {list(tensor.shape)} and scales "
                f"{list(scales.shape)}, which are not of {bits} bits in groups of {group}: take "
                "config.json and weights of one revision"
            )
        if biases.shape != scales.shape or columns % group:
            raise CheckpointError(f"tensor {base}.biases does not have the shape of its scales")
        tensors[name] = replace(
            tensor,
            dtype="F32",
            shape=(rows, columns),
            decode=_affine_rows(tensor, scales, biases, bits, group),
        )
        del tensors[f"{base}.scales"], tensors[f"{base}.biases"]
        found = True
    return found


def _affine_rows(
    tensor: StoredTensor, scales: Floats, biases: Floats, bits: int, group: int
) -> Any:
    rows, words = tensor.shape
    columns = words * 32 // bits

    def pieces() -> Iterator[Floats]:
        step = max(1, PIECE_BYTES // (32 * columns))
        for first in range(0, rows, step):
            last = min(first + step, rows)
            packed = tensor.rows(np.dtype(np.uint8), first, last, 4 * words)
            # The numbers of a row are one stream of bits, the lowest of each first.
            stream = np.unpackbits(packed, axis=1, bitorder="little")
            number = stream.reshape(last - first, columns, bits) @ (1 << np.arange(bits))
            grouped = number.astype(np.float32).reshape(last - first, -1, group)
            low = biases[first:last, :, None]
            yield (grouped * scales[first:last, :, None] + low).reshape(-1)

    return pieces
