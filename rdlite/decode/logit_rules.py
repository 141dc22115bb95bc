"""Rules that change one text's logits before the sampler's filters: penalties, no early end.

A rule is told where the answer begins, changes a row of logits, and is told what was chosen. The
same row may be asked for again, for drafts: only what was chosen counts.
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
#: Below every logit, and yet a number: a constraint may leave nothing else.
NEVER = np.float32(-1e30)


class LogitRule(Protocol):
    """Changes the logits of one text. Not thread-safe: each generation has its own."""

    def begin(self, position: int) -> None:
        """Start an answer whose first token stands at `position`."""

    def apply(self, logits: Floats, position: int) -> None:
        """Change the logits, float32 [V], of the token that is to stand at `position`."""

    def chose(self, token: int, position: int) -> None:
        """Remember the token that stands at `position` from now on."""

    def guessed(self, token: int, position: int) -> None:
        """Take a draft for the token at `position`, so that the one after it can be drafted."""


class Penalties:
    """Subtracts from the logits of tokens that the answer has already, as OpenAI's API does."""

    def __init__(self, frequency: float, presence: float, vocab_size: int) -> None:
        """Count nothing yet.

        Args:
            frequency: subtracted for each time that the answer has the token.
            presence: subtracted once, if it has it.
            vocab_size: size V of the vocabulary.
        """
        self._frequency = np.float32(frequency)
        self._presence = np.float32(presence)
        self._penalty = np.zeros(vocab_size, np.float32)
        self._has = np.zeros(vocab_size, np.bool_)

    def begin(self, position: int) -> None:
        """Forget what was counted."""
        self._penalty.fill(0)
        self._has.fill(False)

    def apply(self, logits: Floats, position: int) -> None:
        """Subtract the penalties."""
        logits -= self._penalty

    def chose(self, token: int, position: int) -> None:
        """Count a token."""
        if not self._has[token]:
            self._has[token] = True
            self._penalty[token] = self._presence
        self._penalty[token] += self._frequency

    def guessed(self, token: int, position: int) -> None:
        """Drafts are not counted."""


class MinTokens:
    """Lets no stop token be chosen before an answer has so many tokens."""

    def __init__(self, least: int, stop_ids: Iterable[int]) -> None:
        """Bar `stop_ids` from the first `least` tokens."""
        self._least = least
        self._stop_ids = np.array(sorted(stop_ids), np.int64)
        self._first = 0

    def begin(self, position: int) -> None:
        """Start an answer at `position`."""
        self._first = position

    def apply(self, logits: Floats, position: int) -> None:
        """Bar stop tokens, unless the answer is long enough."""
        if position - self._first < self._least:
            logits[self._stop_ids] = NEVER

    def chose(self, token: int, position: int) -> None:
        """Positions are enough to know."""

    def guessed(self, token: int, position: int) -> None:
        """Positions are enough to know."""
