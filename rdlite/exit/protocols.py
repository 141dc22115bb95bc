"""What an exit rule sees of a core step, and what it must answer."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class Step(Protocol):
    """What a rule can look at after a core step on S positions."""

    #: S; the shape of `change` says it too, but on a device that waits for the step.
    size: int

    @property
    def change(self) -> Floats:
        """How far each state moved, relative to its length: float32 [1, S]."""

    @property
    def states(self) -> Sequence[Floats]:
        """The state after t steps, `states[t % 2]`, and the one before it: float32 [1, S, E]."""

    @property
    def exit_probability(self) -> Floats | None:
        """What the core's gate says: the chance to leave here if one has not before: [1, S].

        None if the model has no gate.
        """

    def logits(self, steps: int) -> Floats:
        """Decode the last position's state after `steps` steps: float32 [1, V]."""


class ExitRule(Protocol):
    """Measures, for each position, whether more steps would still change something.

    Positions are rows of a group: what a rule keeps of them between looks it keeps by row.
    """

    #: Looks in a row that must be content before a position has settled.
    patience: int
    #: Whether it must measure every step, though nothing may be decided there.
    every_step: bool

    def start(self, first: int, size: int) -> None:
        """Forget what was seen of the rows from `first` on, `size` of them."""

    def measure(self, runner: Step, steps: int, first: int) -> Floats:
        """Return each position's value after so many steps; infinite where it has none yet.

        Args:
            runner: S positions.
            steps: taken so far.
            first: the row that the first of them is.

        Returns:
            float32 [S]; of rules that decode float32 [1], the last position's.
        """

    def combine(self, values: Floats) -> Floats:
        """Return the value of positions that stop together: float32 [S] -> float32 [1]."""

    def is_met(self, values: Floats) -> Bools:
        """Return whether each of these values means that it is enough."""
