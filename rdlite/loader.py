"""Turns what a user calls MODEL into an opened bundle: a folder, a .gguf file, or "nano"."""

from collections.abc import Iterator
from pathlib import Path

from rdlite.bundle.reader import (
    Bundle,
    check_hash,
    open_folder,
)
from rdlite.errors import BundleError
from rdlite.utils.progress import Progress, meter

NANO = "nano"
SHIPPED = Path(__file__).parent / "models"


def find_model(name: str | Path) -> Path:
    """Return the folder of a MODEL: its path, or "nano" for the one that comes with rdlite.

    A folder of one's own called nano is "./nano".
    """
    if name != NANO:
        return Path(name)
    if not (SHIPPED / NANO).is_dir():
        raise BundleError(f"nano is missing from {SHIPPED}; install rdlite again")
    return SHIPPED / NANO


def open_bundle(path: str | Path) -> Bundle:
    """Open a bundle and check all of it but the hashes of large files.

    Args:
        path: its folder, or "nano"; or a GGUF file, which is opened as a bundle.

    Raises:
        BundleError: the folder is no bundle, or anything in it breaks a rule of its format.
        GraphError: a graph breaks the graph contract.
    """
    folder = find_model(path)
    if folder.suffix.lower() == ".gguf" and not folder.is_dir():
        from rdlite.gguf.open import open_gguf  # builds graphs, which a folder has already

        return open_gguf(folder)
    return open_folder(folder)


def verify_bundle(path: str | Path, progress: Progress | None = None) -> Iterator[str]:
    """Check everything, hashes of large files included, and yield a line for each file that holds.

    Args:
        path: its folder, or "nano".
        progress: called with (bytes hashed, bytes in all) as it goes.

    Raises:
        BundleError: at the first thing that does not hold.
    """
    bundle = open_bundle(path)
    total = sum(bundle.manifest.files[name].bytes for name in bundle.unhashed)
    advance = meter(total, progress)
    for name, entry in bundle.manifest.files.items():
        if bundle.write_weights is not None:
            yield f"{name}: {entry.bytes} bytes, every tensor is in it; GGUF files have no hashes"
            return
        if name in bundle.unhashed:
            check_hash(bundle.folder, name, entry, advance)
        yield f"{name}: {entry.bytes} bytes, SHA-256 matches"
