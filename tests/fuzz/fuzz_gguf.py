"""Coverage-guided fuzzing of the GGUF reader: anything but an RdliteError of one line is a fault.

    pip install atheris
    python tests/fuzz/fuzz_gguf.py -max_len=16384 -mutate_depth=3 -max_total_time=600 \\
        CORPUS tests/fuzz/corpus/gguf

New inputs are kept in CORPUS, an empty folder; one that fails is written as crash-*, and given
alone as an argument it is run again. -set_cover_merge=1 SMALL CORPUS copies what is needed for the
same coverage. atheris is no dependency of the tests: they run every file of the corpus once.
"""

import gc
import random
import struct
import sys
import tempfile
import types
import warnings
from pathlib import Path

import atheris

from rdlite.errors import RdliteError
from rdlite.gguf.open import open_gguf, read_original

#: Modules whose branches guide the fuzzer.
WATCHED = (
    "rdlite.gguf",
    "rdlite.architectures.registry",
    "rdlite.config.model",
    "rdlite.utils.schema",
    "rdlite.tokenizer.validate",
    "rdlite.bundle.cache_scales",
    "rdlite.config.generation",
    "rdlite.config.exit_defaults",
    "rdlite.config.quantization",
)
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def run(data: bytes) -> None:
    """Read a file with these bytes, all of its weights too, and open it."""
    with tempfile.NamedTemporaryFile(dir=MEMORY, suffix=".gguf") as file:
        file.write(data)
        file.flush()
        try:
            _, original, source = read_original(file.name)
            for name, weight in original.weights.items():
                if name in source.bits:
                    source.packed(name)
                elif weight.sources:  # tables are as large as their config says
                    source.floats(name)
            open_gguf(file.name)
        except RdliteError as problem:
            if not str(problem).isprintable():
                raise


class Parts:
    """A file cut into what it consists of: keys with their values, tensors, and the data."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 24
        self.version, tensors, keys = struct.unpack_from("<IQQ", data, 4)
        self.entries = [self._entry() for _ in range(keys)]
        self.tensors = [self._tensor() for _ in range(tensors)]
        self.rest = data[-(-self._at // 32) * 32 :]

    def join(self) -> bytes:
        counts = struct.pack("<IQQ", self.version, len(self.tensors), len(self.entries))
        head = b"".join((b"GGUF", counts, *self.entries, *self.tensors))
        return head + bytes(-len(head) % 32) + self.rest

    def _number(self, form: str) -> int:
        (number,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return int(number)

    def _string(self) -> None:
        length = self._number("<Q")
        self._at += length

    def _entry(self) -> bytes:
        start = self._at
        self._string()
        kind, count = self._number("<I"), 1
        if kind == ARRAY:
            kind, count = self._number("<I"), self._number("<Q")
        if kind == STRING:
            for _ in range(count):
                self._string()
        else:
            self._at += SIZES[kind] * count
        return self._data[start : self._at]

    def _tensor(self) -> bytes:
        start = self._at
        self._string()
        dimensions = self._number("<I")
        self._at += 8 * dimensions + 12
        return self._data[start : self._at]


def mutate(data: bytes, size: int, seed: int) -> bytes:
    """Change anything anywhere; or a single key or tensor, and leave the rest a whole file."""
    chance = random.Random(seed)
    try:
        parts = Parts(data)
    except (struct.error, KeyError, MemoryError, OverflowError):
        return bytes(atheris.Mutate(data, size))
    if not chance.randrange(4):
        return bytes(atheris.Mutate(data, size))
    items = parts.tensors if parts.tensors and not chance.randrange(3) else parts.entries
    if not items:
        return bytes(atheris.Mutate(data, size))
    index, action = chance.randrange(len(items)), chance.randrange(8)
    if action == 0:
        del items[index]
    elif action == 1:
        items.append(items[index])
    elif items is parts.entries:
        items[index] = mutate_entry(items[index], chance)
    else:
        items[index] = bytes(atheris.Mutate(items[index], len(items[index]) + 16))
    return parts.join()[:size]


def mutate_entry(entry: bytes, chance: random.Random) -> bytes:
    """Change a value: as a text of another length, as a number of another type, or anyhow."""
    (length,) = struct.unpack_from("<Q", entry)
    key, value = entry[: 8 + length], entry[8 + length :]
    (kind,) = struct.unpack_from("<I", value)
    action = chance.randrange(4)
    if kind == STRING and action:
        text = bytes(atheris.Mutate(value[12:], len(value) + 32))
        return key + struct.pack("<IQ", STRING, len(text)) + text
    if action == 1:
        kind = chance.choice([*SIZES])
        number = chance.choice([0, 1, 255, chance.getrandbits(64), 2**64 - 1])
        return key + struct.pack("<I", kind) + struct.pack("<Q", number)[: SIZES[kind]]
    return key + bytes(atheris.Mutate(value, len(value) + 16))


def watch() -> None:
    """Let the fuzzer see which branches the watched modules take."""
    for function in gc.get_objects():
        if isinstance(function, types.FunctionType):
            module = function.__module__
            if isinstance(module, str) and module.startswith(WATCHED):
                atheris.instrument_func(function)


if __name__ == "__main__":
    warnings.simplefilter("error")
    watch()
    command = f"{sys.executable} {sys.argv[0]}"  # what -merge=1 runs, in a shell
    atheris.Setup([command, *sys.argv[1:]], run, custom_mutator=mutate)
    atheris.Fuzz()
