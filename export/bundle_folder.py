"""Writes a bundle: weights one tensor at a time, all into a temporary folder, then renamed."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.bundle.manifest import FileEntry, Manifest
from rdlite.bundle.writer import HashingFile, write_bytes
from rdlite.graphs.builder import Weight, Weights
from rdlite.graphs.packing import pack
from rdlite.graphs.serialize import ALIGNMENT, Graphs, serialize, users_of
from rdlite.utils.progress import Progress, meter
from rdlite.weights.source import WeightSource
from rdlite.weights.storage import Storage


def data_files(graphs: Graphs, weights: Weights) -> dict[str, list[str]]:
    """Return the files of external data, and the weights that go into each, in order.

    A weight that several graphs use is stored once, in shared.onnx.data.
    """
    files: dict[str, list[str]] = {}
    for name, parts in users_of(graphs, weights).items():
        owner = parts[0] if len(parts) == 1 else "shared"
        files.setdefault(f"{owner}.onnx.data", []).append(name)
    return files


def write_graphs(
    folder: Path,
    graphs: Graphs,
    weights: Weights,
    source: WeightSource,
    storage: Storage | None = None,
    progress: Progress | None = None,
) -> dict[str, FileEntry]:
    """Write the three graphs and their external data; returns the entries of all files."""
    files = data_files(graphs, weights)
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


def with_files(manifest: Manifest, entries: dict[str, FileEntry]) -> Manifest:
    """Return `manifest` listing `entries`."""
    return dataclasses.replace(manifest, files=dict(sorted(entries.items())))
