"""Writes a model as one GGUF file, each tensor once, in a hidden folder first."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from rdlite.bundle.writer import clear_leftovers
from rdlite.config.quantization import Quantization
from rdlite.errors import InputError, OutputError
from rdlite.gguf.block_layout import BLOCK, to_gguf, turn
from rdlite.gguf.block_layout import TYPES as STORED
from rdlite.gguf.header import MAGIC
from rdlite.gguf.tensor_names import Piece, architecture, pieces
from rdlite.utils.files import sync_folder
from rdlite.utils.progress import Progress, meter
from rdlite.weights.source_model import SourceModel
from rdlite.weights.storage import Storage

from .gguf_items import add_item, metadata_items

if TYPE_CHECKING:
    import gguf

#: What a matrix may be stored as: the option's word -> GGML's name.
TYPES = {kind.lower(): kind for kind in ("Q4_0", "Q4_1", "Q8_0", "F16", "BF16", "F32")}
#: Types that need a scheme to choose integers and scales, and the bits of a weight.
QUANTIZED = {kind.lower(): bits for bits, kind in STORED.items()}
#: llama.cpp's numbers of general.file_type; 1024: mixed.
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "BF16": 32}
MIXED = 1024


class _Plan(NamedTuple):
    """A weight, the tensors that it becomes, their type, and bytes of a row."""

    name: str
    parts: list[Piece]
    type: str
    row_bytes: int


def export_gguf(
    original: SourceModel,
    out: str | Path,
    kind: str | None = None,
    storage: Storage | None = None,
    *,
    licence: str | None = None,
    url: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a model as a GGUF file.

    Args:
        original: the model.
        out: the file to make, its name ending in .gguf. It appears whole or not at all.
        kind: a key of TYPES, what matrices are stored as; None: as they are.
        storage: how a scheme would quantize a model that is not quantized yet, to q4_0 or q8_0.
        licence: for general.license, an SPDX name; None: what the model's card begins with.
        url: for general.source.url, where the model comes from.
        force: replace `out` if it is a GGUF file already.
        progress: called with (weights written, weights in all), in numbers.

    Returns:
        The path of the file.

    Raises:
        InputError: the kind is none, or would quantize again what is quantized already.
        OutputError: `out` exists, or cannot be written.
    """
    out = Path(out)
    storage, kind = _storage(original, kind, storage)
    check_file(out, force)
    plans = list(_plans(original, kind, storage))
    import gguf

    clear_leftovers(out)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        writer = gguf.GGUFWriter(partial, architecture(original.config.family))
        try:
            kinds = {plan.type for plan in plans if len(plan.parts[0].shape) == 2}
            file_type = FILE_TYPES[kinds.pop()] if len(kinds) == 1 else MIXED
            for item in metadata_items(original, file_type, storage, licence, url):
                add_item(writer, item)
            for plan in plans:
                for part in plan.parts:
                    _announce(writer, plan, part)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            total = sum(math.prod(original.weights[plan.name].shape) for plan in plans)
            advance = meter(total, progress)
            for plan in plans:
                _write(writer, original, plan, storage)
                advance(math.prod(original.weights[plan.name].shape))
            writer.flush()
        finally:
            writer.close()
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(out)
        sync_folder(out.absolute().parent)
    except OSError as problem:
        raise OutputError(f"cannot write {out}: {problem.strerror or problem}") from None
    finally:
        partial.unlink(missing_ok=True)
    return out


def check_file(out: Path, force: bool) -> None:
    """Raise OutputError unless `out` is new, or a GGUF file that `force` lets us replace."""
    if out.suffix != ".gguf":
        raise OutputError(f"{out} must end in .gguf, so that rdlite can tell it from a bundle")
    if not os.path.lexists(out):
        return
    if not out.is_file():
        raise OutputError(f"{out} exists and is not a file; give another name")
    with out.open("rb") as file:
        if file.read(4) != MAGIC:
            raise OutputError(f"{out} exists and is not a GGUF file; give another name")
    if not force:
        raise OutputError(f"{out} exists; give another name, or --force to replace it")


def check_kind(kind: str | None) -> None:
    """Raise InputError unless this is a key of TYPES, or None."""
    if kind is not None and kind not in TYPES:
        raise InputError(f"type must be one of {', '.join(TYPES)}, got {kind!r:.40}")


