"""Writes a bundle: weights one tensor at a time, all into a temporary folder, then renamed."""

import contextlib
import dataclasses
import glob
import math
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from rdlite.bundle import MANIFEST, FileEntry, Manifest
from rdlite.bundle_write import HashingFile, sync_folder, write_bytes
from rdlite.errors import OutputError
from rdlite.progress import Progress, meter

from .blocks import Weight, Weights
from .graphs import Graphs

ALIGNMENT = 64
Floats = npt.NDArray[np.float32]


class TensorSource(Protocol):
    """Where weights come from: a checkpoint, or another bundle."""

    def pieces(self, name: str) -> Iterator[Floats]:
        """Yield a tensor flat and in order, in pieces that fit in memory."""

    def read(self, name: str) -> Floats:
        """Return a small tensor whole, in its own shape."""


@contextlib.contextmanager
def new_folder(out: Path, force: bool) -> Iterator[Path]:
    """Give a temporary sibling of `out` that takes its place when the block ends well.

    A killed process leaves at most a hidden `.NAME.partial-PID`; `out` is whole or not there.

    Raises:
        OutputError: `out` exists and `force` is false, or it is no bundle that may be replaced,
            or the disk is full or not writable.
    """
    _clear_leftovers(out)
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


def check_replaceable(out: Path, force: bool) -> None:
    """Raise OutputError unless `out` is new or empty, or a bundle that `force` lets us replace."""
    if not os.path.lexists(out):
        return
    folder = stat.S_ISDIR(out.lstat().st_mode)
    if folder and not any(out.iterdir()):
        return
    if not (folder and (out / MANIFEST).is_file()):
        raise OutputError(f"{out} exists and is not a bundle; give another name")
    if not force:
        raise OutputError(f"{out} exists; give another name, or --force to replace it")


def _clear_leftovers(out: Path) -> None:
    """Clear away what exports to `out` left when they were killed; an old bundle goes back."""
    for kind in ("old", "partial"):
        for left in out.parent.glob(f".{glob.escape(out.name)}.{kind}-*"):
            pid = left.name.rpartition("-")[2]
            if not pid.isdecimal() or _is_running(int(pid)):
                continue
            if kind == "old" and not os.path.lexists(out):
                left.rename(out)  # killed between the two renames of a replacement
            else:
                shutil.rmtree(left, ignore_errors=True)


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


def write_graphs(
    folder: Path,
    graphs: Graphs,
    weights: Weights,
    source: TensorSource,
    progress: Progress | None = None,
) -> dict[str, FileEntry]:
    """Write the three graphs and their external data; returns the entries of all files.

    A weight that several graphs use is stored once, in shared.onnx.data.
    """
    files: dict[str, list[str]] = {}
    for name, parts in _users(graphs).items():
        owner = parts[0] if len(parts) == 1 else "shared"
        files.setdefault(f"{owner}.onnx.data", []).append(name)
    total = sum(4 * math.prod(weights[name].shape) for names in files.values() for name in names)
    advance = meter(total, progress)
    entries: dict[str, FileEntry] = {}
    places: dict[str, tuple[str, int]] = {}
    for data_file, names in files.items():
        with HashingFile(folder / data_file) as file:
            for name in names:
                file.write(b"\0" * (-file.size % ALIGNMENT))
                places[name] = (data_file, file.size)
                for piece in _float_pieces(weights[name], source):
                    little = np.ascontiguousarray(piece, "<f4")
                    file.write(little.reshape(-1).view(np.uint8).data)
                    advance(piece.nbytes)
            entries[data_file] = file.close()
    for part, model in graphs.items():
        for name, value in model.graph.initializers.items():
            if name in places:
                value.const_value = _external(name, weights[name], *places[name])
        proto = ir.serde.serialize_model(model)
        del proto.graph.value_info[:]  # says again what the initializers say
        data = proto.SerializeToString(deterministic=True)
        entries[f"{part}.onnx"] = write_bytes(folder, f"{part}.onnx", data)
    return entries


def _users(graphs: Graphs) -> dict[str, list[str]]:
    """Name of every weight without data -> the parts that use it."""
    users: dict[str, list[str]] = {}
    for part, model in graphs.items():
        for name, value in model.graph.initializers.items():
            if value.const_value is None:
                users.setdefault(name, []).append(part)
    return users


def _float_pieces(weight: Weight, source: TensorSource) -> Iterator[Floats]:
    if weight.make is not None:
        yield weight.make(*(source.read(name) for name in weight.sources))
        return
    for name in weight.sources:
        yield from source.pieces(name)


def _external(name: str, weight: Weight, file: str, offset: int) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        file,
        offset,
        4 * math.prod(weight.shape),
        ir.DataType.FLOAT,
        shape=ir.Shape(weight.shape),
        name=name,
    )


def with_files(manifest: Manifest, entries: dict[str, FileEntry]) -> Manifest:
    """Return `manifest` listing `entries`."""
    return dataclasses.replace(manifest, files=dict(sorted(entries.items())))
