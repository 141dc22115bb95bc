"""What quantizing some of the weights does to what a model says."""

import dataclasses
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rdlite.export.exporter import write_bundle

from rdlite.api.load import load
from rdlite.api.model import Model
from rdlite.measure.divergence import Divergence, divergence
from rdlite.weights.source_model import SourceModel
from rdlite.weights.storage import Storage

from .options import Options


def with_bits(
    storage: Storage, bits: Mapping[str, int], accuracy_level: int | None = None
) -> Storage:
    """Return a storage by the same quantizer with other bits, and perhaps another level."""
    old = storage.quantization
    level = old.accuracy_level if accuracy_level is None else accuracy_level
    sizes = {name: size for name, size in old.block_sizes.items() if name in bits}
    new = dataclasses.replace(old, bits=dict(bits), accuracy_level=level, block_sizes=sizes)
    return dataclasses.replace(storage, quantization=new)


def divergence_of(
    original: SourceModel,
    storage: Storage,
    reference: Model,
    texts: Sequence[Sequence[int]],
    depths: Sequence[int],
    options: Options,
) -> list[Divergence]:
    """Write a bundle for a moment and measure it against full precision, by depth."""
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        path = write_bundle(original, Path(folder) / "bundle", storage)
        with load(path, threads=options.threads) as model:
            return divergence(model, reference, texts, depths, options.seed)


def kind_of(name: str) -> str:
    """Return what a weight is for, over all layers of its part: "core.*.mlp.down"."""
    pieces = name.removesuffix(".weight").split(".")
    return ".".join("*" if piece.isdecimal() else piece for piece in pieces)


def grouped(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names by `kind_of`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(kind_of(name), []).append(name)
    return groups
