"""Exit rules that look at the last position's predictions. Pure NumPy."""

import numpy as np

from rdlite.exit.latent import Below
from rdlite.exit.protocols import Bools, Floats, Step


class _Predictions(Below):
    """Rules that compare what the last position predicts with what it predicted before."""

    def __init__(self, threshold: float, vocab_size: int) -> None:
        super().__init__(threshold)
        self._logs = np.zeros((2, vocab_size), np.float32)
        self._scratch = np.zeros(vocab_size, np.float32)
        self._looks = 0

    def start(self, first: int, size: int) -> None:
        """Forget the looks before."""
        self._looks = 0

    def measure(self, runner: Step, steps: int, first: int) -> Floats:
        return np.array([self._look(runner, steps)], np.float32)

    def _look(self, runner: Step, steps: int) -> float:
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

    def _look(self, runner: Step, steps: int) -> float:
        now, before = self._log_softmax(runner.logits(steps)[-1])
        return self._divergence(now, before)


class GatedKL(KL):
    """`kl`, looked at only where the states have all but settled: the gate saves coda passes."""

    GATE = 0.3  # of `latent-diff`'s value

    def _look(self, runner: Step, steps: int) -> float:
        if float(runner.change.mean()) >= self.GATE:
            return float("inf")
        return super()._look(runner, steps)


class MinPKL(_Predictions):
    """`kl`, of predictions whose unlikely tokens (under 0.1 of the likeliest) are made 1/V."""

    CUT = 0.1

    def _look(self, runner: Step, steps: int) -> float:
        now, before = self._log_softmax(runner.logits(steps)[-1])
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

    def _look(self, runner: Step, steps: int) -> float:
        logs, _ = self._log_softmax(runner.logits(steps)[-1])
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

    def measure(self, runner: Step, steps: int, first: int) -> Floats:
        top = int(runner.logits(steps)[-1].argmax())
        self._stable = self._stable + 1 if top == self._top else 0
        self._top = top
        return np.array([self._stable], np.float32)

    def combine(self, values: Floats) -> Floats:
        return values  # of the last position alone

    def is_met(self, values: Floats) -> Bools:
        return values >= self.threshold
