"""Single files: read with a bound and hashed; written whole or not at all."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from rdlite.errors import BundleError, OutputError


def check_output_file(path: Path) -> None:
    """Raise OutputError unless a file could be written to this path: before long work for it."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give the name of a file")
    write_whole(path, b"", keep=True)


def write_whole(path: Path, data: bytes, keep: bool = False) -> None:
    """Write a file whole or not at all; `keep` only tries whether that could be done."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        if not keep:
            part.replace(path)
    except OSError as problem:
        raise OutputError(f"cannot write {path}: {problem.strerror or problem}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def hash_file(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """Return the hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**22):
            digest.update(piece)
            if advance:
                advance(len(piece))
    return digest.hexdigest()


def regular_size(path: Path) -> int:
    """Return the bytes of a regular file that is no link; raises BundleError for others."""
    try:
        status = path.lstat()
    except OSError as problem:
        raise BundleError(f"{path} cannot be read: {problem.strerror}") from None
    if stat.S_ISLNK(status.st_mode):
        raise BundleError(f"{path} is a symbolic link; a bundle holds its files itself")
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path} is not a regular file")
    return status.st_size


def read_file(path: Path, expected: int | None, limit: int) -> bytes:
    """Return a regular file of at most `limit` bytes, exactly `expected` if given.

    Raises BundleError.
    """
    size = regular_size(path)
    if size > limit:
        raise BundleError(f"{path} has {size} bytes; at most {limit} are read")
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise BundleError(f"{path} cannot be read: {problem.strerror}") from None
    if expected is not None and len(data) != expected:
        raise BundleError(f"{path} changed while it was read")
    return data


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut."""
    if os.name == "nt":  # folders cannot be opened there; NTFS journals renames itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
