"""What the store holds: each model with a record beside it, without which it is not rdlite's."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from rdlite.errors import InputError, OutputError
from rdlite.store.home import home
from rdlite.store.names import Name
from rdlite.utils.files import write_whole
from rdlite.utils.schema import decode, read_json

RECORD = ".record.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """Where a model of the store comes from; the file's time is when it was used last."""

    repo: str
    revision: str
    commit: str
    scheme: str


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A model of the store: a bundle or a GGUF file, and its record."""

    path: Path
    record: Record

    @property
    def name(self) -> str:
        """What the user calls it."""
        revision = "" if self.record.revision == "main" else f"@{self.record.revision}"
        if self.path.suffix == ".gguf":
            return f"{self.record.repo}/{self.path.name}{revision}"
        return f"{self.record.repo}{revision}:{self.record.scheme}"

    @property
    def used(self) -> float:
        """When it was used last, in seconds since 1970."""
        return _record_of(self.path).stat().st_mtime

    @property
    def bytes(self) -> int:
        """What it takes on the disk."""
        files = self.path.iterdir() if self.path.is_dir() else (self.path,)
        return sum(file.stat().st_size for file in files)


def entries() -> list[Entry]:
    """Return every model of the store, the one used last first."""
    found = []
    for path in sorted((home() / "models").glob(f"*/*/*{RECORD}")):
        model = path.with_name(path.name.removesuffix(RECORD))
        with contextlib.suppress(InputError, OSError):
            record = decode(
                Record, read_json(path.read_bytes(), str(path), InputError), str(path), InputError
            )
            if model.exists():
                found.append(Entry(model, record))
    return sorted(found, key=lambda entry: -entry.used)


def find(name: Name) -> Entry | None:
    """Return the model of a name, the one used last where the name leaves that open."""
    for entry in entries():
        if entry.path.parent != name.folder:
            continue
        if name.file is not None and entry.path.name != name.file:
            continue
        if name.scheme is None or name.scheme.lower() == entry.record.scheme.lower():
            return entry
    return None


def note(path: Path, record: Record) -> Entry:
    """Write the record that makes what lies at `path` a model of the store."""
    data = json.dumps(dataclasses.asdict(record), indent=1) + "\n"
    write_whole(_record_of(path), data.encode())
    return Entry(path, record)


def touch(entry: Entry) -> None:
    """Say that a model is used now."""
    with contextlib.suppress(OSError):
        os.utime(_record_of(entry.path))


def remove(entry: Entry) -> None:
    """Delete a model that the store made; raises OutputError."""
    try:
        _record_of(entry.path).unlink()
        shutil.rmtree(entry.path) if entry.path.is_dir() else entry.path.unlink()
    except OSError as problem:
        raise OutputError(f"cannot delete {entry.path}: {problem.strerror}") from None
    for folder in (entry.path.parent, entry.path.parent.parent):
        with contextlib.suppress(OSError):
            folder.rmdir()  # if it is empty


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + RECORD)


@contextlib.contextmanager
def locked(name: Name, waiting: Callable[[], None]) -> Iterator[None]:
    """Keep other processes from one revision of a repository; `waiting` is called if one has it.

    A process that ends gives the lock back. Raises OutputError if the store cannot be written.
    """
    from filelock import FileLock, Timeout

    folder = home() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name.folder.parent.name}@{name.folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire()
    except OSError as problem:
        raise OutputError(f"cannot write {folder}: {problem.strerror or problem}") from None
    try:
        yield
    finally:
        lock.release()
