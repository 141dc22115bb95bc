"""Writes the files of a bundle: each hashed as it goes and synced; the manifest is the last."""

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from rdlite.bundle.manifest import MANIFEST, FileEntry, Manifest, hash_manifest
from rdlite.errors import OutputError
from rdlite.utils.files import sync_folder


class HashingFile:
    """A new file being written: hashed as it goes, synced when closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("xb")
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Write the next bytes."""
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def close(self) -> FileEntry:
        """Sync the file; returns its manifest entry."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileEntry(self.size, self._digest.hexdigest())

    def __enter__(self) -> "HashingFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def write_bytes(folder: Path, name: str, data: bytes) -> FileEntry:
    """Write one file of a bundle and return its manifest entry."""
    with HashingFile(folder / name) as file:
        file.write(data)
        return file.close()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write rdlite.json; it must be the last file of a bundle."""
    data = dataclasses.asdict(manifest)
    if manifest.flavour == "fused":  # the default, which older versions have no key for
        del data["flavour"]
    if manifest.trained_length is None:  # likewise
        del data["trained_length"]
    if data["exit"] is not None and not data["exit"]["curve"]:  # likewise
        del data["exit"]["curve"]
    data["sha256"] = hash_manifest(data)
    write_bytes(folder, MANIFEST, (json.dumps(data, indent=1) + "\n").encode())


@contextlib.contextmanager
def new_folder(out: Path, force: bool) -> Iterator[Path]:
    """Give a temporary sibling of `out` that takes its place when the block ends well.

    A killed process leaves at most a hidden `.NAME.partial-PID`; `out` is whole or not there.

    Raises:
        OutputError: `out` exists and `force` is false, or it is no bundle that may be replaced,
            or the disk is full or not writable.
    """
    clear_leftovers(out)
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


@contextlib.contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """Give a folder for what is needed until `out` is written, on the same disk.

    What a killed process leaves of it is removed by the next one for `out`. Raises OutputError if
    it cannot be made, because then `out` cannot be written either.
    """
    out = out.absolute()
    parent = next(parent for parent in (*out.parents, out) if os.path.lexists(parent))
    clear_leftovers(parent / out.name)
    work = parent / f".{out.name}.work-{os.getpid()}"
    try:
        work.mkdir()
    except OSError as problem:
        raise OutputError(f"cannot write {out}: {problem.strerror}") from None
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_replaceable(out: Path, force: bool, source: Path | None = None) -> None:
    """Raise OutputError unless `out` is new or empty, or a bundle that `force` lets us replace.

    A bundle that is, or holds, the folder `source` that is read from may not be replaced.
    """
    if not os.path.lexists(out):
        return
    if source is not None and out.resolve() in (source.resolve(), *source.resolve().parents):
        raise OutputError(f"{out} holds what is to be read, {source}; give another name")
    folder = stat.S_ISDIR(out.lstat().st_mode)
    if folder and not any(out.iterdir()):
        return
    if not (folder and (out / MANIFEST).is_file()):
        raise OutputError(f"{out} exists and is not a bundle; give another name")
    if not force:
        raise OutputError(f"{out} exists; give another name, or --force to replace it")


def clear_leftovers(out: Path) -> None:
    """Clear away what exports to `out` left when they were killed; an old bundle goes back."""
    for kind in ("old", "partial", "work"):
        for left in out.parent.glob(f".{glob.escape(out.name)}.{kind}-*"):
            pid = left.name.rpartition("-")[2]
            if not pid.isdecimal() or _is_running(int(pid)):
                continue
            if kind == "old" and not os.path.lexists(out):
                left.rename(out)  # killed between the two renames of a replacement
            elif left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


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
