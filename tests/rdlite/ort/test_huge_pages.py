"""Memory that is allocated inside gets huge pages; what was there before keeps its own."""

import mmap
import re
import time

import numpy as np
import pytest

from rdlite.ort.huge_pages import MAPS, PAGE, SWITCH, huge_pages

SIZE = 16 * PAGE


def asks():
    return SWITCH.exists() and "[madvise]" in SWITCH.read_text()


def huge_bytes(memory):
    """Bytes in huge pages of the mappings that hold it."""
    start = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
    wanted = total = 0
    for line in (MAPS.parent / "smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            first, last = (int(number, 16) for number in found.groups())
            wanted = first < start + SIZE and start < last
        elif wanted and line.startswith("AnonHugePages:"):
            total += int(line.split()[1]) * 1024
    return total


def written():
    memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    np.frombuffer(memory, np.uint8)[::4096] = 1
    return memory


@pytest.mark.skipif(not asks(), reason="here nobody has to ask for huge pages, or nobody gets them")
def test_memory_allocated_inside_gets_huge_pages_and_older_memory_stays_as_it_is():
    older = written()
    fence = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ)  # else the two may be one mapping
    with huge_pages():
        newer = written()
        time.sleep(0.01)
    assert np.frombuffer(newer, np.uint8)[::4096].all()
    assert huge_bytes(newer) >= SIZE // 2
    assert huge_bytes(older) == 0
    del fence


def test_what_fails_inside_is_raised():
    with pytest.raises(ZeroDivisionError), huge_pages():
        _ = 1 / 0
