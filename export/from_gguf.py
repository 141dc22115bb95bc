"""Writes a GGUF file's model as a bundle."""

from pathlib import Path

from rdlite.gguf.open import read_original
from rdlite.utils.progress import Progress

from .exporter import write_bundle


def import_gguf(
    path: str | Path, out: str | Path, *, force: bool = False, progress: Progress | None = None
) -> Path:
    """Write a GGUF file's model as a bundle; returns its path.

    Args:
        path: the file.
        out: the bundle folder to make. It appears whole or not at all.
        force: replace `out` if it is a bundle already.
        progress: called with (bytes read, bytes in all), counted as float32.

    Raises:
        GGUFError: the file breaks a rule.
        OutputError: `out` exists, or cannot be written.
    """
    _, original, _ = read_original(path, requantized=True)
    return write_bundle(original, out, force=force, progress=progress)
