"""A GGUF file: typed access to its metadata, and views of its tensors."""

import contextlib
import math
import mmap
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.errors import GGUFError, RdliteError
from rdlite.gguf.header import (
    MAX_STRING_BYTES,
    MAX_STRINGS,
    NUMBERS,
    SHORT_BYTES,
    STRING,
    TYPE_NAMES,
    Outline,
    StoredArray,
    StoredText,
    Tensor,
)

DEFAULT_ALIGNMENT, MAX_ALIGNMENT = 32, 2**16
ALIGNMENT_KEY = "general.alignment"


class GGUFFile(Outline):
    """The outline of a file. It keeps the file mapped until it is closed or let go."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        """Read the outline; raises GGUFError. Use `read_gguf`."""
        super().__init__(path, data)
        self.read_tensors(self._alignment())

    @contextlib.contextmanager
    def blame(self, what: str) -> Iterator[None]:
        """Make whatever is wrong with what is read from the file a GGUFError that names it."""
        try:
            yield
        except GGUFError:
            raise
        except RdliteError as problem:
            raise self.fail(f"{what}: {problem}") from None

    def value(self, key: str, kind: type, default: Any = None) -> Any:
        """Return the value of a key; raises GGUFError if it is missing or of another type.

        Args:
            key: of the metadata.
            kind: int, float, str or bool; a float may be given as an int, and a str is short.
            default: what to return where the key is missing; None: it must be there.
        """
        if key not in self.metadata:
            if default is None:
                raise self.fail(f"the key {key!r} is missing; a model of rdlite has it")
            return default
        value = self.metadata[key]
        if isinstance(value, StoredArray):
            raise self.fail(f"the key {key!r} is an array, expected {_kind_name(kind)}")
        if isinstance(value, StoredText):
            raise self.fail(
                f"the key {key!r} is a text of {value.size} bytes, expected {_kind_name(kind)} of "
                f"at most {SHORT_BYTES}"
            )
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise self.fail(
                f"the key {key!r} must be {_kind_name(kind)}, it is {type(value).__name__} "
                f"{value!r:.40}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise self.fail(f"the key {key!r} is {value}, which is no finite number")
        return value

    def text(self, key: str, most: int = MAX_STRING_BYTES) -> str:
        """Return the text of a key, which may be long, but not above `most`; raises GGUFError."""
        value = self.metadata.get(key)
        if isinstance(value, StoredText):
            if value.size > most:
                raise self.fail(
                    f"the key {key!r} has a text of {value.size} bytes, at most {most} go"
                )
            return self._text(value.offset, value.size, f"the key {key!r}")
        short: str = self.value(key, str)
        return short

    def strings(self, key: str, most: int = MAX_STRINGS) -> list[str]:
        """Return an array of at most so many short texts; raises GGUFError."""
        array = self._array(key, (STRING,), "texts")
        if array.count > most:
            raise self.fail(f"the key {key!r} has {array.count} texts, at most {most} are read")
        result, at = [], array.offset
        for _ in range(array.count):
            (length,) = struct.unpack_from("<Q", self._data, at)
            if length > SHORT_BYTES:
                raise self.fail(
                    f"the key {key!r} has a text of {length} bytes at offset {at}, at most "
                    f"{SHORT_BYTES} go"
                )
            result.append(self._text(at + 8, length, key))
            at += 8 + length
        return result

    def numbers(self, key: str) -> npt.NDArray[Any]:
        """Return an array of numbers, a view of the file; raises GGUFError."""
        array = self._array(key, tuple(NUMBERS), "numbers")
        return np.frombuffer(self._data, NUMBERS[array.type][0], array.count, array.offset)

    def _array(self, key: str, types: tuple[int, ...], wanted: str) -> StoredArray:
        array = self.metadata.get(key)
        if not isinstance(array, StoredArray) or array.type not in types:
            raise self.fail(f"the key {key!r} must be an array of {wanted}")
        return array

    def bytes_of(self, tensor: Tensor) -> npt.NDArray[np.uint8]:
        """Return a tensor's bytes, a view of the file: uint8 [size]."""
        return self.run(tensor.offset, tensor.size)

    def let_go(self) -> None:
        """Give back the memory that holds the file's pages; they are read again when needed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._data.madvise(mmap.MADV_DONTNEED)

    def run(self, offset: int, size: int) -> npt.NDArray[np.uint8]:
        """Return some of the file's bytes, a view: uint8 [size]."""
        return np.frombuffer(self._data, np.uint8, size, offset)

    def _alignment(self) -> int:
        alignment: int = self.value(ALIGNMENT_KEY, int, DEFAULT_ALIGNMENT)
        if not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise self.fail(
                f"the key {ALIGNMENT_KEY!r} is {alignment}, expected a power of two from 8 to "
                f"{MAX_ALIGNMENT}"
            )
        return alignment


def _kind_name(kind: type) -> str:
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[kind]


def read_gguf(path: str | Path) -> GGUFFile:
    """Read the outline of a file; raises GGUFError."""
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise GGUFError(f"{path} is not a regular file")
        if status.st_size < 24:
            raise GGUFError(
                f"{path}: it has {status.st_size} bytes; the header of a GGUF file ends at offset "
                "24; it is cut off or not a GGUF file"
            )
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as problem:
        raise GGUFError(f"{path} cannot be read: {problem.strerror or problem}") from None
    except ValueError:  # a name with a zero byte; a file that shrank to nothing
        raise GGUFError(f"{str(path)!r} cannot be read") from None
    return GGUFFile(path, data)


def describe(file: GGUFFile) -> Iterator[tuple[str, str]]:
    """Yield every key and what it says, in a line: arrays and long texts by type and length."""
    for key, value in file.metadata.items():
        if isinstance(value, StoredArray):
            yield key, f"[{value.count} x {TYPE_NAMES[value.type]}]"
        elif isinstance(value, StoredText):
            yield key, f"[string of {value.size} bytes]"
        else:
            yield key, repr(value)
