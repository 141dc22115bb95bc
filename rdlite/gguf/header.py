"""Moves through the outline of a GGUF file from a stranger, once: metadata, and where tensors lie.

Nothing is believed before it is compared with the file's size, and nothing is copied that is not
asked for: arrays, long texts and tensors stay in the file until then.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdlite.errors import GGUFError

MAGIC, VERSIONS = b"GGUF", (2, 3)
MAX_KEYS, MAX_TENSORS, MAX_STRINGS = 2**14, 2**12, 2**20
MAX_NAME_BYTES, MAX_STRING_BYTES, MAX_DIMENSIONS = 256, 64 * 2**20, 4
#: Texts up to this size are read with the outline; one in an array may not be longer than that.
SHORT_BYTES = 1024
MAX_PROBLEM_CHARACTERS = 600

STRING, ARRAY, BOOL = 8, 9, 7
#: GGUF's numbers of value types: their struct format and a name for messages.
NUMBERS = {
    0: ("<B", "uint8"),
    1: ("<b", "int8"),
    2: ("<H", "uint16"),
    3: ("<h", "int16"),
    4: ("<I", "uint32"),
    5: ("<i", "int32"),
    6: ("<f", "float32"),
    BOOL: ("<B", "bool"),
    10: ("<Q", "uint64"),
    11: ("<q", "int64"),
    12: ("<d", "float64"),
}
TYPE_NAMES = {number: name for number, (_, name) in NUMBERS.items()} | {STRING: "string"}


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array of the metadata that was not read yet."""

    type: int
    count: int
    offset: int


@dataclass(frozen=True, slots=True)
class StoredText:
    """A long text of the metadata that was not read yet."""

    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the file.

    Attributes:
        name: of it.
        shape: as NumPy says it, rows first.
        type: GGML's name of its type, like "Q4_0".
        offset: from the file's start, in bytes.
        size: in bytes.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size: int


