"""Reads checkpoint folders: config.json and safetensors, one or in shards. Never pickle or code.

The safetensors library checks each file; the tensors are then read from it in pieces with plain
reads rather than through its memory map, so that a checkpoint of any size takes constant memory.
"""

import json
import math
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import safetensors

from rdlite.errors import CheckpointError
from rdlite.utils.schema import read_json

Floats = npt.NDArray[np.float32]

PIECE_BYTES = 8 * 2**20
MAX_JSON_BYTES = 16 * 2**20
MAX_TOKENIZER_BYTES = 64 * 2**20
MAX_HEADER_BYTES = 16 * 2**20
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
DTYPES: dict[str, npt.DTypeLike] = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor's bytes lie, and how to read it if that takes more than its dtype."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    decode: Callable[[], Iterator[Floats]] | None = None

    def rows(self, dtype: "np.dtype[Any]", first: int, last: int, columns: int) -> npt.NDArray[Any]:
        """Read some rows [last - first, columns] of it as it is stored; CheckpointError."""
        with self.file.open("rb") as file:
            file.seek(self.offset + first * columns * dtype.itemsize)
            values = np.fromfile(file, dtype, (last - first) * columns)
        if len(values) < (last - first) * columns:
            raise CheckpointError(f"{self.file} ends inside tensor {self.name!r}")
        return values.reshape(last - first, columns)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint folder: its parsed config and where its tensors lie."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]

    def pieces(self, name: str) -> Iterator[Floats]:
        """Yield a tensor as float32 pieces, flat and in order, each at most 8 MiB as stored.

        Raises CheckpointError for a dtype that is not read, a short file, and for values that
        are NaN or infinite.
        """
        tensor = self.tensors[name]
        if tensor.dtype not in DTYPES:
            raise CheckpointError(
                f"tensor {name!r} has dtype {tensor.dtype}; read are {', '.join(DTYPES)}: "
                "convert the checkpoint to one of them"
            )
        try:
            for values in _plain(tensor) if tensor.decode is None else tensor.decode():
                if not np.isfinite(values).all():
                    raise CheckpointError(
                        f"tensor {name!r} holds NaN or infinite values; the checkpoint is broken"
                    )
                yield values
        except OSError as problem:  # or it would look as if the bundle could not be written
            raise CheckpointError(f"{tensor.file} cannot be read: {problem.strerror}") from None

    def read(self, name: str) -> Floats:
        """Return a (small) tensor whole, as float32 in its own shape."""
        shape = self.tensors[name].shape
        pieces = list(self.pieces(name))
        return np.concatenate(pieces).reshape(shape) if pieces else np.zeros(shape, np.float32)

    def read_file(self, name: str) -> bytes | None:
        """Return a text file of the folder, or None where there is no such file."""
        return _read_file(self.folder / name, MAX_TOKENIZER_BYTES)

    def read_object(self, name: str) -> dict[str, Any]:
        """Return a JSON file that holds an object, parsed; empty where there is no such file."""
        value = _read_json(self.folder / name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.folder / name} must hold an object")
        return value


def _plain(tensor: StoredTensor) -> Iterator[Floats]:
    dtype = np.dtype(DTYPES[tensor.dtype])
    left = math.prod(tensor.shape)
    with tensor.file.open("rb") as file:
        file.seek(tensor.offset)
        while left:
            piece = np.fromfile(file, dtype, min(left, PIECE_BYTES // dtype.itemsize))
            if not piece.size:
                raise CheckpointError(f"{tensor.file} ends inside tensor {tensor.name!r}")
            left -= piece.size
            yield piece.astype(np.float32, copy=False)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint folder in the hub's format.

    Raises:
        CheckpointError: there is no folder, no config.json, no safetensors (pickles are refused),
            a shard is missing, or a file is truncated or not safetensors.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder; give the folder that holds config.json and the safetensors"
        )
    config = _read_json(folder / "config.json")
    if config is None:
        raise CheckpointError(f"{folder} has no config.json, so it is not a checkpoint")
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / 'config.json'} must hold an object")
    tensors: dict[str, StoredTensor] = {}
    for file in _weight_files(folder):
        for tensor in _read_header(file):
            if tensor.name in tensors:
                raise CheckpointError(
                    f"tensor {tensor.name!r} is in both {tensors[tensor.name].file.name} "
                    f"and {file.name}; remove the file that does not belong"
                )
            tensors[tensor.name] = tensor
    if not (folder / "model.safetensors").is_file():
        _check_index(folder, tensors)
    return Checkpoint(folder, config, tensors)


