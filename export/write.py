"""Writes a bundle: weights one tensor at a time, all into a temporary folder, then renamed."""

import contextlib
import dataclasses
import glob
import math
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from rdlite.bundle import MANIFEST, FileEntry, Manifest
from rdlite.bundle_write import HashingFile, sync_folder, write_bytes
from rdlite.errors import OutputError
from rdlite.progress import Progress, meter
from rdlite.quantization import Quantization

from .blocks import Weight, Weights
from .graphs import Graphs
from .packing import Codes, Quantizer, Scales, check_largest, pack
from .sources import WeightSource, in_rows

ALIGNMENT = 64


@contextlib.contextmanager
def new_folder(out: Path, force: bool) -> Iterator[Path]:
    """Give a temporary sibling of `out` that takes its place when the block ends well.

    A killed process leaves at most a hidden `.NAME.partial-PID`; `out` is whole or not there.

    Raises:
        OutputError: `out` exists and `force` is false, or it is no bundle that may be replaced,
            or the disk is full or not writable.
    """
    clear_leftovers(out)
    check_replaceable(out, force)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        sync_folder(partial)
        _swap(partial, out)
        sync_folder(out.parent)
    except OSError as problem:
        raise OutputError(f"cannot write {out}: {problem.strerror or problem}") from problem
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """Give a folder for what is needed until `out` is written, on the same disk.

    What a killed process leaves of it is removed by the next one for `out`. Raises OutputError if
    it cannot be made, because then `out` cannot be written either.
    """
    out = out.absolute()
    parent = next(parent for parent in (*out.parents, out) if os.path.lexists(parent))
    clear_leftovers(parent / out.name)
    work = parent / f".{out.name}.work-{os.getpid()}"
    try:
        work.mkdir()
    except OSError as problem:
        raise OutputError(f"cannot write {out}: {problem.strerror}") from None
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_replaceable(out: Path, force: bool, source: Path | None = None) -> None:
    """Raise OutputError unless `out` is new or empty, or a bundle that `force` lets us replace.

    A bundle that is, or holds, the folder `source` that is read from may not be replaced.
    """
    if not os.path.lexists(out):
        return
    if source is not None and out.resolve() in (source.resolve(), *source.resolve().parents):
        raise OutputError(f"{out} holds what is to be read, {source}; give another name")
    folder = stat.S_ISDIR(out.lstat().st_mode)
    if folder and not any(out.iterdir()):
        return
    if not (folder and (out / MANIFEST).is_file()):
        raise OutputError(f"{out} exists and is not a bundle; give another name")
    if not force:
        raise OutputError(f"{out} exists; give another name, or --force to replace it")


def clear_leftovers(out: Path) -> None:
    """Clear away what exports to `out` left when they were killed; an old bundle goes back."""
    for kind in ("old", "partial", "work"):
        for left in out.parent.glob(f".{glob.escape(out.name)}.{kind}-*"):
            pid = left.name.rpartition("-")[2]
            if not pid.isdecimal() or _is_running(int(pid)):
                continue
            if kind == "old" and not os.path.lexists(out):
                left.rename(out)  # killed between the two renames of a replacement
            elif left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # there, asking would end the process
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _swap(partial: Path, out: Path) -> None:
    if not os.path.lexists(out):
        partial.rename(out)
        return
    old = out.parent / f".{out.name}.old-{os.getpid()}"
    out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Storage:
    """How weights are stored: which of them are quantized, and by what.

    Without a quantizer the weights are quantized already, and are taken as they are. `factors` are
    for vectors that are not: what to multiply each with, of its shape.
    """

    quantization: Quantization
    quantizer: Quantizer | None
    factors: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def coded(
        self, name: str, columns: int, source: WeightSource
    ) -> Iterator[tuple[Codes, Scales]]:
        """Yield the integers and scales of a quantized weight [N, K], some rows at a time."""
        if self.quantizer is None:
            yield from source.coded(name)
            return
        bits, block_size = self.quantization.bits[name], self.quantization.block_size
        largest = 0.0
        for rows in in_rows(source.pieces(name), columns):
            largest = max(largest, float(np.abs(rows).max()))
            check_largest(name, largest, bits)
            yield self.quantizer.quantize(name, rows, bits, block_size)
        check_largest(name, largest, bits, whole=True)


