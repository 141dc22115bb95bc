"""Changes a bundle where it lies: new files beside the old ones, then the manifest in one step."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rdlite.bundle.manifest import HASHED_NAME, MANIFEST, read_manifest
from rdlite.bundle.reader import BARE_NAME, Bundle, open_folder
from rdlite.bundle.writer import write_bytes, write_manifest
from rdlite.errors import InputError, OutputError
from rdlite.utils.files import sync_folder

WORK = ".update"
#: What is installed: it may belong to somebody else, and another installation replaces it.
PACKAGE = Path(__file__).resolve().parents[1]


def update_bundle(
    bundle: Bundle, changes: Mapping[str, Any], files: Mapping[str, bytes | None]
) -> Bundle:
    """Change fields of a bundle's manifest, and add or remove files.

    A process that is killed leaves the old bundle or the new one, either of them whole; what it
    left besides is removed by the next update of such a file.

    Args:
        bundle: as it was opened. If another one lies in its folder by now, nothing is done.
        changes: fields of the manifest, but not `files`.
        files: by their bare names, contents of those to add, None for those to remove. A file that
            is there already is never overwritten: see `hashed_name`.

    Returns:
        The new bundle, opened and checked.

    Raises:
        BundleError: the bundle would break a rule of its format, or does so already.
        InputError: a file is there already, with other contents, or has no bare name.
        OutputError: the folder cannot be written, or has changed.
    """
    folder = bundle.folder
    check_updatable(folder)
    for name in files:
        if not BARE_NAME.fullmatch(name) or name == MANIFEST:
            raise InputError(f"{name!r:.140} cannot be a file of a bundle; give a bare name")
    with _changing(folder) as work:
        try:
            return _update(bundle, work, changes, files)
        finally:
            _sweep(folder, files)


def check_updatable(folder: Path) -> None:
    """Raise OutputError if the folder of a bundle cannot be written: before long work for it."""
    if folder.is_file():
        raise OutputError(
            f"{folder} is a GGUF file, which is not changed; 'rdlite gguf import' makes a "
            "bundle of it"
        )
    if PACKAGE in folder.resolve().parents:
        raise OutputError(
            f"{folder} comes with rdlite, which is never changed; change a copy of it"
        )
    with _changing(folder):
        pass


@contextlib.contextmanager
def _changing(folder: Path) -> Iterator[Path]:
    """Keep other updates out and give an empty folder inside; raises OutputError."""
    try:
        with _locked(folder), _work_folder(folder) as work:
            yield work
    except OSError as problem:
        raise OutputError(f"cannot write {folder}: {problem.strerror or problem}") from problem


def _update(
    bundle: Bundle, work: Path, changes: Mapping[str, Any], files: Mapping[str, bytes | None]
) -> Bundle:
    folder, old = bundle.folder, bundle.manifest
    if open_folder(folder).manifest != old:
        raise OutputError(f"{folder} was changed since it was opened; start over")
    entries = dict(old.files)
    for name, data in files.items():
        if data is None:
            entries.pop(name, None)
            continue
        entry = write_bytes(work, name, data)
        if entries.setdefault(name, entry) != entry:
            raise InputError(f"{folder / name} is there already; give its new contents a new name")
    new = dataclasses.replace(old, **changes, files=dict(sorted(entries.items())))
    write_manifest(work, new)
    for name in new.files.keys() - old.files.keys():
        os.replace(work / name, folder / name)
    updated = open_folder(folder, work / MANIFEST)
    sync_folder(folder)  # the files are there for good before the manifest lists them
    os.replace(work / MANIFEST, folder / MANIFEST)
    sync_folder(folder)
    return updated


def _sweep(folder: Path, names: Iterable[str]) -> None:
    """Remove what of these files, or of others that differ in their hash, is not listed."""
    listed = read_manifest(folder).files
    for name in names:
        found = {folder / name}
        if match := HASHED_NAME.fullmatch(name):
            found |= {*folder.glob(match[1] + "." + "[0-9a-f]" * 16 + match[2])}
        for file in found:
            if file.name not in listed:
                with contextlib.suppress(OSError):
                    file.unlink()


@contextlib.contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder inside `folder`."""
    work = folder / WORK
    shutil.rmtree(work, ignore_errors=True)  # of an update that was killed
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other updates out; a process that ends gives the lock back."""
    try:
        import fcntl
    except ImportError:  # Windows: two updates at once are the user's to avoid
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{folder} is being changed by another process; wait until it ends"
            ) from None
        yield
    finally:
        os.close(descriptor)
