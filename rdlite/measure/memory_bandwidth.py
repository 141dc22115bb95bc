"""Measures how fast this machine reads memory: the bound on the speed of any large model."""

import threading
import time

import numpy as np


def read_bandwidth(threads: int, mebibytes: int = 256, repeats: int = 7) -> float:
    """Return the read bandwidth in bytes per second: the best of `repeats` passes over a buffer.

    Args:
        threads: how many threads read, each a part of its own.
        mebibytes: size of the buffer; larger than the caches, or they are what is measured.
        repeats: runs; the best counts, because other work can only slow one down.
    """
    parts = np.array_split(np.ones(mebibytes * 2**17, np.float64), threads)
    best = 0.0
    for _ in range(repeats):
        workers = [threading.Thread(target=part.max) for part in parts]
        started = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, sum(part.nbytes for part in parts) / (time.perf_counter() - started))
    return best
