"""Choosing the next token from logits: a sampler is made once and called in the loop.

Every random draw is a pure function of (seed, position), so that replay and speculation draw the
same.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.config.sampling import Sampling
from rdlite.decode.logit_rules import LogitRule, Penalties
from rdlite.errors import InputError, RuntimeFailure
from rdlite.ort.rng import TOKENS, generator_at
from rdlite.utils.checks import check_seed

Floats = npt.NDArray[np.float32]


class Sampler:
    """Chooses token ids for one text. Not thread-safe: it remembers which tokens the text has."""

    def __init__(
        self,
        sampling: Sampling,
        vocab_size: int,
        seed: int,
        top: int = 0,
        rules: Sequence[LogitRule] = (),
    ) -> None:
        """Keep the log-probabilities of so many tokens, `top`, of each choice.

        `rules` change the logits last, before the temperature, in their order.
        """
        #: Of the last choice: the likeliest tokens and their log-probabilities.
        self.alternatives: tuple[tuple[int, float], ...] = ()
        self.vocab_size = vocab_size
        self._top = min(top, vocab_size)
        self._sampling = sampling
        self._seed = check_seed(seed)
        self._work = np.empty(vocab_size, np.float32)
        self._seen: npt.NDArray[np.bool_] | None = None
        if sampling.repetition_penalty != 1:
            self._seen = np.zeros(vocab_size, np.bool_)
        self._rules = list(rules)
        if sampling.frequency_penalty or sampling.presence_penalty:
            frequency, presence = sampling.frequency_penalty, sampling.presence_penalty
            self._rules.insert(0, Penalties(frequency, presence, vocab_size))
        self._bias_ids = np.array(list(sampling.logit_bias or ()), np.int64)
        self._bias = np.array(list((sampling.logit_bias or {}).values()), np.float32)
        if self._bias_ids.size and self._bias_ids.max() >= vocab_size:
            raise InputError(
                f"logit_bias names token {self._bias_ids.max()}; ids go up to {vocab_size - 1}"
            )

    def begin(self, prompt: Sequence[int]) -> None:
        """Tell what stands before the first token that is chosen."""
        self.accept(prompt)
        for rule in self._rules:
            rule.begin(len(prompt))

    def accept(self, ids: Iterable[int]) -> None:
        """Tell which tokens are in the text, for the repetition penalty."""
        if self._seen is not None:
            self._seen[list(ids)] = True

    def __call__(self, logits: Floats, position: int) -> tuple[int, float]:
        """Choose the token that stands at `position`, and remember it.

        Args:
            logits: float32 [V]; left as it is.
            position: where the chosen token will stand in the text; selects the random draw.

        Returns:
            The token id, and its log-probability (natural) under the model's own distribution,
            before bias, penalty, temperature and filters.

        Raises:
            RuntimeFailure: no logit is a finite number.
        """
        token = self._choose(logits, position)
        return token, self.commit(logits, token, position)

    def commit(self, logits: Floats, token: int, position: int) -> float:
        """Remember a token that was chosen from these logits; returns its log-probability."""
        self.accept((token,))
        for rule in self._rules:
            rule.chose(token, position)
        if self._top:
            ids = likeliest(logits, self._top)
            logs = logits[ids].astype(np.float64) - log_sum(logits)
            self.alternatives = tuple(zip(ids.tolist(), logs.tolist(), strict=True))
        return log_probability(logits, token)

    def guess(self, logits: Floats, position: int) -> int:
        """Choose like a call does, for a draft: it is remembered only until a call chooses."""
        token = self._choose(logits, position)
        for rule in self._rules:
            rule.guessed(token, position)
        return token

    def _choose(self, logits: Floats, position: int) -> int:
        if not np.isfinite(logits.max()):
            raise RuntimeFailure(
                "the model's logits are not numbers; its weights are broken, or its depth unstable"
            )
        work = self._work
        np.copyto(work, logits)
        if self._bias_ids.size:
            work[self._bias_ids] += self._bias
        if self._seen is not None:
            penalty = np.float32(self._sampling.repetition_penalty)
            seen = work[self._seen]
            work[self._seen] = np.where(seen > 0, seen / penalty, seen * penalty)
        for rule in self._rules:
            rule.apply(work, position)
        return self._draw(work, position) if self._sampling.temperature else int(work.argmax())

    def _draw(self, work: Floats, position: int) -> int:
        sampling = self._sampling
        ids: npt.NDArray[np.int64] | None = None  # None: all of them, in order
        if 0 < sampling.top_k < work.size:
            ids = likeliest(work, sampling.top_k)
            work = work[ids]
        with np.errstate(over="ignore"):  # a tiny temperature leaves the likeliest alone
            chances = np.exp((work.astype(np.float64) - work.max()) / sampling.temperature)
        if sampling.top_p < 1:
            keep = _nucleus(chances, sampling.top_p)
            ids, chances = keep if ids is None else ids[keep], chances[keep]
        if sampling.min_p:
            chances[chances < sampling.min_p * chances.max()] = 0
        cumulative = chances.cumsum()
        draw = generator_at(self._seed, position, TOKENS).random() * cumulative[-1]
        index = min(int(np.searchsorted(cumulative, draw, side="right")), cumulative.size - 1)
        return index if ids is None else int(ids[index])


def likeliest(values: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Return the indices of the `count` largest values, largest first; of equal ones the first."""
    least = np.partition(values, -count)[-count]
    indices = np.flatnonzero(values >= least)
    order = np.argsort(-values[indices], kind="stable")
    return indices[order[:count]]


def _nucleus(chances: npt.NDArray[np.float64], top_p: float) -> npt.NDArray[np.int64]:
    """Indices of the fewest chances that sum to `top_p` of all, the likeliest first."""
    wanted, count = top_p * chances.sum(), min(256, chances.size)
    while True:  # sorting a whole vocabulary for the few tokens that matter takes milliseconds
        indices = likeliest(chances, count)
        sums = chances[indices].cumsum()
        if sums[-1] >= wanted or count == chances.size:
            return indices[: int(np.searchsorted(sums, wanted)) + 1]
        count = min(16 * count, chances.size)


def log_probability(logits: Floats, token: int) -> float:
    """Return a token's natural log-probability under the model's own distribution."""
    return float(logits[token]) - log_sum(logits)


def log_sum(logits: Floats) -> float:
    """Return the natural logarithm of the sum of the exponentials of logits [V]."""
    top = logits.max()
    return float(top) + float(np.log(np.exp(logits - top).sum()))
