"""When to stop thinking: rules that look at what one core step produced. Pure NumPy.

They give the step counts of the published evaluators (raven_modeling_minimal.py); a rule is made
once, started for each group of positions, and keeps its own buffers. What it measures has a value
for each position; whether these stop together, at their mean, or each alone is not its affair.
"""

import numpy as np

from rdlite.exit.protocols import Bools, Floats, Step


class Below:
    """A rule that is content when its value, the mean of several, falls below a threshold."""

    patience = 1
    every_step = False

    def __init__(self, threshold: float) -> None:
        self.threshold = np.float32(threshold)  # as the values, so that arrays and numbers agree

    def start(self, first: int, size: int) -> None:
        """Nothing is kept between looks."""

    def combine(self, values: Floats) -> Floats:
        mean: Floats = np.add.reduce(values, keepdims=True)
        mean /= len(values)  # the bits of `values.mean()`, which takes twice the time
        return mean

    def is_met(self, values: Floats) -> Bools:
        below: Bools = values < self.threshold
        return below


class LatentDiff(Below):
    """||x_t - x_(t-1)|| / ||x_t||."""

    def measure(self, runner: Step, steps: int, first: int) -> Floats:
        values: Floats = runner.change[0]
        return values


class Cosine(Below):
    """1 - cos(x_t, x_(t-1))."""

    def measure(self, runner: Step, steps: int, first: int) -> Floats:
        now, before = runner.states[steps % 2][0], runner.states[(steps - 1) % 2][0]
        product = np.einsum("se,se->s", now, before)
        lengths = np.einsum("se,se->s", now, now) * np.einsum("se,se->s", before, before)
        if not lengths.all():  # a state that starts at zero has no direction
            product[lengths == 0] = -np.inf
            lengths[lengths == 0] = 1
        cosines: Floats = product / np.sqrt(lengths)
        return 1 - cosines


class Acceleration(Below):
    """||d_t - d'|| / ||x_t|| with d_t = x_t - x_(t-1), two hits in a row (2509.23314).

    d' is the move at the look before, so d_(t-1) where every step is looked at.
    """

    patience = 2

    def __init__(self, threshold: float) -> None:
        super().__init__(threshold)
        #: By row: the move at the look before, infinite where there was none; room for a new one.
        self._moves = np.zeros((2, 0, 0), np.float32)

    def start(self, first: int, size: int) -> None:
        self._moves[0, first : first + size] = np.inf

    def measure(self, runner: Step, steps: int, first: int) -> Floats:
        now, before = runner.states[steps % 2][0], runner.states[(steps - 1) % 2][0]
        end, rows = first + len(now), self._moves.shape[1]
        if rows < end:
            more = np.full((2, end - rows, now.shape[1]), np.inf, np.float32)
            self._moves = np.concatenate((self._moves, more), axis=1) if rows else more
        last, move = self._moves[:, first:end]
        np.subtract(now, before, out=move)
        np.subtract(move, last, out=last)
        bend = np.einsum("se,se->s", last, last) / np.einsum("se,se->s", now, now)
        last[:] = move
        values: Floats = np.sqrt(bend)
        return values


class Gate:
    """The chance to have left by now, as the model's own gate says step by step (2510.25741).

    Positions that stop together stop when the last of them would.
    """

    patience = 1
    every_step = True

    def __init__(self, threshold: float) -> None:
        self.threshold = np.float32(threshold)
        #: By row: the chance not to have left yet.
        self._stayed = np.ones(0, np.float32)

    def start(self, first: int, size: int) -> None:
        end = first + size
        if len(self._stayed) < end:
            self._stayed = np.append(self._stayed, np.ones(end - len(self._stayed), np.float32))
        self._stayed[first:end] = 1

    def measure(self, runner: Step, steps: int, first: int) -> Floats:
        assert runner.exit_probability is not None
        leaving = runner.exit_probability[0]
        stayed = self._stayed[first : first + len(leaving)]
        stayed *= 1 - leaving
        return 1 - stayed

    def combine(self, values: Floats) -> Floats:
        least: Floats = values.min(keepdims=True)
        return least

    def is_met(self, values: Floats) -> Bools:
        return values >= self.threshold