class Outline:
    """Metadata and tensors of a file, as it says them."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        """Read the header and the metadata; raises GGUFError."""
        self.path = path
        self._data = data
        self._at = 0
        self._strings = 0
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        self.version, self._tensor_count, keys = self._header()
        for _ in range(keys):
            self._pair()

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return len(self._data)

    def fail(self, problem: str) -> GGUFError:
        """Return an error that names the file, and tells the problem in one printable line."""
        problem = problem[:MAX_PROBLEM_CHARACTERS]
        line = " ".join("".join(c if c.isprintable() else " " for c in problem).split())
        return GGUFError(f"{self.path}: {line}")

    def read_tensors(self, alignment: int) -> None:
        """Read where the tensors lie, which follows the metadata; raises GGUFError."""
        self.alignment = alignment
        infos = [self._info() for _ in range(self._tensor_count)]
        self.start = -(-self._at // alignment) * alignment
        self._place(infos)

    def _take(self, size: int, what: str) -> int:
        """Move past `size` bytes; returns where they begin."""
        at = self._at
        if size > len(self._data) - at:
            raise self.fail(
                f"{what} at offset {at} needs {size} bytes, the file ends {len(self._data) - at} "
                "later; it is cut off or damaged"
            )
        self._at = at + size
        return at

    def _number(self, form: str, what: str) -> Any:
        (value,) = struct.unpack_from(form, self._data, self._take(struct.calcsize(form), what))
        return value

    def _text(self, at: int, length: int, what: str) -> str:
        try:
            return str(memoryview(self._data)[at : at + length], "utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what}: the text at offset {at} is not UTF-8") from None

    def _string(self, what: str, limit: int) -> str:
        length, at = self._passed_text(what, limit)
        return self._text(at, length, what)

    def _stored_text(self, what: str) -> str | StoredText:
        length, at = self._passed_text(what, MAX_STRING_BYTES)
        return self._text(at, length, what) if length <= SHORT_BYTES else StoredText(length, at)

    def _passed_text(self, what: str, limit: int) -> tuple[int, int]:
        length = self._number("<Q", what)
        if length > limit:
            raise self.fail(
                f"{what} at offset {self._at} has a text of {length} bytes, at most {limit} go"
            )
        return length, self._take(length, what)

    def _skip_texts(self, count: int, what: str) -> None:
        """Move past texts, each behind its length; there may be a million of them."""
        data, at, end, length = self._data, self._at, len(self._data), struct.Struct("<Q")
        for _ in range(count):
            after = at + 8
            if after <= end:
                after += length.unpack_from(data, at)[0]
            if after > end:
                self._at = at
                self._take(after - at, what)
            at = after
        self._at = at

    def _header(self) -> tuple[int, int, int]:
        magic = bytes(self._data[:4])
        if magic != MAGIC:
            raise self.fail(f"it begins with {magic!r} at offset 0, a GGUF file with {MAGIC!r}")
        self._at = 4
        version = self._number("<I", "the version")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "big"), "little") in VERSIONS
            hint = "; its bytes are in big-endian order" if swapped else ""
            raise self.fail(
                f"the version at offset 4 is {version}, versions {VERSIONS} are read{hint}"
            )
        tensors, keys = self._number("<Q", "the tensor count"), self._number("<Q", "the key count")
        for name, count, limit, offset in (
            ("tensor", tensors, MAX_TENSORS, 8),
            ("key", keys, MAX_KEYS, 16),
        ):
            if count > limit:
                raise self.fail(
                    f"the {name} count at offset {offset} is {count}, at most {limit} are read"
                )
        return version, tensors, keys

    def _pair(self) -> None:
        at = self._at
        key = self._string("a key", MAX_NAME_BYTES)
        if not key or not key.isprintable():
            raise self.fail(f"the key at offset {at} is not printable: {key!r:.80}")
        if key in self.metadata:
            raise self.fail(f"the key {key!r} at offset {at} is there twice")
        self.metadata[key] = self._value(self._number("<I", f"the type of {key!r}"), key)

    def _value(self, kind: int, key: str) -> Any:
        what = f"the value of {key!r}"
        if kind in NUMBERS:
            value = self._number(NUMBERS[kind][0], what)
            if kind == BOOL:
                if value > 1:
                    raise self.fail(f"{what} at offset {self._at - 1} is {value}, expected 0 or 1")
                return bool(value)
            return value
        if kind == STRING:
            return self._stored_text(what)
        if kind != ARRAY:
            raise self.fail(f"{what} at offset {self._at - 4} has the unknown type {kind}")
        inner, count = self._number("<I", what), self._number("<Q", what)
        start = self._at
        if inner in NUMBERS:
            self._take(count * struct.calcsize(NUMBERS[inner][0]), what)
        elif inner == STRING:
            self._strings += count
            if self._strings > MAX_STRINGS:
                raise self.fail(
                    f"{what} at offset {start} brings the file to {self._strings} texts in arrays, "
                    f"at most {MAX_STRINGS} are read"
                )
            self._skip_texts(count, what)
        else:
            raise self.fail(f"{what} at offset {start} is an array of the unknown type {inner}")
        return StoredArray(inner, count, start)

    def _info(self) -> Tensor:
        at = self._at
        name = self._string("a tensor's name", MAX_NAME_BYTES)
        if not name or not name.isprintable():
            raise self.fail(f"the tensor's name at offset {at} is not printable: {name!r:.80}")
        if name in self.tensors:
            raise self.fail(f"the tensor {name!r} at offset {at} is there twice")
        what = f"the tensor {name!r}"
        count = self._number("<I", what)
        if not 1 <= count <= MAX_DIMENSIONS:
            raise self.fail(f"{what} at offset {at} has {count} dimensions, 1 to 4 are read")
        shape = tuple(self._number("<Q", what) for _ in range(count))[::-1]
        kind, offset = self._number("<I", what), self._number("<Q", what)
        types = _types()
        if kind not in types:
            raise self.fail(f"{what} at offset {at} has the unknown type {kind}")
        type_name, block, block_bytes = types[kind]
        if min(shape) < 1 or shape[-1] % block:
            raise self.fail(
                f"{what} at offset {at} has the shape {shape!s:.80}; rows of {type_name} are whole "
                f"blocks of {block}"
            )
        size = math.prod(shape) // block * block_bytes
        tensor = Tensor(name, shape, type_name, offset, size)
        self.tensors[name] = tensor  # its offset is still that in the data
        return tensor

    def _place(self, infos: list[Tensor]) -> None:
        """Hold what the tensors claim against the file, and against each other."""
        end, before = 0, ""
        for tensor in sorted(infos, key=lambda tensor: tensor.offset):
            what = f"the tensor {tensor.name!r} at {tensor.offset} of the data"
            if tensor.offset % self.alignment:
                raise self.fail(f"{what} is not aligned to {self.alignment} bytes")
            if tensor.offset < end:
                raise self.fail(f"{what} lies over {before!r}, which ends at {end}")
            end, before = tensor.offset + tensor.size, tensor.name
            if end > self.size - self.start:
                raise self.fail(
                    f"{what} has {tensor.size} bytes and ends past the file, whose data from "
                    f"offset {self.start} on has {max(0, self.size - self.start)}"
                )
            self.tensors[tensor.name] = Tensor(
                tensor.name, tensor.shape, tensor.type, self.start + tensor.offset, tensor.size
            )


_KNOWN: dict[int, tuple[str, int, int]] = {}


def _types() -> Mapping[int, tuple[str, int, int]]:
    """GGML's number of a tensor type -> its name, numbers in a block, bytes of a block."""
    if not _KNOWN:
        from gguf.constants import GGML_QUANT_SIZES

        for kind, (block, size) in GGML_QUANT_SIZES.items():
            _KNOWN[int(kind)] = (kind.name, block, size)
    return _KNOWN
