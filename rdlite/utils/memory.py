"""How much memory is free, and whether what a text may need fits in it."""

from pathlib import Path

from rdlite.errors import InputError, RuntimeFailure

#: Below this nobody asks: it is always there, and asking takes time.
SMALL_BYTES = 64 * 2**20
#: What a model takes in memory, as a multiple of its file: graphs and what is packed anew included.
IN_MEMORY = 1.5
#: With less context, a model is of no use.
SHORT_TOKENS = 256
MEMINFO = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")


def free_bytes() -> int | None:
    """Return the memory that this process can still take without swapping; None: unknown."""
    try:
        lines = MEMINFO.read_text().splitlines()
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        return None
    try:  # what a container may take
        limit = int((GROUP / "memory.max").read_text())
        found.append(max(0, limit - int((GROUP / "memory.current").read_text())))
    except (OSError, ValueError):  # none, or no limit
        pass
    return min(found, default=None)


def check_context(context: int, steps: int, needed: int) -> None:
    """Raise InputError if the caches of a full context would not fit in the memory that is free.

    Args:
        context: tokens.
        steps: of each, for the message.
        needed: bytes of all of its caches.
    """
    free = free_bytes()
    if free is None or needed <= free:
        return
    fits = context * free // needed
    raise InputError(
        f"a context of {context} tokens needs {in_gb(needed)} of cache at {steps} steps, "
        f"{in_gb(free)} of memory are free: ask for at most --context {fits}, fewer --steps, or a "
        "smaller cache (--cache-share, --cache-bits 8)"
    )


def fitting_context(wanted: int, weights: int, per_token: int) -> int:
    """Return the longest context that fits in the memory that is free, at most the one wanted.

    Half of what the weights leave is kept free, for activations and for other programs.

    Args:
        wanted: tokens.
        weights: bytes of the model's files; it is not in memory yet.
        per_token: bytes of cache that a token takes.

    Raises:
        InputError: the weights alone do not fit, or leave too little for a short text.
    """
    free = free_bytes()
    if free is None or weights + wanted * per_token < SMALL_BYTES:
        return wanted
    least = min(wanted, SHORT_TOKENS)
    weights = int(weights * IN_MEMORY)
    if weights + least * per_token > free:
        raise InputError(
            f"this model needs {in_gb(weights)} for its weights and {in_gb(least * per_token)} for "
            f"{least} tokens of context, and {in_gb(free)} of memory are free: close other "
            "programs, or use fewer bits (--scheme int4) or a smaller model ('rdlite models known')"
        )
    return max(least, min(wanted, (free - weights) // 2 // per_token))


def check_growth(capacity: int, more: int) -> None:
    """Raise RuntimeFailure if caches cannot grow by so many bytes, to so many tokens."""
    if more < SMALL_BYTES:
        return
    free = free_bytes()
    if free is not None and more > free:
        raise RuntimeFailure(
            f"the cache needs another {in_gb(more)} for {capacity} tokens, {in_gb(free)} of memory "
            "are free: use a smaller --context, fewer --steps, or a smaller cache (--cache-share, "
            "--cache-bits 8)"
        )


def in_gb(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / 1e9:.3g} GB"
