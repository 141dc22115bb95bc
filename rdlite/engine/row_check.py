"""Whether rows of a call have, on this machine, the bits that they have alone.

That hangs on the kernels of matrix products, which onnxruntime chooses by processor, bits, block
size and accuracy level. So a small product of each kind that a model has is tried, once a process.
"""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rdlite.graphs.product import Kind, kind_of, random_product
from rdlite.ort.session import Session

MOST = 16  # rows that are tried
ROWS = 48  # of the weight
#: With float32 activations a second row costs more than company is worth.
COSTLY_LEVEL = 1


def rows_pair(graphs: Iterable[bytes]) -> bool | None:
    """Say how positions must be called so that each has the same bits in any company.

    Returns:
        False: in any number. True: rows of even numbers of rows agree with each other, and not with
        a position alone; so that needs a row beside it. None: not by rows.
    """
    import onnx

    kinds = {
        kind
        for graph in graphs
        for node in onnx.ModelProto.FromString(graph).graph.node
        if (kind := kind_of(node)) is not None
    }
    found = [_try(kind) for kind in sorted(kinds)]
    if any(each is None for each in found):
        return None
    return any(found)  # kinds that agree with single calls agree with even ones all the more


@functools.cache
def _try(kind: Kind) -> bool | None:
    _, _, block, level = kind
    columns = max(4 * block, 256)
    rng = np.random.default_rng(0)
    session = Session(
        "rows", random_product(kind, ROWS, columns).SerializeToString(), Path.cwd(), 1
    )
    rows = rng.standard_normal((1, MOST, columns)).astype(np.float32)

    def product(x: Any) -> Any:
        result = np.zeros((1, x.shape[1], ROWS), np.float32)
        session.bind({"x": np.ascontiguousarray(x)}, {"y": result})()
        return result[0]

    alone = np.concatenate([product(rows[:, i : i + 1]) for i in range(MOST)])
    if all(np.array_equal(product(rows[:, :n]), alone[:n]) for n in range(2, MOST + 1)):
        return False
    if level == COSTLY_LEVEL:
        return None
    nothing = np.zeros_like(rows[:, :1])
    beside = np.concatenate(
        [product(np.concatenate((rows[:, i : i + 1], nothing), 1))[:1] for i in range(MOST)]
    )
    even = range(2, MOST + 1, 2)
    return True if all(np.array_equal(product(rows[:, :n]), beside[:n]) for n in even) else None
