"""GGUF files in pieces that a test spoils, and what must come of it."""

import struct

import pytest

import rdlite
from rdlite import RdliteError

U8, I8, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = 0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 12
FORMS = {U8: "B", I8: "b", 2: "H", 3: "h", U32: "I", I32: "i", F32: "f", BOOL: "B"}
FORMS |= {U64: "Q", I64: "q", F64: "d"}
NAN, INFINITE = float("nan"), float("inf")


def string(text):
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def value(kind, content):
    return string(content) if kind == STRING else struct.pack("<" + FORMS[kind], content)


def array(kind, contents, count=None):
    count = len(contents) if count is None else count
    return struct.pack("<IQ", kind, count) + b"".join(value(kind, item) for item in contents)


class File:
    """A file in pieces that a test may change: `keys`, `tensors`, `data`; `join` makes it a file.

    `keys` are pairs of a name and bytes that begin with the type; `tensors` are lists of a name,
    dimensions as they are stored, a type and an offset.
    """

    def __init__(self, data):
        self._data, self._at = data, 8
        self.head, self.counts, self.padding = data[:8], None, 32
        #: Where anything ends.
        self.cuts = {4, 8}
        count, keys = self._take("Q"), self._take("Q")
        self.keys = [(self._string(), self._value()) for _ in range(keys)]
        self.tensors = [
            [
                self._string(),
                [self._take("Q") for _ in range(self._take("I"))],
                self._take("I"),
                self._take("Q"),
            ]
            for _ in range(count)
        ]
        self.data = bytearray(data[-(-self._at // 32) * 32 :])

    def _take(self, form):
        (number,) = struct.unpack_from("<" + form, self._data, self._at)
        self._at += struct.calcsize(form)
        self.cuts.add(self._at)
        return number

    def _string(self):
        length = self._take("Q")
        self._at += length
        self.cuts.add(self._at)
        return self._data[self._at - length : self._at]

    def _value(self):
        start, kind, count = self._at, self._take("I"), 1
        if kind == ARRAY:
            kind, count = self._take("I"), self._take("Q")
        for _ in range(count):
            if kind == STRING:
                self._string()
            else:
                self._take(FORMS[kind])
        return self._data[start : self._at]

    def set(self, key, kind, content):
        """Give a key another value; `content` is bytes that are stored as they are, or a value."""
        self.drop(key)
        raw = content if isinstance(content, bytes) else value(kind, content)
        self.keys.append((key.encode(), struct.pack("<I", kind) + raw))

    def drop(self, *names):
        self.keys = [(name, raw) for name, raw in self.keys if name.decode() not in names]

    def tensor(self, name):
        return next(tensor for tensor in self.tensors if tensor[0] == name.encode())

    def spoil(self, name, form, number, at=0):
        """Write a number over a tensor's bytes."""
        struct.pack_into(form, self.data, self.tensor(name)[3] + at, number)

    def join(self):
        counts = self.counts or (len(self.tensors), len(self.keys))
        pieces = [self.head, struct.pack("<QQ", *counts)]
        pieces += [string(name) + raw for name, raw in self.keys]
        for name, dimensions, kind, offset in self.tensors:
            sizes = struct.pack(f"<{len(dimensions)}Q", *dimensions)
            numbers = struct.pack("<I", len(dimensions)), sizes, struct.pack("<IQ", kind, offset)
            pieces += [string(name), *numbers]
        start = b"".join(pieces)
        return start + bytes(-len(start) % self.padding) + self.data


def at(index, **changes):
    """Change a field of a tensor by its number."""

    def change(file):
        for field, content in changes.items():
            file.tensors[index][("name", "shape", "type", "offset").index(field)] = content

    return change


def put(key, kind, content):
    return lambda file: file.set(key, kind, content)


def counts(change):
    """Let the header say other counts of tensors and keys than there are."""
    return lambda file: setattr(file, "counts", change(len(file.tensors), len(file.keys)))


def refuse(path, message, data=None):
    """Load a file, which must be refused with a message of one line."""
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(RdliteError, match=message) as caught:
        rdlite.load(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    return caught.value
