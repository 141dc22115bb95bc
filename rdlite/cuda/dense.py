"""Float16 copies of packed weights, for calls that take several positions.

They are made on the GPU when a model is loaded, if there is memory to spare: each is the product of
the unit matrix and the packed weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rdlite.cuda.arrays import HALF, Device, DeviceArray
from rdlite.graphs.derived.dense import Matrix, with_dense_weights
from rdlite.ort.session import Interrupt, Run, Session

#: Copies of smaller models are not worth the time of making them, in bytes.
LEAST = 2**28
#: Of the memory that is free, what copies may take; the rest is for caches.
SHARE = 0.4
#: Rows of the unit matrix that are multiplied at once: more than kernels for few rows take.
ROWS = 1024

Make = Callable[[str, bytes], Session]


class DenseSession:
    """A session that is given its weights at each call, where they lie."""

    def __init__(self, session: Session, weights: Mapping[str, DeviceArray]) -> None:
        self._session, self._weights = session, weights

    def bind(
        self,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
        interrupt: Interrupt | None = None,
    ) -> Run:
        """Bind as `Session.bind` does."""
        return self._session.bind({**inputs, **self._weights}, outputs, interrupt)


def dense_sessions(
    device: Device, graphs: Mapping[str, bytes], make: Make
) -> dict[str, DenseSession]:
    """Return sessions of the parts, by name, that multiply by float16 copies of the weights.

    Args:
        device: where they lie.
        graphs: of the parts, with float16 activations.
        make: loads a graph of a part.

    Returns:
        Nothing if the copies are not worth it, or there is not enough memory.
    """
    changed = {part: with_dense_weights(graph) for part, graph in graphs.items()}
    size = sum(
        HALF.itemsize * matrix.shape[0] * matrix.shape[1]
        for _, matrices in changed.values()
        for matrix in matrices
    )
    if not LEAST <= size <= SHARE * device.memory.available():
        return {}
    return {
        part: DenseSession(
            make(part, graph),
            {matrix.name: _copy(device, matrix, part, make) for matrix in matrices},
        )
        for part, (graph, matrices) in changed.items()
    }


def _copy(device: Device, matrix: Matrix, part: str, make: Make) -> DeviceArray:
    session = make(part, matrix.product)
    rows = matrix.shape[0]
    result = device.empty(matrix.shape)
    unit = device.empty((min(ROWS, rows), rows))
    for start in range(0, rows, ROWS):
        count = min(ROWS, rows - start)
        unit.write(np.eye(unit.shape[0], rows, start, HALF))
        session.bind({"x": unit.rows(0, count)}, {"y": result.rows(start, start + count)})()
    device.memory.download(np.empty(1, np.uint8), result.address)  # done before the session goes
    return result
