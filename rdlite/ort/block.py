"""Several core steps of one position, taken in one call."""

from collections.abc import Callable
from typing import Any

import numpy as np

from rdlite.graphs.derived.unrolled import LAYERED, STEPS, layer_name, step_name
from rdlite.ort.session import Run
from rdlite.ort.text import Arrays


class Block:
    """A call that takes several core steps, and what each of them gave."""

    def __init__(
        self,
        first: int,
        arrays: Callable[[int], tuple[Arrays, Arrays]],
        layers: int,
        bind: Callable[[tuple[Arrays, Arrays]], Run],
    ) -> None:
        """Bind it.

        Args:
            first: of its steps.
            arrays: what a step reads and writes that is called alone.
            layers: of the core.
            bind: binds the call.
        """
        inputs, outputs = Arrays(), Arrays()
        #: By step: where it writes if it is called alone, and what it wrote here.
        self._results: list[list[tuple[Any, Any]]] = []
        for step in range(STEPS):
            taken, given = arrays(first + step)
            for name, array in taken.items():
                if name.startswith(LAYERED):
                    inputs[layer_name(name, step * layers)] = array
                elif step == 0:
                    inputs[name] = array
            self._results.append([])
            for name, array in given.items():
                if name.startswith(LAYERED):
                    outputs[layer_name(name, step * layers)] = array
                else:
                    own = outputs[step_name(name, step)] = np.zeros_like(array)
                    self._results[step].append((array, own))
        self.run = bind((inputs, outputs))

    def show(self, step: int) -> None:
        """Write what one of the steps gave where it would be if that were the last."""
        for place, result in self._results[step]:
            place[:] = result
