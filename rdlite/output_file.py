"""Single files of results: written whole or not at all."""

import contextlib
from pathlib import Path

from rdlite.errors import OutputError


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