def _check_blocks(quantization: Quantization) -> None:
    other = {quantization.block_of(name) for name in quantization.bits} - {BLOCK}
    if other:
        raise InputError(
            f"the weights share a scale in blocks of {max(other)}, GGUF's in blocks of "
            f"{BLOCK}; quantize the model again with --block-size {BLOCK}"
        )


def _storage(
    original: SourceModel, kind: str | None, storage: Storage | None
) -> tuple[Storage | None, str]:
    """Return how matrices are quantized, and the kind of those that are not; raises InputError."""
    check_kind(kind)
    stored = original.quantization
    if stored is None:
        if kind not in QUANTIZED:
            return None, kind or "f32"
        if storage is None:
            raise InputError(f"{kind} needs a scheme that chooses integers and scales")
        _check_blocks(storage.quantization)
        return storage, "f32"
    _check_blocks(stored)
    found = {STORED[bits].lower() for bits in stored.bits.values()}
    if kind is not None and {kind} != found:
        raise InputError(
            f"the weights are {' and '.join(sorted(found))} already; {kind} would round them "
            "again. Leave --type out, or start from the checkpoint that they were made from"
        )
    return Storage(stored, None), "f32"


def _plans(original: SourceModel, kind: str, storage: Storage | None) -> Iterator[_Plan]:
    import gguf

    bits = storage.quantization.bits if storage else {}
    for name, parts in pieces(original.family, original.config, original.weights).items():
        shape = original.weights[name].shape
        type_name = "F32"
        if name in bits:
            type_name = STORED[bits[name]]
        elif len(shape) == 2:
            type_name = TYPES[kind]
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]]
        if shape[-1] % block:
            if name in bits:
                raise InputError(
                    f"{name} has rows of {shape[-1]}, which are not whole blocks of {block}; GGUF "
                    "cannot store them"
                )
            type_name, block, size = "F32", 1, 4
        yield _Plan(name, parts, type_name, shape[-1] // block * size)


def _announce(writer: "gguf.GGUFWriter", plan: _Plan, part: Piece) -> None:
    import gguf

    kind = gguf.GGMLQuantizationType[plan.type]
    size = plan.row_bytes * (part.shape[0] if len(part.shape) == 2 else 1)
    writer.add_tensor_info(part.name, part.shape, np.dtype(np.float32), size, kind)


def _write(
    writer: "gguf.GGUFWriter", original: SourceModel, plan: _Plan, storage: Storage | None
) -> None:
    """Write the tensors of a weight, one after the other."""
    rows = _rows(original, plan, storage)
    at = 0
    for part in plan.parts:
        count = part.shape[0] if len(part.shape) == 2 else 1
        piece = rows[at : at + count]
        writer.write_tensor_data(turn(piece, part.heads) if part.heads else piece)
        at += count


def _rows(original: SourceModel, plan: _Plan, storage: Storage | None) -> npt.NDArray[np.uint8]:
    """Return a weight's rows as GGUF stores them: uint8 [N, bytes of a row]."""
    shape = original.weights[plan.name].shape
    count = shape[0] if len(shape) == 2 else 1
    result, at = np.empty((count, plan.row_bytes), np.uint8), 0
    for rows in _groups(original, plan, storage):
        result[at : at + len(rows)] = rows
        at += len(rows)
    return result


def _groups(
    original: SourceModel, plan: _Plan, storage: Storage | None
) -> Iterator[npt.NDArray[np.uint8]]:
    import gguf

    from rdlite.weights.source import in_rows

    shape, source = original.weights[plan.name].shape, original.source
    bits = storage.quantization.bits.get(plan.name) if storage else None
    if storage is not None and bits is not None:
        for codes, scales in storage.coded(plan.name, shape[1], source):
            yield to_gguf(codes, scales, bits)
        return
    kind = gguf.GGMLQuantizationType[plan.type]
    for rows in in_rows(source.pieces(plan.name), shape[-1]):
        encoded = gguf.quants.quantize(np.ascontiguousarray(rows), kind)
        yield np.ascontiguousarray(encoded).view(np.uint8).reshape(len(rows), -1)
