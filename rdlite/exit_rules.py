"""When to stop thinking: rules that look at what one core step produced. Pure NumPy.

They give the step counts of the published evaluators (raven_modeling_minimal.py); a rule is made
once, started for each group of positions, and keeps its own buffers. What it measures has a value
for each position; whether these stop together, at their mean, or each alone is not its affair.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rdlite.config import ModelConfig

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class Step(Protocol):
    """What a rule can look at after a core step on S positions."""

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

    def measure(self, lane: Step, steps: int, first: int) -> Floats:
        """Return each position's value after so many steps; infinite where it has none yet.

        Args:
            lane: S positions.
            steps: taken so far.
            first: the row that the first of them is.

        Returns:
            float32 [S]; of rules that decode float32 [1], the last position's.
        """

    def combine(self, values: Floats) -> Floats:
        """Return the value of positions that stop together: float32 [S] -> float32 [1]."""

    def content(self, values: Floats) -> Bools:
        """Return whether each of these values means that it is enough."""


class _Below:
    """A rule that is content when its value, the mean of several, falls below a threshold."""

    patience = 1
    every_step = False

    def __init__(self, threshold: float) -> None:
        self.threshold = np.float32(threshold)  # as the values, so that arrays and numbers agree

    def start(self, first: int, size: int) -> None:
        """Nothing is kept between looks."""

    def combine(self, values: Floats) -> Floats:
        mean: Floats = values.mean(keepdims=True)
        return mean

    def content(self, values: Floats) -> Bools:
        below: Bools = values < self.threshold
        return below


class LatentDiff(_Below):
    """||x_t - x_(t-1)|| / ||x_t||."""

    def measure(self, lane: Step, steps: int, first: int) -> Floats:
        values: Floats = lane.change[0]
        return values


class Cosine(_Below):
    """1 - cos(x_t, x_(t-1))."""

    def measure(self, lane: Step, steps: int, first: int) -> Floats:
        now, before = lane.states[steps % 2][0], lane.states[(steps - 1) % 2][0]
        product = np.einsum("se,se->s", now, before)
        lengths = np.einsum("se,se->s", now, now) * np.einsum("se,se->s", before, before)
        if not lengths.all():  # a state that starts at zero has no direction
            product[lengths == 0] = -np.inf
            lengths[lengths == 0] = 1
        cosines: Floats = product / np.sqrt(lengths)
        return 1 - cosines


class Acceleration(_Below):
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

    def measure(self, lane: Step, steps: int, first: int) -> Floats:
        now, before = lane.states[steps % 2][0], lane.states[(steps - 1) % 2][0]
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


class _Predictions(_Below):
    """Rules that compare what the last position predicts with what it predicted before."""

    def __init__(self, threshold: float, vocab_size: int) -> None:
        super().__init__(threshold)
        self._logs = np.zeros((2, vocab_size), np.float32)
        self._scratch = np.zeros(vocab_size, np.float32)
        self._looks = 0

    def start(self, first: int, size: int) -> None:
        """Forget the looks before."""
        self._looks = 0

    def measure(self, lane: Step, steps: int, first: int) -> Floats:
        return np.array([self._look(lane, steps)], np.float32)

    def _look(self, lane: Step, steps: int) -> float:
        """Return the last position's value."""
        raise NotImplementedError

    def _log_softmax(self, logits: Floats) -> tuple[Floats, Floats]:
        """Return log-probabilities now and at the look before; float32 [V] each.

        Before the first look, every token is equally likely. All looks at a position see the same
        tokens, which may be fewer than the model has.
        """
        logs, scratch = self._logs[:, : logits.size], self._scratch[: logits.size]
        now, before = logs[self._looks % 2], logs[(self._looks - 1) % 2]
        if not self._looks:
            before.fill(-np.log(logits.size))
        self._looks += 1
        np.subtract(logits, logits.max(), out=now)
        np.exp(now, out=scratch)
        now -= np.log(scratch.sum())
        return now, before

    def _divergence(self, now: Floats, before: Floats) -> float:
        """KL(before || now)."""
        scratch = self._scratch[: now.size]
        np.exp(before, out=scratch)
        np.subtract(before, now, out=before)  # not looked at again
        return float(np.dot(scratch, before))


