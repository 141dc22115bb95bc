"""Scales that onnxruntime packs beside the integers: lent to a session and then taken back.

Whether a kernel reads its scales after it has packed them hangs on the processor and on the sizes
of the product, and nothing says so. So one of each kind is tried, once a process, with scales that
turn into NaN behind its back. It comes to a sixteenth of the weights in blocks of 128.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdlite.graphs.derived.wide_scales import Place, with_wide_scales
from rdlite.graphs.product import Kind, kind_of, random_product
from rdlite.ort.lent_memory import CAN_TAKE_BACK, LentMemory
from rdlite.ort.session import Session

#: Positions of calls that are tried; kernels have paths of their own for few, and for remainders.
COUNTS = (1, 2, 3, 4, 5, 8, 16, 33, 66)
#: Kernels take this many rows of a weight at a time at most, and have others for what remains.
ROWS = 64


def with_lent_scales(graph: bytes) -> tuple[bytes, dict[str, Place]]:
    """Return a checked graph, and the scales that its session must be lent."""
    return with_wide_scales(graph, _forgets) if CAN_TAKE_BACK else (graph, {})


def lend(places: Mapping[str, Place], folder: Path) -> LentMemory:
    """Widen stored scales into memory that can be taken back when they are packed."""
    memory = LentMemory({name: place.shape for name, place in places.items()})
    for name, place in places.items():
        memory.arrays[name][...] = np.memmap(
            folder / place.file, np.float16, "r", place.offset, place.shape
        )
    return memory


def _forgets(node: Any) -> bool:
    kind = kind_of(node)
    numbers = {each.name: each.i for each in node.attribute}
    assert kind is not None
    return len(node.input) == 3 and _try(kind, ROWS + numbers["N"] % ROWS, numbers["K"])


@functools.cache
def _try(kind: Kind, rows: int, columns: int) -> bool:
    """Whether a product without zero points gives the same numbers when its scales are gone."""
    from onnx import numpy_helper

    model = random_product(kind, rows, columns)
    scales = model.graph.initializer[-1]
    array = numpy_helper.to_array(scales).copy()
    lent = {scales.name: array}
    session = Session("scales", model.SerializeToString(), Path.cwd(), 1, weights=lent)
    x = np.random.default_rng(0).standard_normal((1, max(COUNTS), columns), np.float32)

    def products() -> list[Any]:
        found = []
        for count in COUNTS:
            found.append(np.zeros((1, count, rows), np.float32))
            session.bind({"x": x[:, :count]}, {"y": found[-1]})()
        return found

    before = products()
    array.fill(np.nan)
    return all(map(np.array_equal, before, products()))
