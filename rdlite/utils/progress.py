"""Progress of work that is counted, in bytes or whatever it says."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, in all)."""


def meter(total: int, progress: Progress | None) -> Callable[[int], None]:
    """Return what is called with each further count of bytes and reports their sum."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    return advance
