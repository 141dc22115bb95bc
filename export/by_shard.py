"""Makes a bundle shard by shard, in any order: what has been used of a checkpoint may be deleted.

Every tensor is written to the place that it will have. A journal beside the half-made bundle says
which ones are there for good, so that a process that was killed is gone on with by the next one.
The result is, byte for byte, what an export of the whole checkpoint writes.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.architectures.assemble import build_graphs
from rdlite.bundle.manifest import FileEntry
from rdlite.bundle.writer import write_bytes, write_manifest
from rdlite.errors import CheckpointError
from rdlite.graphs.packing import check_largest, count_blocks, pack
from rdlite.graphs.serialize import serialize
from rdlite.utils.files import hash_file, sync_folder
from rdlite.weights.source import in_rows
from rdlite.weights.source_model import SourceModel
from rdlite.weights.storage import Storage

from .bundle_folder import with_files
from .exporter import new_manifest
from .foreign_quantization import decoded
from .safetensors import Checkpoint, open_checkpoint
from .shard_places import Unit, place, units_by_file

BUNDLE, JOURNAL, STASH = "bundle", "journal.jsonl", "stash"


def can_stream(checkpoint: str | Path) -> bool:
    """Whether a checkpoint's tensors can be used one by one, going by config and headers alone."""
    opened = open_checkpoint(checkpoint)
    return decoded(opened) is opened