def write_graphs(
    folder: Path,
    graphs: Graphs,
    weights: Weights,
    source: WeightSource,
    storage: Storage | None = None,
    progress: Progress | None = None,
) -> dict[str, FileEntry]:
    """Write the three graphs and their external data; returns the entries of all files.

    A weight that several graphs use is stored once, in shared.onnx.data.
    """
    files: dict[str, list[str]] = {}
    for name, parts in _users(graphs, weights).items():
        owner = parts[0] if len(parts) == 1 else "shared"
        files.setdefault(f"{owner}.onnx.data", []).append(name)
    total = sum(4 * math.prod(weights[name].shape) for names in files.values() for name in names)
    advance = meter(total, progress)
    entries: dict[str, FileEntry] = {}
    places: dict[str, tuple[str, int]] = {}
    for data_file, names in files.items():
        with HashingFile(folder / data_file) as file:
            for name in names:
                for tensor, data in _stored(name, weights[name], source, storage, advance):
                    if tensor not in places:
                        file.write(b"\0" * (-file.size % ALIGNMENT))
                        places[tensor] = (data_file, file.size)
                    file.write(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)
            entries[data_file] = file.close()
    for part, graph in serialize(graphs, places).items():
        entries[f"{part}.onnx"] = write_bytes(folder, f"{part}.onnx", graph)
    return entries


def serialize(graphs: Graphs, places: Mapping[str, tuple[str, int]]) -> dict[str, bytes]:
    """Return the graphs as files, with weights at places: name -> file, offset."""
    result = {}
    for part, model in graphs.items():
        for name, value in model.graph.initializers.items():
            if name in places:
                value.const_value = _external(value, *places[name])
        proto = ir.serde.serialize_model(model)
        del proto.graph.value_info[:]  # says again what the initializers say
        result[part] = proto.SerializeToString(deterministic=True)
    return result


def _users(graphs: Graphs, weights: Weights) -> dict[str, list[str]]:
    """Name of every weight without data -> the parts that use it."""
    users: dict[str, list[str]] = {}
    for part, model in graphs.items():
        for name, value in model.graph.initializers.items():
            if value.const_value is None:
                # A quantized one is two initializers.
                weight = name if name in weights else name.rpartition(".")[0]
                parts = users.setdefault(weight, [])
                if part not in parts:
                    parts.append(part)
    return users


def _stored(
    name: str,
    weight: Weight,
    source: WeightSource,
    storage: Storage | None,
    advance: Callable[[int], None],
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield the name and the next data of the tensors that a weight is stored as."""
    bits = storage.quantization.bits.get(name) if storage else None
    if storage is None or bits is None:
        factor = storage.factors.get(name) if storage else None
        for piece in source.pieces(name):  # a vector is one piece
            yield name, np.asarray(piece if factor is None else piece * factor, "<f4")
            advance(piece.nbytes)
        return
    scales = []
    for codes, scale in storage.coded(name, weight.shape[1], source):
        yield f"{name}.packed", pack(codes, bits)
        scales.append(scale)
        advance(4 * len(codes) * weight.shape[1])
    yield f"{name}.scales", np.asarray(np.concatenate(scales), "<f2")


def _external(value: ir.Value, file: str, offset: int) -> ir.ExternalTensor:
    dtype, shape, name = value.dtype, value.shape, value.name
    assert dtype
    assert shape
    assert name
    size = int(math.prod(shape.numpy()) * dtype.itemsize)
    return ir.ExternalTensor(file, offset, size, dtype, shape=shape, name=name)


def with_files(manifest: Manifest, entries: dict[str, FileEntry]) -> Manifest:
    """Return `manifest` listing `entries`."""
    return dataclasses.replace(manifest, files=dict(sorted(entries.items())))