class KL(_Predictions):
    """KL(before || now) of the last position's predictions."""

    def _look(self, lane: Step, steps: int) -> float:
        now, before = self._log_softmax(lane.logits(steps)[-1])
        return self._divergence(now, before)


class GatedKL(KL):
    """`kl`, looked at only where the states have all but settled: the gate saves coda passes."""

    GATE = 0.3  # of `latent-diff`'s value

    def _look(self, lane: Step, steps: int) -> float:
        if float(lane.change.mean()) >= self.GATE:
            return float("inf")
        return super()._look(lane, steps)


class MinPKL(_Predictions):
    """`kl`, of predictions whose unlikely tokens (under 0.1 of the likeliest) are made 1/V."""

    CUT = 0.1

    def _look(self, lane: Step, steps: int) -> float:
        now, before = self._log_softmax(lane.logits(steps)[-1])
        np.exp(now, out=now)
        now[now < self.CUT * now.max()] = 1 / len(now)
        now /= now.sum()
        np.log(now, out=now)
        return self._divergence(now, before)


class EntropyDiff(_Predictions):
    """|H_t - H_(t-1)|, the entropy of the last position's predictions in nats; at first 100."""

    def start(self, first: int, size: int) -> None:
        super().start(first, size)
        self._entropy = 100.0

    def _look(self, lane: Step, steps: int) -> float:
        logs, _ = self._log_softmax(lane.logits(steps)[-1])
        scratch = self._scratch[: logs.size]
        np.exp(logs, out=scratch)
        entropy = -float(np.dot(scratch, logs))
        value, self._entropy = abs(entropy - self._entropy), entropy
        return value


class ArgmaxStability:
    """How many looks in a row found the same token likeliest as the look before."""

    patience = 1
    every_step = False

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.start(0, 1)

    def start(self, first: int, size: int) -> None:
        self._top, self._stable = -1, 0

    def measure(self, lane: Step, steps: int, first: int) -> Floats:
        top = int(lane.logits(steps)[-1].argmax())
        self._stable = self._stable + 1 if top == self._top else 0
        self._top = top
        return np.array([self._stable], np.float32)

    def combine(self, values: Floats) -> Floats:
        return values  # of the last position alone

    def content(self, values: Floats) -> Bools:
        return values >= self.threshold


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

    def measure(self, lane: Step, steps: int, first: int) -> Floats:
        assert lane.exit_probability is not None
        leaving = lane.exit_probability[0]
        stayed = self._stayed[first : first + len(leaving)]
        stayed *= 1 - leaving
        return 1 - stayed

    def combine(self, values: Floats) -> Floats:
        least: Floats = values.min(keepdims=True)
        return least

    def content(self, values: Floats) -> Bools:
        return values >= self.threshold


@dataclass(frozen=True, slots=True)
class RuleKind:
    """How a rule is made (from threshold and vocabulary size), and what its threshold may be."""

    make: Callable[[float, int], ExitRule]
    default: float
    low: float
    high: float
    #: Whether it decodes the last position's state at every look, which costs a pass of the coda.
    decodes: bool = False
    #: Whether it needs a model whose core has a gate.
    gated: bool = False


RULES = {
    "latent-diff": RuleKind(lambda threshold, _: LatentDiff(threshold), 0.03, 0, 10),
    "acceleration": RuleKind(lambda threshold, _: Acceleration(threshold), 0.03, 0, 10),
    "cosine": RuleKind(lambda threshold, _: Cosine(threshold), 1e-3, 0, 2),
    "kl": RuleKind(KL, 1e-3, 0, 100, True),
    "gated-kl": RuleKind(GatedKL, 1e-3, 0, 100, True),
    "minp-kl": RuleKind(MinPKL, 1e-5, 0, 100, True),
    "entropy-diff": RuleKind(EntropyDiff, 1e-3, 0, 100, True),
    "argmax-stability": RuleKind(lambda threshold, _: ArgmaxStability(threshold), 5, 1, 1024, True),
    "gate": RuleKind(lambda threshold, _: Gate(threshold), 0.9, 0, 1, gated=True),
}


def rules_for(config: ModelConfig) -> list[str]:
    """Return the names of the rules that a model can use."""
    has_gate = config.recurrence.exit_threshold is not None
    return [name for name, kind in RULES.items() if has_gate or not kind.gated]
