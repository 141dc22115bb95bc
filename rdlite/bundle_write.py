"""Writes the files of a bundle: each hashed as it goes and synced; the manifest is the last."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

from rdlite.bundle import MANIFEST, FileEntry, Manifest, hash_manifest


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
    data["sha256"] = hash_manifest(data)
    write_bytes(folder, MANIFEST, (json.dumps(data, indent=1) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut."""
    if os.name == "nt":  # folders cannot be opened there; NTFS journals renames itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
