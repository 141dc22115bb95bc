"""Huge pages for the weights that onnxruntime packs, where Linux gives them only if asked.

With pages of 4 KiB, where these happen to lie decides how fast they are read: core steps of 1 to 8
positions at Huginn's size take up to a fifth longer. onnxruntime does not ask, so what it allocates
is watched while it loads a graph.
"""

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MAPS = Path("/proc/self/maps")
PAGE = 2 * 2**20
#: Memory in smaller pieces is left as it is.
LEAST = 2 * PAGE
#: Seconds between two looks: a page gets its size when it is first written.
EVERY = 0.002
#: Linux' numbers: huge pages from now on, and those that are there made huge.
HUGEPAGE, COLLAPSE = 14, 25

#: From the first address to the one after the last.
Range = tuple[int, int]


@contextlib.contextmanager
def huge_pages() -> Iterator[None]:
    """Ask for huge pages for the large pieces of memory that are allocated meanwhile."""
    try:
        wanted = "[madvise]" in SWITCH.read_text()
        before = _anonymous() if wanted else []
    except OSError:  # another system
        wanted = False
    if not wanted:
        yield
        return
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(before, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _watch(before: list[Range], done: threading.Event) -> None:
    seen: set[Range] = set()
    while not done.wait(EVERY):
        for piece in _new(before):
            if piece not in seen:
                seen.add(piece)
                _advise(piece, HUGEPAGE)
    for piece in _new(before):  # pages that were quicker
        _advise(piece, HUGEPAGE)
        _advise(piece, COLLAPSE)


def _advise(piece: Range, advice: int) -> None:
    """Tell Linux; it is free to do nothing, and says so where the memory is gone again."""
    start, end = piece
    madvise = ctypes.CDLL(None).madvise
    madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), ctypes.c_int(advice))


def _anonymous() -> list[Range]:
    """Return where this process has private memory of its own, in ascending order."""
    found = []
    for line in MAPS.read_text().splitlines():
        addresses, rights, _, _, _, *name = line.split(maxsplit=5)
        if rights == "rw-p" and (not name or name[0] == "[heap]"):
            start, end = addresses.split("-")
            found.append((int(start, 16), int(end, 16)))
    return found


def _new(before: list[Range]) -> list[Range]:
    """Return what there is now and was not before, large pieces, in whole huge pages."""
    pieces = []
    for start, end in _anonymous():
        for first, last in (
            *(old for old in before if start < old[1] and old[0] < end),
            (end, end),
        ):
            aligned = -(-start // PAGE) * PAGE, first // PAGE * PAGE
            if aligned[1] - aligned[0] >= LEAST:
                pieces.append(aligned)
            start = max(start, last)
    return pieces