def _read_file(path: Path, limit: int = MAX_JSON_BYTES) -> bytes | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise CheckpointError(f"{path} is not a regular file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise CheckpointError(f"{path} cannot be read: {problem.strerror}") from None
    if len(data) > limit:
        raise CheckpointError(f"{path} has more than {limit} bytes, which is all that is read")
    return data


def _read_json(path: Path) -> Any:
    data = _read_file(path)
    return None if data is None else read_json(data, str(path), CheckpointError)


def _weight_map(folder: Path) -> dict[str, str] | None:
    index = _read_json(folder / "model.safetensors.index.json")
    if index is None:
        return None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in weight_map.values()
    ):
        raise CheckpointError(
            f"{folder / 'model.safetensors.index.json'}: weight_map must map tensor names to "
            "files of the same folder"
        )
    return weight_map


def _weight_files(folder: Path) -> list[Path]:
    whole = folder / "model.safetensors"
    weight_map = _weight_map(folder)
    if whole.is_file():  # as transformers does, which asks no index beside it
        return [whole]
    if weight_map is not None:
        files = [folder / name for name in sorted(set(weight_map.values()))]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise CheckpointError(
                f"{folder} lacks {len(missing)} of {len(files)} shards that its index names: "
                f"{', '.join(missing[:4])}; download them"
            )
        return files
    files = sorted(folder.glob("*.safetensors"))
    if any(file.name.startswith("adapter_model") for file in files) and len(files) == 1:
        raise CheckpointError(
            f"{folder} holds an adapter (LoRA), which changes another model's weights: merge it "
            "into that model first (peft: merge_and_unload, save_pretrained)"
        )
    if len(files) == 1 or _all_shards(files):
        return files
    if files:
        raise CheckpointError(
            f"{folder} holds {len(files)} safetensors files and no model.safetensors.index.json "
            "to say which belong together; download the index"
        )
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder} holds only pickled weights ({pickles[0]}); loading a pickle can run code, "
            "so rdlite never does: convert the checkpoint to safetensors"
        )
    raise CheckpointError(f"{folder} has no .safetensors file")


def _all_shards(files: list[Path]) -> bool:
    """Whether files are the shards of one model, by their names, and all of them."""
    found = [_SHARD.fullmatch(file.name) for file in files]
    names = {(shard[1], shard[3]) for shard in found if shard}
    numbers = [int(shard[2]) for shard in found if shard]
    return len(names) == 1 and numbers == list(range(1, int(next(iter(names))[1]) + 1))


def _read_header(file: Path) -> Iterator[StoredTensor]:
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
        if length == int.from_bytes(b"version ", "little"):
            raise CheckpointError(f"{file} is a pointer of Git LFS; fetch the file: git lfs pull")
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{file} has a header of {length} bytes; it is not a safetensors file"
            )
        # The library proves the header: sizes, offsets, no overlap, no hole, ends at the last byte.
        with safetensors.safe_open(file, framework="numpy"):
            pass
        with file.open("rb") as stream:
            stream.seek(8)
            header = json.loads(stream.read(length))
    except (safetensors.SafetensorError, OSError, ValueError) as problem:
        raise CheckpointError(
            f"{file} is not a whole safetensors file ({problem}); download it again"
        ) from None
    header.pop("__metadata__", None)
    for name, entry in header.items():
        offset = 8 + length + entry["data_offsets"][0]
        yield StoredTensor(name, file, entry["dtype"], tuple(entry["shape"]), offset)


def _check_index(folder: Path, tensors: dict[str, StoredTensor]) -> None:
    for name, file in (_weight_map(folder) or {}).items():
        if name not in tensors or tensors[name].file.name != file:
            raise CheckpointError(
                f"the index of {folder} says that tensor {name!r} is in {file}; it is not: "
                "download the shards and the index of one revision"
            )
