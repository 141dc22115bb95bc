"""Copies of the models that come with rdlite: commands change these, and the package never."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from rdlite.bundle.reader import Bundle
from rdlite.errors import OutputError
from rdlite.loader import SHIPPED, open_bundle
from rdlite.store.entries import Record, locked, note
from rdlite.store.names import TUNED, Name
from rdlite.version import __version__


def copied_name(folder: Path) -> Name | None:
    """Return the name of the copy that stands for a bundle of the package; None for others."""
    folder = folder.resolve()
    return Name(folder.name, scheme=TUNED) if SHIPPED.resolve() in folder.parents else None


def copied_path(name: Name) -> Path:
    """Return where a copy is, or will be."""
    return name.folder / TUNED


@contextlib.contextmanager
def changeable(bundle: Bundle) -> Iterator[Bundle]:
    """Give what may be changed: the bundle, or a copy in the store if it comes with rdlite.

    The copy takes the place of an older one when the block ends well. Raises OutputError.
    """
    name = copied_name(bundle.folder)
    if name is None:
        yield bundle
        return
    work, target = name.folder / f".{TUNED}.work", copied_path(name)
    with locked(name, lambda: None):
        try:
            shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
            shutil.copytree(bundle.folder, work)
            yield open_bundle(work)
            shutil.rmtree(target, ignore_errors=True)
            work.rename(target)
            note(target, Record(name.repo, name.revision, __version__, TUNED))
        except OSError as problem:
            raise OutputError(f"cannot write {target}: {problem.strerror or problem}") from None
        finally:
            shutil.rmtree(work, ignore_errors=True)