class ByShard:
    """A bundle in the making."""

    def __init__(self, original: SourceModel, storage: Storage | None, work: Path) -> None:
        """Begin, or go on with what the folder `work` has.

        Args:
            original: as read from a folder whose safetensors need have no more than their headers.
            storage: how the weights are stored, without looking at them.
            work: kept until the bundle is taken from it; for this model and storage alone.
        """
        self._original, self._storage, self._work = original, storage, work
        self._checkpoint: Checkpoint = open_checkpoint(original.folder)
        quantization = storage.quantization if storage else None
        self._graphs = build_graphs(original.family, original.config, quantization)
        self._places = place(self._graphs, original.weights, storage)
        self._units = units_by_file(self._checkpoint, original.weights)
        self._done: dict[str, float] = {}
        (work / BUNDLE).mkdir(exist_ok=True)
        (work / STASH).mkdir(exist_ok=True)
        self._read_journal()
        for name, size in self._places.sizes.items():
            path = work / BUNDLE / name
            if not path.exists():
                with path.open("xb") as file:
                    file.truncate(size)

    @property
    def bundle_bytes(self) -> int:
        """How large the weights of the bundle will be."""
        return sum(self._places.sizes.values())

    def missing(self, shard: str) -> list[Unit]:
        """Return what is still to be done with a file of the checkpoint."""
        return [unit for unit in self._units.get(shard, []) if unit.key not in self._done]

    def take(self, shard: Path) -> None:
        """Use a file of the checkpoint, which is not needed any more after that.

        Raises:
            CheckpointError: it is not the file whose header was read, or holds NaN or the like.
            InputError: a weight is too large for its scales.
            OSError: the bundle cannot be written.
        """
        _check_header(shard, self._original.folder / shard.name)
        tensors = {
            name: dataclasses.replace(tensor, file=shard)
            for name, tensor in self._checkpoint.tensors.items()
            if tensor.file.name == shard.name
        }
        checkpoint = Checkpoint(shard.parent, self._checkpoint.config, tensors)
        for unit in self.missing(shard.name):
            self._note(unit, self._use(unit, checkpoint))

    def _use(self, unit: Unit, checkpoint: Checkpoint) -> float:
        """Write what becomes of a tensor; returns its largest magnitude, if that matters."""
        if unit.stashed:
            path = self._work / STASH / f"{self._position(unit)}.npy"
            with path.open("wb") as file:
                np.save(file, checkpoint.read(unit.source))
                _sync(file)
            return 0.0
        name, storage = unit.weight, self._storage
        bits = storage.quantization.bits.get(name) if storage else None
        pieces = checkpoint.pieces(unit.source)
        if storage is None or storage.quantizer is None or bits is None:
            with self._opened(name) as (write, _):
                start = 4 * unit.first
                for piece in pieces:
                    write(start, np.asarray(piece, "<f4"))
                    start += piece.nbytes
            return 0.0
        columns = self._original.weights[name].shape[1]
        block = storage.quantization.block_of(name)
        blocks, row = count_blocks(columns, block), unit.first // columns
        largest = 0.0
        with self._opened(f"{name}.packed") as (packed, file):
            scales_at = self._places.tensors[f"{name}.scales"][1]
            for rows in in_rows(pieces, columns):
                largest = max(largest, float(np.abs(rows).max()))
                check_largest(name, largest, bits)
                codes, scale = storage.quantizer.quantize(name, rows, bits, block)
                packed(row * blocks * block * bits // 8, pack(codes, bits))
                file.seek(scales_at + 2 * row * blocks)
                file.write(np.ascontiguousarray(scale, "<f2").tobytes())
                row += len(rows)
        return largest

    def _opened(self, tensor: str) -> "_TensorFile":
        name, offset = self._places.tensors[tensor]
        return _TensorFile(self._work / BUNDLE / name, offset)

    def finish(self, advance: Callable[[int], None] | None = None) -> Path:
        """Write what the weights alone do not make up a bundle with; returns its folder.

        `advance` is called with counts of bytes hashed, of `bundle_bytes`.
        """
        original, storage, folder = self._original, self._storage, self._work / BUNDLE
        for name, weight in original.weights.items():
            keys = [unit for units in self._units.values() for unit in units if unit.weight == name]
            if storage and name in storage.quantization.bits:
                largest = max(self._done[unit.key] for unit in keys)
                check_largest(name, largest, storage.quantization.bits[name], whole=True)
            if weight.make is not None and name in self._places.tensors:
                by_source = {unit.source: unit for unit in keys}
                values = [
                    np.load(self._work / STASH / f"{self._position(by_source[source])}.npy")
                    for source in weight.sources
                ]
                with self._opened(name) as (write, _):
                    write(0, np.asarray(weight.make(*values), "<f4"))
        entries = {
            name: FileEntry(size, hash_file(folder / name, advance))
            for name, size in self._places.sizes.items()
        }
        small: dict[str, bytes] = dict(original.text_files)
        for part, graph in serialize(self._graphs, self._places.tensors).items():
            small[f"{part}.onnx"] = graph
        for name, data in small.items():
            (folder / name).unlink(missing_ok=True)  # of a process that was killed here
            entries[name] = write_bytes(folder, name, data)
        (folder / "rdlite.json").unlink(missing_ok=True)
        write_manifest(folder, with_files(new_manifest(original, storage), entries))
        sync_folder(folder)
        return folder

    def _position(self, unit: Unit) -> int:
        units = [other for units in self._units.values() for other in units]
        return units.index(unit)

    def _note(self, unit: Unit, largest: float) -> None:
        """Write down that a tensor is where it belongs, synced already."""
        self._done[unit.key] = largest
        with (self._work / JOURNAL).open("ab") as file:
            file.write(json.dumps([unit.key, largest]).encode() + b"\n")
            _sync(file)

    def _read_journal(self) -> None:
        path = self._work / JOURNAL
        known = {unit.key for units in self._units.values() for unit in units}
        whole = b""
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
            try:
                key, largest = json.loads(line)
            except ValueError:  # the process was killed in the midst of the last line
                break
            if not line.endswith(b"\n") or key not in known:
                break
            self._done[key] = float(largest)
            whole += line
        path.write_bytes(whole)


class _TensorFile:
    """A tensor's place in a file, written at offsets and synced at the end."""

    def __init__(self, path: Path, offset: int) -> None:
        self._file = path.open("r+b")
        self._offset = offset

    def _write(self, start: int, values: npt.NDArray[Any]) -> None:
        self._file.seek(self._offset + start)
        self._file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)

    def __enter__(self) -> tuple[Callable[[int, npt.NDArray[Any]], None], Any]:
        return self._write, self._file

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                _sync(self._file)
        finally:
            self._file.close()


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _check_header(shard: Path, shell: Path) -> None:
    with shard.open("rb") as ours, shell.open("rb") as theirs:
        length = theirs.read(8)
        size = int.from_bytes(length, "little")
        if ours.read(8) != length or ours.read(size) != theirs.read(size):
            raise CheckpointError(f"{shard} has another header than before; start over")
