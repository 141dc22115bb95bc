"""A core step as exit rules see it where a constraint leaves only some tokens."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from rdlite.exit.protocols import Floats, Step

#: Returns the ids of the tokens that may come next, ascending; None: all.
Allowed = Callable[[], npt.NDArray[np.int64] | None]


class FewerTokens:
    """A `Step` whose logits are those of some tokens only.

    So a rule judges the distribution that the next token is drawn from, and a token that is
    certain needs no thought.
    """

    def __init__(self, runner: Step, ids: npt.NDArray[np.int64]) -> None:
        self.size = runner.size
        self._runner = runner
        self._ids = ids

    @property
    def change(self) -> Floats:
        """As of all tokens."""
        return self._runner.change

    @property
    def states(self) -> Sequence[Floats]:
        """As of all tokens."""
        return self._runner.states

    @property
    def exit_probability(self) -> Floats | None:
        """As of all tokens."""
        return self._runner.exit_probability

    def logits(self, steps: int) -> Floats:
        """Return float32 [1, n], for n tokens."""
        return self._runner.logits(steps)[-1:, self._ids]
